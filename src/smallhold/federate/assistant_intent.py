"""What somebody wants of an assistant, where every site speaks another language.

Source of the data: xSID 0.7 (van der Goot et al. 2021), the same requests in many languages. A request and its
translations lie in one part of the split, so that no site has been taught another's test rows in its own words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from smallhold.decide.ngrams import NGramSpec
from smallhold.federate.local_model import Rows
from smallhold.federate.tables import read_sites, rows_of
from smallhold.sectors.splits import Split, split_of
from smallhold.sectors.text_task import normalised_text

NAME = "xsid_multilingual"
LANGUAGES = ("da", "de", "en", "it", "nl", "tr")
INTENTS = (
    "AddToPlaylist",
    "BookRestaurant",
    "PlayMusic",
    "RateBook",
    "SearchCreativeWork",
    "SearchScreeningEvent",
    "alarm/cancel_alarm",
    "alarm/modify_alarm",
    "alarm/set_alarm",
    "alarm/show_alarms",
    "alarm/snooze_alarm",
    "alarm/time_left_on_alarm",
    "reminder/cancel_reminder",
    "reminder/set_reminder",
    "reminder/show_reminders",
    "weather/find",
)
#: Few buckets: an update has a number for each of them and each intent.
SPEC = NGramSpec(word_buckets=256, char_buckets=768)
NUM_FEATURES = SPEC.word_buckets + SPEC.char_buckets
_EVERY_BUCKET_ALIKE = np.ones(NUM_FEATURES, np.float32)  # how often a word occurs, a site would have to show


def load_rows(data_dir: Path | None, part: Split) -> dict[str, Rows]:
    """Rows of one part of the split, by language.

    Raises:
        DataError: the data set is missing or not laid out as documented.
    """

    def read(row: dict[str, Any]) -> tuple[str, list[tuple[list[float], int, str]]] | None:
        if row["lang"] not in LANGUAGES:
            return None
        group = normalised_text(row["text_en"] or row["text"])  # English rows have no translation
        if split_of(NAME, group) != part:
            return None
        return row["lang"], [(_features(row["text"]), INTENTS.index(row["intent"]), group)]

    return {site: rows_of(rows) for site, rows in read_sites(NAME, data_dir, read).items()}


def _features(text: str) -> list[float]:
    found = np.zeros(NUM_FEATURES, np.float32)
    buckets, values = SPEC.features(text, _EVERY_BUCKET_ALIKE)
    found[buckets] = values
    return found.tolist()
