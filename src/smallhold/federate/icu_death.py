"""Death in hospital from the last measurements of the first 48 hours, a site for each type of intensive-care unit.

Source of the data: PhysioNet/Computing in Cardiology Challenge 2012. The small sibling of `trunk_risk`, in numpy alone.
"""

from __future__ import annotations

from pathlib import Path

from smallhold.federate.local_model import Rows
from smallhold.federate.tables import Table, rows_of
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import PHYSIONET_2012, Stay
from smallhold.sectors.splits import Split

NAME = PHYSIONET_2012
TABLE = Table(
    numbers={
        "age": (65, 17),
        "ALP": (80, 60),
        "ALT": (40, 100),
        "AST": (60, 150),
        "Albumin": (3.5, 0.8),
        "BUN": (20, 20),
        "Bilirubin": (1, 3),
        "Cholesterol": (160, 50),
        "Creatinine": (1, 1.5),
        "DiasABP": (60, 12),
        "FiO2": (0.5, 0.2),
        "GCS": (15, 4),
        "Glucose": (130, 60),
        "HCO3": (24, 5),
        "HCT": (31, 5),
        "HR": (85, 20),
        "K": (4, 0.6),
        "Lactate": (2, 2),
        "MAP": (78, 15),
        "MechVent": (0, 1),
        "Mg": (2, 0.4),
        "NIDiasABP": (60, 15),
        "NIMAP": (78, 15),
        "NISysABP": (120, 22),
        "Na": (139, 5),
        "PaCO2": (40, 9),
        "PaO2": (120, 80),
        "Platelets": (200, 100),
        "RespRate": (19, 6),
        "SaO2": (97, 3),
        "SysABP": (120, 22),
        "Temp": (37, 0.9),
        "TroponinI": (1, 10),
        "TroponinT": (0.1, 2),
        "Urine": (80, 100),
        "WBC": (11, 6),
        "Weight": (80, 25),
        "pH": (7.4, 0.08),
    },
    codes={"sex": ("F", "M")},
    has_deviations=True,
)
_LAST_MINUTE = icu_risk.NUM_BINS * icu_risk.BIN_MINUTES


def load_rows(data_dir: Path | None, part: Split) -> dict[str, Rows]:
    """Rows of one part of the split, by type of unit. Stays without a known outcome are left out.

    Raises:
        DataError: the data set is missing or not laid out as documented.
    """
    found: dict[str, list[tuple[list[float], int, str]]] = {}
    for stay in icu_risk.split(icu_risk.load_stays(data_dir), part):
        if stay.died is not None:
            row = (TABLE.features(_last(stay)), int(stay.died), stay.record_id)
            found.setdefault(stay.icu_type.replace(" ", "-"), []).append(row)
    return {site: rows_of(rows) for site, rows in sorted(found.items())}


def _last(stay: Stay) -> dict[str, float | str | None]:
    within = stay.minute <= _LAST_MINUTE  # sorted: the last of equal codes stays
    readings = zip(stay.code[within].tolist(), stay.value[within].tolist(), strict=True)
    return {"age": stay.age, "sex": stay.sex, **{PARAMETERS[code].name: value for code, value in readings}}
