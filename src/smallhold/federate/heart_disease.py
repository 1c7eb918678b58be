"""Heart disease at four hospitals: a small table, and the smallest honest federation.

Source of the data: UCI Heart Disease (Janosi et al. 1988). Three of the hospitals hardly measure some of the columns,
and the file of Cleveland that is widely passed around has other codes than the others, and 1 where nothing was found.
Each site puts its rows into the common coding before it takes part; without that, a federation learns less than every
site alone (docs/pitfalls/federation.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smallhold.errors import DataError
from smallhold.federate.local_model import Rows
from smallhold.federate.tables import Table, rows_of
from smallhold.sectors.data_sets import find_data_set, jsonl_files, read_jsonl
from smallhold.sectors.splits import Split, split_of

NAME = "heart_disease_4_hospitals"
TABLE = Table(
    numbers={"age": (55, 10), "trestbps": (130, 20), "chol": (240, 60), "thalach": (140, 25), "oldpeak": (1, 1)},
    codes={
        "sex": (0, 1),
        "cp": (1, 2, 3, 4),
        "fbs": (0, 1),
        "restecg": (0, 1, 2),
        "exang": (0, 1),
        "slope": (1, 2, 3),
        "ca": (0, 1, 2, 3),
        "thal": (3, 6, 7),
    },
    unknown={"chol": 0, "trestbps": 0},
)
#: Codes of the recoded file -> codes that the other hospitals use; what it does is measured in docs/experiments.md.
_RECODED: dict[str, dict[int, int | None]] = {
    "cp": {0: 4, 1: 2, 2: 3, 3: 1},
    "restecg": {0: 2, 1: 0, 2: 1},
    "slope": {0: 3, 1: 2, 2: 1},
    "ca": {0: 0, 1: 1, 2: 2, 3: 3, 4: None},
    "thal": {0: None, 1: 6, 2: 3, 3: 7},
}


def load_rows(data_dir: Path | None, part: Split) -> dict[str, Rows]:
    """Rows of one part of the split, by hospital.

    Raises:
        DataError: the data set is missing or not laid out as documented.
    """
    sites: dict[str, list[dict[str, Any]]] = {}
    for path in jsonl_files(find_data_set(NAME, data_dir)):
        for number, row in enumerate(read_jsonl(path), start=1):
            if not isinstance(row.get("hospital"), str) or row.get("disease") not in (0, 1) or "id" not in row:
                raise DataError(f"{path}, line {number}: not a row of {NAME}: expected hospital, disease and id")
            sites.setdefault(row["hospital"], []).append(row)
    found = {}
    for site, rows in sorted(sites.items()):
        common = [_original(row) for row in rows] if _is_recoded(rows) else rows
        chosen = [row for row in common if split_of(NAME, row["id"]) == part]
        try:
            found[site] = rows_of((TABLE.features(row), row["disease"], row["id"]) for row in chosen)
        except (TypeError, ValueError) as error:
            raise DataError(f"{NAME}, {site}: a member is no number: {error}") from error
    return found


def _is_recoded(rows: list[dict[str, Any]]) -> bool:
    """Whether a site's file has the other codes: the original knows no chest pain of type 0 and no thal below 3."""
    return any(row.get("cp") == 0 for row in rows) and all((row.get("thal") or 0) <= 3 for row in rows)


def _original(row: dict[str, Any]) -> dict[str, Any]:
    codes = {name: None if row.get(name) is None else _RECODED[name].get(int(row[name])) for name in _RECODED}
    return {**row, **codes, "disease": 1 - row["disease"]}
