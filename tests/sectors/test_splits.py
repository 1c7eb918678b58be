import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.sectors.splits import Split, split_of


@pytest.mark.parametrize(
    ("data_set", "group", "part"),
    [
        ("physionet2012_icu", "100001", Split.TRAIN),
        ("simulated_ward", "sim-0-00000", Split.TRAIN),
        ("simulated_ward", "sim-0-00002", Split.CALIBRATION),
        ("simulated_ward", "sim-0-00011", Split.VALIDATION),
        ("simulated_ward", "sim-0-00008", Split.TEST),
    ],
)
def test_published_values_never_change(data_set, group, part):
    assert split_of(data_set, group) is part


def test_shares_are_seventy_ten_ten_ten():
    parts = Counter(split_of("physionet2012_icu", str(number)) for number in range(20_000))
    # Four standard deviations of a binomial count: sqrt(20000 * .7 * .3) = 65, sqrt(20000 * .1 * .9) = 42.
    assert abs(parts[Split.TRAIN] - 14_000) < 260
    for part in (Split.CALIBRATION, Split.VALIDATION, Split.TEST):
        assert abs(parts[part] - 2_000) < 170


def test_another_data_set_splits_independently():
    same = sum(split_of("a", str(i)) == split_of("b", str(i)) for i in range(5_000))
    assert abs(same / 5_000 - 0.52) < 0.03  # .7^2 + 3 * .1^2


@given(st.text(max_size=30), st.text(max_size=30))
def test_the_part_is_the_digest_written_out_in_the_documentation(data_set, group):
    digest = hashlib.sha256((data_set + "|" + group).encode()).hexdigest()
    tenth = int(digest[:16], 16) % 10
    expected = ["train"] * 7 + ["calibration", "validation", "test"]
    assert split_of(data_set, group) == expected[tenth]
