"""The folder that is filed: complete, honest in words, and any later change shows."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from smallhold.errors import InputError
from smallhold.evaluate.report_folder import write_report_folder
from smallhold.evaluate.sheets import datasheet, intended_use, sheet_html, sheet_markdown
from smallhold.sectors.catalogue import KNOWN

NAMES = {"report.html", "result.json", "datasheet.md", "intended_use.md", "index.txt"}


def test_the_index_lists_every_file_with_its_digest(result: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib, the extra 'report'")
    (tmp_path / "notes.txt").write_text("somebody's own")
    index = write_report_folder(result, tmp_path)  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.iterdir()} == NAMES | {"notes.txt"}
    listed = dict(reversed(line.split("  ")) for line in index.read_text().splitlines())
    assert set(listed) == NAMES - {"index.txt"}
    for name, digest in listed.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert json.loads((tmp_path / "result.json").read_text()) == result


def test_a_result_that_is_refused_leaves_no_folder(result: dict[str, Any], tmp_path: Path) -> None:
    del result["num_patients"]
    with pytest.raises(InputError, match="lacks num_patients or num_texts"):
        write_report_folder(result, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_data_sheet_says_what_is_known_of_every_data_set(result: dict[str, Any]) -> None:
    result["bundle"]["training_data"] = ["symptom2disease", "of my own"]
    text = sheet_markdown(datasheet(result))  # type: ignore[arg-type]
    for known in KNOWN:
        is_named = known.name in ("physionet2012_icu", "symptom2disease")
        assert (known.licence in text and all(source in text for source in known.sources)) or not is_named
    assert "Collection: of my own" in text and "Nothing is recorded here" in text
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    for expected in ("Motivation", "Composition", "Collection", "Preprocessing", "Uses", "Distribution", "Maintenance"):
        assert any(heading.startswith(expected) for heading in headings), expected
    assert "women 420, 60 died" in text and "cardiac surgery recovery 185, 6 died" in text


def test_patient_data_in_the_folder_are_announced_only_when_they_are_there(result: dict[str, Any]) -> None:
    assert "hold one stay in full" in sheet_markdown(intended_use(result))  # type: ignore[arg-type]
    del result["patient"]
    assert "hold one stay in full" not in sheet_markdown(intended_use(result))  # type: ignore[arg-type]


def test_simulated_and_not_a_device_stand_first(result: dict[str, Any]) -> None:
    result["is_simulated"] = True
    text = sheet_markdown(intended_use(result))  # type: ignore[arg-type]
    first = text.split("## ")[0]
    assert "Not a medical device" in first and "says nothing about clinical value" in first


def test_what_a_task_says_of_itself_is_escaped(result: dict[str, Any]) -> None:
    result["intended_use"] = "<script>alert(1)</script>"
    assert "<script>" not in sheet_html(intended_use(result))  # type: ignore[arg-type]
