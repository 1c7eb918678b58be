"""Who was treated for what with which outcome, at hospitals of five regions: rows to count, not to train on.

Source of the data: eICU Collaborative Research Database Demo v2.0. Diagnoses and treatments are paths such as
`cardiovascular|shock / hypotension|septic shock`; a category is a list of what such a path begins with. A stay has any
number of either, and a patient any number of stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from smallhold.device.knowledge import Dimension
from smallhold.federate.eicu_death import NAME, site_of
from smallhold.federate.local_model import Rows
from smallhold.federate.statistics import cells_of, check_answers
from smallhold.federate.tables import read_sites
from smallhold.sectors.splits import Split

_CONDITIONS = {
    "sepsis": (
        "cardiovascular|shock / hypotension|sepsis",
        "cardiovascular|shock / hypotension|septic shock",
        "infectious diseases|systemic/other infections|sepsis",
    ),
    "respiratory-failure": ("pulmonary|respiratory failure|",),
    "pneumonia": (
        "pulmonary|pulmonary infections|pneumonia",
        "infectious diseases|chest/pulmonary infections|pneumonia",
    ),
    "copd-or-asthma": ("pulmonary|disorders of the airways|",),
    "acute-renal-failure": ("renal|disorder of kidney|acute renal failure",),
    "heart-failure": ("cardiovascular|ventricular disorders|congestive heart failure",),
    "arrhythmia": ("cardiovascular|arrhythmias|",),
    "coronary-syndrome": ("cardiovascular|chest pain / ASHD|acute coronary syndrome",),
    "stroke": ("neurologic|disorders of vasculature|stroke",),
    "ketoacidosis": ("endocrine|glucose metabolism|DKA",),
    "gastrointestinal-bleeding": ("gastrointestinal|GI bleeding / PUD|",),
}
_TREATMENTS = {
    "mechanical-ventilation": ("pulmonary|ventilation and oxygenation|mechanical ventilation",),
    "non-invasive-ventilation": ("pulmonary|ventilation and oxygenation|non-invasive ventilation",),
    "vasopressors": ("cardiovascular|shock|vasopressors",),
    "antibacterials": (
        "infectious diseases|medications|therapeutic antibacterials",
        "pulmonary|medications|antibacterials",
    ),
    "dialysis": ("renal|dialysis|",),
    "insulin": ("endocrine|glucose metabolism|insulin",),
    "bronchodilator": ("pulmonary|medications|bronchodilator",),
    "anticoagulant": ("cardiovascular|myocardial ischemia / infarction|anticoagulant",),
}
#: Upper ends of APACHE's predicted risk of death in hospital.
_RISKS = {
    "below-5-percent": 0.05,
    "5-to-10-percent": 0.1,
    "10-to-20-percent": 0.2,
    "20-to-40-percent": 0.4,
    "above-40-percent": 1.0,
}
_OUTCOMES = {"Alive": "alive", "Expired": "died"}
_CATEGORIES = {
    "condition": tuple(_CONDITIONS),
    "treatment": (*_TREATMENTS, "none"),
    "apache-risk": (*_RISKS, "unknown"),
    "outcome": tuple(_OUTCOMES.values()),
}


def load_rows(dimensions: tuple[Dimension, ...], data_dir: Path | None, part: Split) -> dict[str, Rows]:
    """Rows of one part of the split, by region: one for each cell that a stay falls into.

    Dimensions are `condition`, `treatment` (`none` where a stay has none of those above), `apache-risk` and `outcome`.
    Stays without a known outcome are left out.

    Raises:
        DataError: the data set is missing or not laid out as documented.
        RecipeError: a dimension or category that these rows do not have.
    """
    check_answers(dimensions, _CATEGORIES)

    def read(row: dict[str, Any]) -> tuple[str, list[tuple[int, str]]] | None:
        if (site := site_of(row, part)) is None:
            return None
        answers = {
            "condition": _named(row["diagnoses"], _CONDITIONS),
            "treatment": _named(row["treatments"], _TREATMENTS) or ["none"],
            "apache-risk": [_risk(row["predicted_mortality"])],
            "outcome": [_OUTCOMES[row["hospital_status"]]],
        }
        return site, [(cell, str(row["patient"])) for cell in cells_of(dimensions, answers)]

    return {site: _rows(cells) for site, cells in read_sites(NAME, data_dir, read).items()}


def _named(entries: Iterable[tuple[float, str]], categories: dict[str, tuple[str, ...]]) -> list[str]:
    """Categories of which one of the entries' paths is."""
    paths = [path for _, path in entries]
    return [name for name, prefixes in categories.items() if any(path.startswith(prefixes) for path in paths)]


def _risk(predicted: float | None) -> str:
    """The band of a predicted risk; the data have -1 where APACHE predicts none."""
    if predicted is None or predicted < 0:
        return "unknown"
    return next(band for band, upper in _RISKS.items() if predicted <= upper)


def _rows(cells: list[tuple[int, str]]) -> Rows:
    return Rows({}, np.array([cell for cell, _ in cells], np.int64), tuple(person for _, person in cells))
