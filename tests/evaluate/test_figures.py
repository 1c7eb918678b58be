"""Pictures: the same bytes again, no colour of their own, no style, and words beside them."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest

from smallhold.errors import MissingExtraError
from smallhold.evaluate import figures, svg
from smallhold.evaluate.svg import Picture
from smallhold.evaluate.timeline import evidence_at, most_cited, timeline_picture

pytest.importorskip("matplotlib", reason="pictures need matplotlib, the extra 'report'")

Draw = Callable[[dict[str, Any], bool], Picture]
PICTURES: dict[str, Draw] = {
    "ROC curve": lambda r, s: figures.roc_picture("a", r["curves"]["48"], {"shipped": 0.848}, is_simulated=s),
    "Precision and recall": lambda r, s: figures.precision_recall_picture(
        "b", r["curves"]["48"], {"shipped": 0.41}, prevalence=0.14, is_simulated=s
    ),
    "Reliability": lambda r, s: figures.reliability_picture("c", r["curves"]["48"], is_simulated=s),
    "Paired differences in AUROC": lambda r, s: figures.difference_picture(
        "d", r["differences"], "AUROC", is_simulated=s
    ),
    "Bytes in the bundle": lambda r, s: figures.sizes_picture("e", r["bundle"]["files"], is_simulated=s),
    "Time per decision": lambda r, s: figures.latency_picture(
        "f", r["latency"]["histogram"], r["latency"]["append_decide_ms"], is_simulated=s
    ),
    "Training loss": lambda r, s: figures.loss_picture("g", r["training"]["loss"], is_simulated=s),
    "Patient stay-17: hour by hour": lambda r, s: timeline_picture("h", r["patient"], is_simulated=s),
}


@pytest.fixture(params=list(PICTURES.items()), ids=lambda item: str(item[0]))
def titled(request: pytest.FixtureRequest) -> tuple[str, Draw]:
    pair: tuple[str, Draw] = request.param
    return pair


def test_pictures_are_well_formed_and_name_themselves(titled: tuple[str, Draw], result: dict[str, Any]) -> None:
    title, draw = titled
    picture = draw(result, False)
    root = ElementTree.fromstring(picture.svg)
    assert picture.title == title
    assert (root.get("role"), root.get("aria-label")) == ("img", title)
    assert root.findtext("{http://www.w3.org/2000/svg}title") == title
    assert root.findtext("{http://www.w3.org/2000/svg}desc") == picture.description
    assert re.search(r"\d", picture.description)


def test_pictures_are_the_same_bytes_again(titled: tuple[str, Draw], result: dict[str, Any]) -> None:
    assert titled[1](result, False) == titled[1](result, False)


def test_pictures_leave_every_colour_to_the_page(titled: tuple[str, Draw], result: dict[str, Any]) -> None:
    drawn = titled[1](result, True).svg
    assert set(re.findall(r'(?:fill|stroke)="([^"]*)"', drawn)) <= {
        "none",
        *(f"var({variable})" for variable in svg._VARIABLES.values()),
    }
    assert " style=" not in drawn and "<style" not in drawn and "font-family" not in drawn
    assert not re.search(r"\d{4}-\d\d-\d\d", drawn)


def test_ids_are_unique_per_picture_and_every_reference_is_met(
    titled: tuple[str, Draw], result: dict[str, Any]
) -> None:
    drawn = titled[1](result, False).svg
    ids = re.findall(r' id="([^"]+)"', drawn)
    assert len(ids) == len(set(ids))
    assert {found[0][0] for found in ids} <= set("abcdefgh")
    assert set(re.findall(r'href="#([^"]+)"', drawn) + re.findall(r"url\(#([^)]+)\)", drawn)) <= set(ids)


def test_simulated_stands_in_title_and_drawing(titled: tuple[str, Draw], result: dict[str, Any]) -> None:
    picture = titled[1](result, True)
    assert picture.title.endswith("(simulated)")
    assert ">simulated data</text>" in picture.svg
    assert "simulated" not in titled[1](result, False).svg


def test_a_users_own_style_does_not_change_a_picture(result: dict[str, Any]) -> None:
    import matplotlib

    draw = PICTURES["Training loss"]
    before = draw(result, False)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20}):
        assert draw(result, False) == before


def test_series_differ_in_dash_and_marker_as_well_as_colour() -> None:
    looks = list(figures._LOOK.values())
    for part in range(3):
        assert len({str(one[part]) for one in looks}) == len(looks)


def test_hostile_names_stay_text(result: dict[str, Any]) -> None:
    hostile = '<script>alert(1)</script>" onload="x'
    curves = {hostile: result["curves"]["48"]["shipped"]}
    drawn = figures.roc_picture("a", curves, {hostile: 0.5}, is_simulated=False).svg
    root = ElementTree.fromstring(drawn)
    assert not [item for item in root.iter() if item.tag.endswith("script") or item.get("onload")]
    assert hostile in "".join(root.itertext())


def test_dollar_signs_are_not_read_as_mathematics(result: dict[str, Any]) -> None:
    curves = {"cost $x$": result["curves"]["48"]["shipped"]}
    assert "cost $x$" in figures.roc_picture("a", curves, {}, is_simulated=False).svg


def test_small_files_are_drawn_together() -> None:
    files: Any = [{"path": f"f{i}", "bytes": 10 + i, "role": ""} for i in range(12)]
    picture = figures.sizes_picture("e", files, is_simulated=False)
    assert "5 smaller files 60 B" in picture.description
    assert picture.description.startswith("186 B in 12 files. f11 21 B")


def test_timeline_tells_the_stay_in_words(result: dict[str, Any]) -> None:
    words = timeline_picture("h", result["patient"], is_simulated=False).description
    assert "high priority from floor at hour 2: NEWS2 7: emergency assessment" in words
    assert "highest 0.40 at hour 2" in words
    assert "abstained in 1 of 2 hours" in words


def test_timeline_of_an_empty_stay_is_drawn() -> None:
    assert timeline_picture("h", {}, is_simulated=True).description == "0 signals over 0 hours. No alert."


def test_evidence_is_that_of_the_last_decision_before_the_alert(result: dict[str, Any]) -> None:
    risk = result["patient"]["risk"]
    assert [item["code"] for item in evidence_at(risk, 2.5)] == ["HR"]
    assert evidence_at(risk, 1.5) == evidence_at(risk, 0) == []
    assert most_cited(risk) == ["HR"]


def test_without_matplotlib_the_message_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['matplotlib.style'] = None\n"
        "from smallhold.evaluate.figures import loss_picture\n"
        "from smallhold.errors import MissingExtraError\n"
        "try:\n    loss_picture('g', [[0, 1.0]], is_simulated=False)\n"
        "except MissingExtraError as error:\n    print(error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "pip install 'smallhold[report]'"


def test_importing_the_report_does_not_import_matplotlib() -> None:
    script = "import sys, smallhold.evaluate.report; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


def test_missing_extra_is_an_error_of_ours() -> None:
    assert "Drawing the report's figures" in str(
        MissingExtraError("matplotlib", "report", "Drawing the report's figures")
    )
