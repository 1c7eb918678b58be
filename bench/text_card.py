"""A patient as a text card: what observation words are compared with (`bench/ablations.py`).

A card says what is known of a stay at one hour, in ordinary English; `icu-card` is a text task like any other, in a
sector folder of its own. The rows are patients' data: they lie in `runs/`, which git ignores, and go no further.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from smallhold.device.durable_file import write_durably
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import Stay

TASK = "icu-card"
_DATA_SET = "physionet2012_icu"  # so that every patient lies in the same part as in `icu-risk`
_SECTOR = f"""format = "smallhold.sector/1"
name = "icu-card"
about = "The patients of icu-risk as text, for comparison alone."

[[text_task]]
name = "{TASK}"
question = "Will this patient die in hospital?"
field_name = "death"
condition = "death in hospital"
intended_use = "Comparison with observation words; no use beyond it."
known_limits = "A comparison, nothing else."
choices = ["no", "yes"]

[[text_task.source]]
data_set = "{_DATA_SET}"
text = ["card"]
label = "died"
language = "en"
group = "patient"
"""


def write_text_cards(folder: Path, data: Path) -> Path:
    """Write the sector folder and its data, `folder/data`.

    Args:
        folder: Created when absent; its files are written again.
        data: Where the real data lie.

    Returns:
        The sector's folder.
    """
    stays = [stay for stay in icu_risk.load_stays(data) if stay.died is not None]
    rows = [
        {"card": text_card(stay, hour), "died": "yes" if stay.died else "no", "patient": stay.record_id, "hour": hour}
        for stay in stays
        for hour in icu_risk.HORIZONS_H
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    place = folder / "data" / _DATA_SET
    place.mkdir(parents=True, exist_ok=True)
    write_durably(place / "cards.jsonl", [lines.encode()], mode=0o600)
    sector = folder / "sector"
    sector.mkdir(exist_ok=True)
    write_durably(sector / "sector.toml", [_SECTOR.encode()], mode=0o644)
    return sector


def text_card(stay: Stay, hour: int) -> str:
    """Who the patient is, then of each parameter the last value and, where it was measured again, the range so far."""
    about = [f"Hour {hour}", f"{stay.icu_type.replace('_', ' ')} unit"]
    about += [] if stay.age is None else [f"age {stay.age:g}"]
    about += [] if stay.sex is None else [{"F": "female", "M": "male"}[stay.sex]]
    seen = stay.minute < 60 * hour
    lines = []
    for code, parameter in enumerate(PARAMETERS):
        values = stay.value[seen & (stay.code == code)]
        if len(values):
            spread = f" ({_short(values.min())} to {_short(values.max())})" if len(np.unique(values)) > 1 else ""
            lines.append(f"{parameter.title} {_short(values[-1])}{spread}")
    return f"{', '.join(about)}. {'; '.join(lines)}."


def _short(value: float) -> str:
    return f"{value:.3g}"
