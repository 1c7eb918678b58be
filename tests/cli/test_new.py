import json

import pytest


def test_a_new_sector_is_written_and_its_rows_are_checked(smallhold, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = smallhold("new", "sector", "city-desk")
    assert (done.code, done.out) == (0, "sectors/city-desk\n")
    assert done.err == "next: smallhold new check sectors/city-desk --data sectors/city-desk/data\n"
    done = smallhold(*done.err.split()[2:])  # the command that it named
    assert done.code == 0, done.err
    assert "city-desk-topic: simulated_city_desk (en, trains, simulated)" in done.out
    assert "every row was read as declared" in done.err


def test_check_counts_parts_and_choices_without_training_rows(smallhold, tmp_path) -> None:
    rows = [{"t": f"text {n}", "y": n % 2} for n in range(50)] + [{"t": "only", "y": 2}]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "sector"
    words = ["--from", tmp_path / "mine", "--text", "t", "--label", "y", "--language", "fr", "--out", out]
    assert json.loads(smallhold("new", "sector", "own", *words, "--json").out)["data"] == str(tmp_path)
    (row,) = json.loads(smallhold("new", "check", out, "--data", tmp_path, "--json").out)
    assert sum(row["parts"].values()) == 51
    assert (row["task"], row["language"], row["choices"], row["is_simulated"]) == ("own-y", "fr", 3, False)
    from smallhold.sectors.splits import Split, split_of

    assert row["untrained"] == ([] if split_of("mine", "only") is Split.TRAIN else ["2"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sector", "hospital"], "a sector of that name comes with the package"),
        (["sector", "x", "--label", "y"], "expected --from DIR beside them"),
        (["sector", "x", "--from", "gone"], "expected --text MEMBER and --label MEMBER"),
        (["sector", "x", "--from", "gone", "--text", "t", "--label", "y"], "gone: expected at least one file"),
        (["check", "gone"], "sector 'gone': expected one of finance, hospital, or a folder"),
    ],
)
def test_what_cannot_be_done_is_one_message(smallhold, tmp_path, monkeypatch, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    done = smallhold("new", *words)
    assert (done.code, done.out) == (1, "")
    assert message in done.err and "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []
