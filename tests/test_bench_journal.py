"""The bench of the journal, small: every change that it plants is found."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the bench is no part of the package

from bench.journal_million import PLANTS, measure


def test_every_planted_change_of_a_journal_is_found(tmp_path) -> None:
    figures = measure(tmp_path, entries=5000, positions=6, whole=1, payload_bytes=100, sample=500)
    assert figures["entries"] == 5000 and figures["untouched"] == figures["untouched_afterwards"] == "intact"
    assert set(figures["changes"]) == set(PLANTS)
    for name, tally in figures["changes"].items():
        assert (tally["planted"], tally["found"], tally["found_by_whole_verification"]) == (6, 6, 1), name
