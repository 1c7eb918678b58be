"""Death in hospital from the APACHE values of the first 24 hours, at hospitals of five regions.

Source of the data: eICU Collaborative Research Database Demo v2.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smallhold.federate.local_model import Rows
from smallhold.federate.tables import Table, read_sites, rows_of
from smallhold.sectors.splits import Split, split_of

NAME = "eicu_demo_multihospital"
TABLE = Table(
    numbers={
        "age": (65, 17),
        "eyes": (4, 1),
        "motor": (6, 2),
        "verbal": (5, 2),
        "wbc": (10, 7),
        "temperature": (37, 1),
        "respiratoryrate": (20, 12),
        "sodium": (138, 6),
        "heartrate": (90, 30),
        "meanbp": (90, 35),
        "hematocrit": (35, 7),
        "creatinine": (1, 1.5),
        "bun": (18, 20),
        "glucose": (130, 80),
        "albumin": (3.5, 0.8),
        "bilirubin": (0.7, 2),
        "ph": (7.4, 0.1),
        "pao2": (100, 60),
        "pco2": (40, 15),
        "fio2": (30, 30),
        "urine": (1500, 1200),
    },
    codes={"intubated": (0, 1), "vent": (0, 1), "dialysis": (0, 1), "sex": ("Male", "Female")},
    has_deviations=True,
)
_OLDEST = 90.0  # "> 89" in the data, which hides the age of the oldest


def load_rows(data_dir: Path | None, part: Split) -> dict[str, Rows]:
    """Rows of one part of the split, by region; hospitals that name none are the region `other`.

    Stays without a known outcome are left out; stays of one patient stay together.

    Raises:
        DataError: the data set is missing or not laid out as documented.
    """

    def read(row: dict[str, Any]) -> tuple[str, list[tuple[list[float], int, str]]] | None:
        if (site := site_of(row, part)) is None:
            return None
        return site, [(TABLE.features(_flat(row)), int(row["hospital_status"] == "Expired"), row["patient"])]

    return {site: rows_of(rows) for site, rows in read_sites(NAME, data_dir, read).items()}


def site_of(row: dict[str, Any], part: Split) -> str | None:
    """Region of a stay; None where it belongs to another part of the split or its outcome is not known."""
    if row["hospital_status"] is None or split_of(NAME, row["patient"]) != part:
        return None
    site: str = (row["region"] or "other").lower()
    return site


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    age = row["age"]
    years = None if age in (None, "") else _OLDEST if str(age).startswith(">") else float(age)
    return {**(row["aps_first24h"] or {}), "age": years, "sex": row["sex"]}
