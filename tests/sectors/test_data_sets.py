import json
import sys

import pytest

from smallhold.errors import DataError, MissingExtraError
from smallhold.sectors.data_sets import KNOWN, find_data_set, jsonl_files, known_data_set, read_jsonl

ROWS = [{"n": number, "text": "é" * (number % 7)} for number in range(5_000)]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Four empty places: named directory, $SMALLHOLD_DATA, ./data, cache."""
    for name in ("named", "variable", "work/data", "cache/smallhold/data"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("SMALLHOLD_DATA", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def compressed(data):
    return pytest.importorskip("zstandard", reason="needs zstandard (extra data)").ZstdCompressor().compress(data)


def test_places_are_searched_in_the_documented_order(places):
    order = [places / "variable", places / "work/data", places / "cache/smallhold/data"]
    for place in reversed(order):
        (place / "mine").mkdir()
        assert find_data_set("mine", None).resolve() == (place / "mine").resolve()


def test_a_named_directory_is_never_replaced_by_another(places):
    (places / "variable/mine").mkdir()
    with pytest.raises(DataError, match=r"'mine' not found: expected a folder of that name in .*named$"):
        find_data_set("mine", places / "named")
    (places / "named/mine").mkdir()
    assert find_data_set("mine", places / "named") == places / "named/mine"


def test_absent_data_set_lists_every_place_and_the_next_command(places):
    with pytest.raises(DataError, match=r"variable, data, .*cache/smallhold/data") as caught:
        find_data_set("mine", None)
    assert "smallhold data get mine" in caught.value.hint


def test_without_the_variable_the_rest_is_searched(places, monkeypatch):
    monkeypatch.delenv("SMALLHOLD_DATA")
    (places / "work/data/mine").mkdir()
    assert find_data_set("mine", None).name == "mine"


def test_plain_and_compressed_files_give_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines())
    (tmp_path / "b.jsonl.zst").write_bytes(compressed(lines()))
    # A file may consist of several frames, as `cat a.zst b.zst` makes it.
    (tmp_path / "c.jsonl.zst").write_bytes(compressed(lines(ROWS[:2_000])) + compressed(lines(ROWS[2_000:])))
    (tmp_path / "notes.txt").write_text("not data")
    files = jsonl_files(tmp_path)
    assert [file.name for file in files] == ["a.jsonl", "b.jsonl.zst", "c.jsonl.zst"]
    for file in files:
        assert list(read_jsonl(file)) == ROWS


def test_folder_without_files_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected at least one file \*\.jsonl or \*\.jsonl\.zst, found none"):
        jsonl_files(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": 2}', "line 2: the file is cut short: expected every line to end"),
        (b'{"a": 1}\n{"a": \n', "line 2: expected a JSON object, got a broken object"),
        (b'{"a": 1}\n[1, 2]\n', "line 2: expected a JSON object, got an array"),
        (b'{"a": 1}\n\n{"a": 2}\n', "line 2: expected a JSON object, got an empty line"),
        (b'{"a": NaN}\n', "line 1: .*NaN is not JSON"),
        (b'{"a": "\xff"}\n', "line 1: expected a JSON object"),
        (b"", "expected at least one line, the file is empty"),
    ],
)
def test_a_bad_line_is_named_with_its_file(tmp_path, content, message):
    for name, data in (("x.jsonl", content), ("x.jsonl.zst", compressed(content) if content else b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message) as caught:
            list(read_jsonl(tmp_path / name))
        assert name in str(caught.value)


def test_messages_do_not_repeat_the_content_of_a_row(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"name": "Jane Roe", \n')
    with pytest.raises(DataError) as caught:
        list(read_jsonl(tmp_path / "x.jsonl"))
    assert "Jane" not in str(caught.value)


def test_compressed_file_cut_anywhere_is_refused(tmp_path):
    whole = compressed(lines())
    for kept in range(1, len(whole), max(1, len(whole) // 40)):
        (tmp_path / "x.jsonl.zst").write_bytes(whole[:kept])
        with pytest.raises(DataError, match=r"x\.jsonl\.zst, line \d+: the compressed file is (cut short|corrupt)"):
            list(read_jsonl(tmp_path / "x.jsonl.zst"))


def test_garbage_is_not_taken_for_a_compressed_file(tmp_path):
    for data in (b"not a frame at all", compressed(lines()) + b"trailing rubbish"):
        (tmp_path / "x.jsonl.zst").write_bytes(data)
        with pytest.raises(DataError, match="the compressed file is corrupt"):
            list(read_jsonl(tmp_path / "x.jsonl.zst"))


def test_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl: cannot be read after line 0: No such file"):
        list(read_jsonl(tmp_path / "absent.jsonl"))


def test_without_zstandard_the_message_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "x.jsonl.zst").write_bytes(b"whatever")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match="zstandard") as caught:
        list(read_jsonl(tmp_path / "x.jsonl.zst"))
    assert caught.value.hint == "pip install 'smallhold[data]'"


def test_catalogue_is_complete_and_in_order():
    names = [known.name for known in KNOWN]
    assert names == sorted(set(names))
    for known in KNOWN:
        assert known.what and known.licence and known.sources and known.row


def test_weights_may_not_be_shipped_where_the_licence_or_the_agreement_does_not_allow_it():
    shippable = {known.name for known in KNOWN if known.may_ship_weights}
    assert {"physionet2012_icu", "mimic3_demo_icu", "openstax_medical", "simulated_ward"} <= shippable
    assert not {"rumedbench", "xsid_multilingual", "nsl_kdd", "sepsis2019_snapshots", "medec"} & shippable


def test_unknown_name_lists_the_known_ones():
    assert known_data_set("banking77").licence == "CC BY 4.0"
    with pytest.raises(DataError, match=r"unknown data set 'bank': expected one of .*banking77"):
        known_data_set("bank")
