"""Requests by language: translations stay in one part, rows that are none are refused, several labels are learnt."""

import json
from dataclasses import replace

import numpy as np
import pytest

from smallhold.errors import DataError
from smallhold.federate.assistant_intent import INTENTS, LANGUAGES, NAME, NUM_FEATURES, load_rows
from smallhold.federate.job import read_job
from smallhold.federate.local_model import Rows
from smallhold.federate.tasks import find_federated_task
from smallhold.sectors.splits import Split

WORDS = {"alarm/set_alarm": "wake me at {n}", "weather/find": "will it rain on day {n}"}


def write(folder, rows):
    (folder / NAME).mkdir()
    (folder / NAME / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def requests():
    """The same requests in every language; the English ones name no translation."""
    return [
        {
            "lang": lang,
            "text": f"{lang} {text}" if lang != "en" else text,
            "text_en": "" if lang == "en" else text,
            "intent": intent,
        }
        for lang in (*LANGUAGES, "zh")
        for intent, words in WORDS.items()
        for text in (words.format(n=n) for n in range(40))
    ]


def test_a_request_and_its_translations_lie_in_one_part(tmp_path):
    data = write(tmp_path, requests())
    parts = {part: load_rows(data, part) for part in Split}
    for part, sites in parts.items():
        assert list(sites) == list(LANGUAGES), part
        groups = {site: set(rows.group) for site, rows in sites.items()}
        assert all(groups[site] == groups["en"] for site in LANGUAGES)
    assert sum(len(sites["en"]) for sites in parts.values()) == 80
    one = parts[Split.TRAIN]["de"]
    assert one.inputs["features"].shape == (len(one), NUM_FEATURES)
    assert np.linalg.norm(one.inputs["features"], axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_shipped_job_learns_intents(tmp_path):
    data = write(tmp_path, requests())
    job = read_job("assistant-intent")
    task = find_federated_task(job.task)
    model = task.model(job)
    everyone = Rows.together(list(task.rows(job, data, Split.TRAIN).values()))
    vector = model.train(model.initial(0), everyone, replace(job.local, epochs=2.0), 0).model
    held_out = task.rows(job, data, Split.TEST)["de"]
    assert (model.predict(vector, held_out).argmax(1) == held_out.label).all()
    assert set(held_out.label) == {INTENTS.index(intent) for intent in WORDS}


@pytest.mark.parametrize("change", [{"intent": "sing"}, {"text": None}, {"gone": "lang"}])
def test_a_row_that_is_none_is_refused_by_file_and_line(tmp_path, change):
    row = requests()[0] | change
    row.pop(change.get("gone", "gone"), None)
    with pytest.raises(DataError, match=r"all\.jsonl, line 2: not a row of xsid_multilingual"):
        data = write(tmp_path, [requests()[0], row])
        for part in Split:
            load_rows(data, part)
