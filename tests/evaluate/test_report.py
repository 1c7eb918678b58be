"""The page: verdict first, self-contained, escaped, honest about simulation."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from smallhold.errors import InputError
from smallhold.evaluate.report import render_report, write_report

pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib, the extra 'report'")

_VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use", "rect"}


class Page(HTMLParser):
    """Elements in order, texts by element, and whether every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(result: dict[str, Any]) -> Page:
    return Page(render_report(result))  # type: ignore[arg-type]


def test_first_line_is_the_verdict(real_page: str) -> None:
    body = real_page.split("<body>")[1]
    first = html.unescape(re.sub(r"<[^>]*>", "", body).strip().splitlines()[0]).replace("\xa0", " ")
    assert first == (
        "The shipped model does not beat the boosted trees: it matches them within noise at 6 and 48 h. "
        "It beats NEWS2 at 6 and 48 h."
    )


def test_page_is_well_formed_and_every_id_is_unique(real_page: str) -> None:
    page = Page(real_page)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for key in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(key, ids[0]) in ids
        target = attributes.get("href")
        assert target is None or target.removeprefix("#") in ids


def test_page_loads_nothing_and_runs_nothing(real_page: str) -> None:
    page = Page(real_page)
    assert not {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
    }
    for _, attributes in page.elements:
        assert not {"src", "srcset", "data", "action", "style", "xlink:href"} & attributes.keys()
        assert not [key for key in attributes if key.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    # Only the name of the SVG vocabulary looks like an address; nobody fetches it.
    assert set(re.findall(r"https?://[^\"' <)]+", real_page)) == {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"url\(([^)]*)\)", real_page)) == set(re.findall(r"url\((#[^)]*)\)", real_page))
    assert "@import" not in real_page


def test_policy_allows_exactly_the_style_that_is_there(real_page: str) -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", real_page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'" in real_page


def test_style_defines_every_colour_in_light_and_dark(real_page: str) -> None:
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", real_page))
    light, dark = re.findall(r":root \{(.*?)\}", real_page, re.DOTALL)
    for shades in (light, dark):
        assert used <= set(re.findall(r"(--[a-z0-9-]+):", shades))


def test_tables_have_captions_scopes_and_a_scroller_of_their_own(real_page: str) -> None:
    page = Page(real_page)
    assert len(page.all("caption")) == len(page.all("table")) == real_page.count('tabindex="0"><table')
    assert all(attributes.get("scope") for attributes in page.all("th"))
    assert len(page.all("h1")) == len(page.all("main")) == 1


def test_simulated_stands_in_banner_title_every_caption_and_every_picture(simulated_page: str) -> None:
    page = Page(simulated_page)
    assert "Simulated patients: shows that the machinery works, says nothing about clinical value" in simulated_page
    for tag in ("h1", "title", "caption", "figcaption"):
        assert page.texts[tag]
        assert all("simulated" in words.lower() for words in page.texts[tag]), tag
    assert all("simulated" in (attributes["aria-label"] or "") for attributes in page.all("svg"))


def test_real_patients_are_not_called_simulated(real_page: str) -> None:
    assert "simulated" not in "".join(Page(real_page).texts["body"]).lower()


def test_not_a_medical_device_stands_in_header_and_footer(real_page: str) -> None:
    page = Page(real_page)
    assert all("Not a medical device" in page.texts[tag][0] for tag in ("header", "footer"))


def test_every_text_is_escaped(result: dict[str, Any]) -> None:
    hostile = "\"'><script>alert(1)</script><b onclick=x>&amp;"

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poison(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [poison(item, key) for item in value]
        # Model names stay distinct, so that no row replaces another.
        return hostile + value if isinstance(value, str) and key not in ("priority", "reading") else value

    bad = poison(result)
    bad["curves"] = {"48": {hostile: result["curves"]["48"]["shipped"]}}
    bad["patient"]["alerts"][0]["priority"] = hostile
    page = page_of(bad)
    assert page.open == []
    assert not {tag for tag, _ in page.elements} & {"script", "b"}
    assert not [attributes for _, attributes in page.elements if "onclick" in attributes]
    seen = "".join(page.texts["body"])
    for text in (bad["task"], bad["command"], bad["machine"], bad["bundle"]["name"], bad["patient"]["id"]):
        assert text in seen


def test_same_result_gives_the_same_bytes(result: dict[str, Any], tmp_path: Path) -> None:
    one, other = (write_report(result, tmp_path / name / "report.html") for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()
    assert [path.name for path in one.parent.iterdir()] == ["report.html"]


def test_figures_are_shown_with_three_digits_and_their_interval(real_page: str) -> None:
    assert '<span class="value">0.848</span> <span class="range">0.818–0.878</span>' in real_page
    assert '<span class="value">+0.010</span> <span class="range">−0.002 to +0.030</span>' in real_page
    assert "349.525" not in real_page and "350 MB" in real_page


def test_a_small_group_says_too_few_and_no_number(real_page: str) -> None:
    (row,) = re.findall(r"<tr><th scope=\"row\">cardiac surgery recovery.*?</tr>", real_page)
    assert re.sub(r"<[^>]*>", " ", row).split() == ["cardiac", "surgery", "recovery", "185", "6", "too", "few"]


def test_an_error_is_read_against_chance(real_page: str) -> None:
    section = real_page.split('<section id="calibration"')[1].split("</section>")[0]
    rows = {row.split("<")[0]: row for row in re.findall(r"<th scope=\"row\">(.*?)</tr>", section)}
    assert "within chance" in rows["shipped model"] and "beyond chance" in rows["boosted trees"]
    assert "can promise 80.0% at most" in section


def _cells(section: str) -> list[list[str]]:
    """The texts of every row of figures."""
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", section)
    return [
        [html.unescape(re.sub(r"<[^>]*>", "", item)) for item in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows
    ]


def test_a_promise_is_read_and_abstention_is_shown_for_each_true_answer(real_page: str) -> None:
    section = real_page.split('<section id="calibration"')[1].split("</section>")[0]
    signal, in_words = section.split("The promise in observation words</h3>")
    assert ["yes", "130", "0.920 0.860–0.960", "within", "0.300", "0.080", "1.30"] in _cells(signal)
    assert ["no", "830", "0.850 0.820–0.870", "below", "0.390", "0.150", "1.40"] in _cells(in_words)


def test_patients_that_calibration_never_saw_have_a_section_that_says_what_was_held_out(real_page: str) -> None:
    section = real_page.split('<section id="shift"')[1].split("</section>")[0]
    assert "promised 0.900, missed in 1 of 1 counts: medical, &quot;no&quot; at 6" in section
    assert "Only the calibration is held out" in section
    assert _cells(section) == [
        ["no", "336", "0.817 0.767–0.861", "below", "0.580", "1.56", "0.860", "0.896", "1.54", "0.844"],
        ["yes", "6", "too few"],
    ]
    assert "Held out of calibration: medical, 342 patients, 6 of them died; calibrated on 620 others" in section
    assert "Too few of either outcome are left to calibrate on" in section


def test_burden_tells_threshold_lead_time_and_where_they_come_from(real_page: str) -> None:
    section = real_page.split('<section id="burden"')[1].split("</section>")[0]
    assert "1 alert per 35 patient-days, threshold found on the calibration split" in section
    assert '<span class="value">26&nbsp;h</span> <span class="range">8–37.2</span>' in section
    assert "the end of the record" in section and "not when" in section


def test_another_bundle_is_compared_and_named_by_its_digest(real_page: str) -> None:
    section = real_page.split('<section id="besides"')[1].split("</section>")[0]
    assert "1.80 MB" in section and "abababab" in section
    assert '<td class="better">better</td>' in section


def test_the_page_says_what_it_is_not_for(real_page: str) -> None:
    section = real_page.split('<section id="intended-use"')[1].split("</section>")[0]
    assert "Not intended for" in section and "death in hospital" in section
    assert "hold one stay in full" in section


def test_undefined_figures_are_a_dash(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        row["auroc"] = {"value": None, "low": None, "high": None}
    for item in result["differences"]:
        item["auroc"] = {"value": None, "low": None, "high": None}
    page = page_of(result)
    assert "could not be compared" in page.texts["h1"][0]
    assert "nan" not in "".join(page.texts["body"]).lower().split()


def test_the_least_result_makes_a_page(result: dict[str, Any]) -> None:
    least = {key: result[key] for key in ("task", "split", "data_set", "is_simulated", "num_patients", "rows")}
    page = page_of(least)
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == ["results", "calibration", "intended-use", "reproduce"]
    assert "was not compared with NEWS2" in page.texts["h1"][0]


def test_a_text_task_with_subgroups_makes_a_page(result: dict[str, Any]) -> None:
    score = {"value": 0.9, "low": 0.88, "high": 0.92}
    row = {"horizon_h": None, "model": "shipped", "n": 100, "accuracy": score, "macro_f1": score}
    difference = {
        "horizon_h": None,
        "models": ["shipped", "tfidf"],
        "accuracy": {"value": 0.1, "low": 0.05, "high": 0.2},
    }
    page = page_of(
        {
            **{key: result[key] for key in ("task", "split", "data_set", "is_simulated")},
            "num_texts": 100,
            "rows": [row],
            "differences": [difference],
            "subgroups": [{**row, "attribute": "language", "subgroup": "ru & uk", "n": 40, "is_too_small": False}],
            "classes": [
                {"label": "acne", "n": 30, "precision": 0.9, "recall": 0.8, "f1": 0.847},
                {"label": "malaria", "n": 3, "precision": None, "recall": None, "f1": None},
            ],
            "confusions": [{"truth": "acne", "answer": "malaria", "n": 4}],
            "intended_use": "Sorting.",
            "curves": {"": {"shipped": {"reliability": [[0.2, 0.1, 10.0]]}}},
        }
    )
    assert page.texts["h1"] == ["The shipped model beats TF-IDF."]
    assert "By language" in page.texts["caption"]
    assert "macro-F1" in page.texts["thead"][0]
    words = "".join(page.texts["body"])
    assert "ru & uk" in words and "too few" in words and "Sorting." in words
    assert "patients" not in words


def test_a_result_without_rows_is_refused_and_nothing_is_written(result: dict[str, Any], tmp_path: Path) -> None:
    del result["rows"]
    with pytest.raises(InputError, match="lacks rows"):
        write_report(result, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
