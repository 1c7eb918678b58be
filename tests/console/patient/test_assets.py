"""The files of the page: light, complete, and the same words in three languages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from smallhold.console.patient.assets import load_assets
from smallhold.console.patient.pairing import LANGUAGES
from smallhold.errors import InputError
from smallhold.sectors.hospital.symptoms import load_rules

ASSETS = load_assets(None)
WORDS = {language: json.loads(ASSETS[f"i18n-{language}.json"].data) for language in LANGUAGES}


def test_the_page_weighs_less_than_300_kilobytes_without_the_model() -> None:
    assert sum(len(asset.data) for asset in ASSETS.values()) <= 300_000


def test_every_language_has_the_same_keys_and_the_same_places() -> None:
    for language, words in WORDS.items():
        assert words.keys() == WORDS["en"].keys()
        for key, text in words.items():
            assert text.strip(), (language, key)
            assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", WORDS["en"][key])), (language, key)


def test_every_word_that_the_page_asks_for_is_there() -> None:
    sources = {name: asset.data.decode() for name, asset in ASSETS.items() if name == "" or name.endswith(".js")}
    asked = set(re.findall(r'data-t="([^"]+)"', sources[""]))
    for text in sources.values():
        asked |= set(re.findall(r'words\.t\("([^"]+)"', text))
    assert len(asked) > 60 and asked <= WORDS["en"].keys()
    rules = load_rules()
    assert {f"flag.{name}" for name in rules.phrases} <= WORDS["en"].keys()
    assert {f"condition.{name}" for name in rules.urgency} <= WORDS["en"].keys()


def test_the_worker_keeps_every_file_but_itself_and_changes_with_each() -> None:
    worker = ASSETS["sw.js"].data.decode()
    (listed,) = re.findall(r"const FILES = (\[.*?\]);", worker)
    assert set(json.loads(listed)) == (set(ASSETS) - {"", "sw.js"}) | {"./"}
    assert load_assets(None, has_server_model=True)["sw.js"].data != ASSETS["sw.js"].data


def test_a_model_folder_that_lacks_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bundle\.zip: cannot be read"):
        load_assets(tmp_path)


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    page = ASSETS[""].data.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page)
    for name, asset in ASSETS.items():
        if name != "symptoms.json":  # its sources have addresses
            found = set(re.findall(r"https?://[^\s\"'<>)]+", asset.data.decode())) - {"http://www.w3.org/2000/svg"}
            assert not found, name
