"""The terminal's table fits, says what it is, and shows sensible digits."""

from __future__ import annotations

from typing import Any

import pytest

from smallhold.evaluate.tables import format_bytes, format_difference, format_milliseconds, format_share, format_table


def test_table_shows_the_verdict_first_and_every_model(result: dict[str, Any]) -> None:
    text = format_table(result)  # type: ignore[arg-type]
    assert text.startswith("The shipped model does not beat the boosted trees")
    assert [line.split()[0:3] for line in text.splitlines() if line.startswith(("48", " 6"))] == [
        ["6", "h", "news2"],
        ["48", "h", "news2"],
    ]
    assert ".848 .818-.878" in text  # shipped, 48 h
    assert "Not a medical device." in text
    assert "simulated" not in text.lower()


def test_table_says_simulated_in_verdict_heading_and_note(result: dict[str, Any]) -> None:
    text = format_table({**result, "is_simulated": True})  # type: ignore[typeddict-item]
    assert text.startswith("On simulated patients")
    assert "960 simulated patients" in text
    assert "says nothing about clinical value" in text


def test_table_ends_with_what_is_left_of_the_promise_for_patients_that_calibration_never_saw(
    result: dict[str, Any],
) -> None:
    text = " ".join(format_table(result).splitlines())  # type: ignore[arg-type]
    assert 'never saw: promised 0.900, missed in 1 of 1 counts: medical, "no" at 6 h. Not a medical device.' in text
    for row in result["shift"]["groups"][0]["rows"]:
        row["is_too_small"] = True
    assert "never saw: too few patients to say." in " ".join(format_table(result).splitlines())  # type: ignore[arg-type]
    del result["shift"]
    assert "never saw" not in format_table(result)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["m", "a-model-with-a-name-that-nobody-would-give-" * 3])
def test_table_fits_100_columns_whatever_the_names(result: dict[str, Any], name: str) -> None:
    result["rows"][0]["model"] = name
    assert max(map(len, format_table(result).splitlines())) <= 100  # type: ignore[arg-type]


def test_table_of_a_text_task_shows_accuracy_and_no_hours(result: dict[str, Any]) -> None:
    score = {"value": 0.904, "low": 0.89, "high": 0.92}
    rows = [{"horizon_h": None, "model": "shipped", "n": 3080, "accuracy": score, "macro_f1": score}]
    text = format_table({**result, "rows": rows, "differences": []})  # type: ignore[typeddict-item]
    assert "accuracy" in text
    assert ".904 .890-.920" in text
    assert "AUROC" not in text


def test_numbers_have_sensible_digits() -> None:
    assert [format_share(0.82849), format_share(None), format_share(float("nan"))] == ["0.828", "–", "–"]
    assert [format_difference(-0.0042), format_difference(0.01)] == ["−0.004", "+0.010"]
    assert [format_bytes(n) for n in (0, 1_000, 12_345, 2_340_112, 3.5e9)] == [
        "0 B",
        "1.00 kB",
        "12.3 kB",
        "2.34 MB",
        "3.50 GB",
    ]
    assert [format_milliseconds(ms) for ms in (0.0521, 8.314, 41.26, 312.7)] == [
        "0.05 ms",
        "8.31 ms",
        "41.3 ms",
        "313 ms",
    ]
