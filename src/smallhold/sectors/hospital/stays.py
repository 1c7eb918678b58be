"""Stays in intensive care as arrays, and the reader of the PhysioNet/CinC Challenge 2012 layout.

One JSON object a line::

    {"record_id": "7", "age": 54.0, "sex": "F", "height_cm": null, "icu_type": "surgical", "saps1": 6,
     "died_in_hospital": 0, "events": [[7, "HR", 73], [7, "Temp", 35.1], ...]}

Members that are not named here (`los_days`, `survival_days`, `sofa`, `set`) are outcomes or scores: they never
leave the reader. Rows that say `"simulated": true` come from the simulator and are marked so for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import DataError, ShapeError
from smallhold.records import Observation, Provenance
from smallhold.sectors.data_sets import jsonl_files, read_jsonl
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS

PHYSIONET_2012 = "physionet2012_icu"
SIMULATED_WARD = "simulated_ward"
ICU_TYPES = ("medical", "surgical", "cardiac surgery recovery", "coronary care")
UNKNOWN_ICU_TYPE = "unknown"
SYSTEM = "physionet2012"
"""The code system of observations whose codes are parameter names."""

# Adults outside this range exist, but in recorded data such heights are inches or metres: unknown is truer.
_HEIGHT_CM = (120.0, 230.0)
_LOW = np.array([parameter.plausible_low for parameter in PARAMETERS], dtype=np.float32)
_HIGH = np.array([parameter.plausible_high for parameter in PARAMETERS], dtype=np.float32)
_MAX_MINUTE = 366 * 24 * 60


@dataclass(frozen=True, slots=True)
class Refused:
    """A reading that cannot be real.

    Attributes:
        before: Position among the accepted readings in front of which it stood.
        minute: Minutes since admission.
        code: Position in `PARAMETERS`.
        value: As received.
    """

    before: int
    minute: int
    code: int
    value: float


@dataclass(frozen=True, slots=True, eq=False)
class Stay:
    """One patient's stay: what was measured when, and what became of it.

    Attributes:
        record_id: Pseudonymous identifier, the group of the split.
        age: Years, None when unknown.
        sex: `F`, `M` or None.
        height_cm: None when unknown or impossible.
        icu_type: One of `ICU_TYPES`, or `unknown`.
        saps1: SAPS-I of the first 24 hours, for comparison only: never an input.
        died: Died in hospital; None when unknown.
        minute: (E,) int32, minutes since admission, sorted; equal minutes keep the order of the source.
        code: (E,) int16, positions in `PARAMETERS`.
        value: (E,) float32, in the parameter's canonical unit, all inside the plausible range.
        data_set: Where it comes from, the first part of the split's key.
        is_simulated: True when no person stands behind it.
        refused: Readings that were taken out as missing markers or impossible values, so that a replay can show
            them to the gate.
    """

    record_id: str
    age: float | None
    sex: Literal["F", "M"] | None
    height_cm: float | None
    icu_type: str
    saps1: float | None
    died: bool | None
    minute: NDArray[np.int32]
    code: NDArray[np.int16]
    value: NDArray[np.float32]
    data_set: str
    is_simulated: bool
    refused: tuple[Refused, ...] = ()

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if not len(self.minute) == len(self.code) == len(self.value):
            raise ShapeError(
                f"stay {self.record_id}: expected equally many minutes, codes and values, "
                f"got {len(self.minute)}, {len(self.code)}, {len(self.value)}"
            )


def plausible_age(age: float | None) -> float | None:
    """The age itself, or None when it is unknown or nobody's."""
    return None if age is None or not 0 <= age <= 130 else age


def plausible_height(height_cm: float | None) -> float | None:
    """The height itself, or None when it is unknown or cannot be an adult's."""
    if height_cm is None or not _HEIGHT_CM[0] <= height_cm <= _HEIGHT_CM[1]:
        return None
    return height_cm


def read_physionet2012(folder: Path) -> list[Stay]:
    """Read every `*.jsonl` and `*.jsonl.zst` of a folder, in order of file name and line.

    Negative values are missing markers; they and values outside the plausible range are taken out and kept aside,
    exactly as the gate refuses them at the bedside.

    Args:
        folder: A folder of files in the layout above, real or simulated.

    Returns:
        One stay a line. `data_set` is `physionet2012_icu`, or `simulated_ward` for rows that say so.

    Raises:
        DataError: a file or row is not as documented, or two rows have one record_id; the message names file,
            line and member.
        MissingExtraError: a file is compressed and `zstandard` is not installed.
    """
    stays: list[Stay] = []
    seen: set[tuple[str, str]] = set()
    for path in jsonl_files(folder):
        for line, row in enumerate(read_jsonl(path), start=1):
            stay = stay_of_row(row, where=f"{path}, line {line}")
            if (stay.data_set, stay.record_id) in seen:
                raise DataError(f"{path}, line {line}: record_id occurs twice: expected one row for each stay")
            seen.add((stay.data_set, stay.record_id))
            stays.append(stay)
    return stays


def stay_of_row(row: dict[str, Any], *, where: str) -> Stay:
    """Validate one row and turn it into a stay.

    Args:
        row: The parsed line.
        where: File and line, for messages.

    Raises:
        DataError: a member is missing or not as documented.
    """
    record_id = _member(row, "record_id", where)
    if not isinstance(record_id, str) or not record_id:
        raise DataError(f"{where}, member 'record_id': expected a non-empty string, got {type(record_id).__name__}")
    if not record_id.isprintable():  # it is shown on terminals and written into the journal
        raise DataError(f"{where}, member 'record_id': expected printable characters, got {record_id!r}")
    sex = _member(row, "sex", where)
    if sex not in ("F", "M", None):
        raise DataError(f'{where}, member \'sex\': expected "F", "M" or null, got {sex!r}')
    icu_type = row.get("icu_type")
    if icu_type is not None and icu_type not in (*ICU_TYPES, UNKNOWN_ICU_TYPE):
        raise DataError(f"{where}, member 'icu_type': expected one of {', '.join(ICU_TYPES)}, got {icu_type!r}")
    died = row.get("died_in_hospital")
    if died not in (0, 1, None) or isinstance(died, float):
        raise DataError(f"{where}, member 'died_in_hospital': expected 0, 1 or null, got {died!r}")
    is_simulated = row.get("simulated", False)
    if not isinstance(is_simulated, bool):
        raise DataError(f"{where}, member 'simulated': expected true or false, got {is_simulated!r}")
    saps1 = _number(row, "saps1", where)
    minute, code, value = _event_arrays(_member(row, "events", where), where)
    minute, code, value, refused = sift(minute, code, value)
    return Stay(
        record_id=record_id,
        age=plausible_age(_number(row, "age", where)),
        sex=cast(Literal["F", "M"] | None, sex),
        height_cm=plausible_height(_number(row, "height_cm", where)),
        icu_type=icu_type or UNKNOWN_ICU_TYPE,
        saps1=None if saps1 is None or saps1 < 0 else saps1,
        died=None if died is None else bool(died),
        minute=minute,
        code=code,
        value=value,
        data_set=SIMULATED_WARD if is_simulated else PHYSIONET_2012,
        is_simulated=is_simulated,
        refused=refused,
    )


def sift(
    minute: NDArray[np.int32], code: NDArray[np.int16], value: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.float32], tuple[Refused, ...]]:
    """Sort readings by minute, keeping the order within a minute, and take out those that cannot be real.

    Args:
        minute: (E,) minutes since admission.
        code: (E,) positions in `PARAMETERS`.
        value: (E,) in canonical units.

    Returns:
        The accepted minutes, codes and values, and what was refused.
    """
    if np.any(minute[1:] < minute[:-1]):
        order = np.argsort(minute, kind="stable")
        minute, code, value = minute[order], code[order], value[order]
    is_possible = (value >= _LOW[code]) & (value <= _HIGH[code])  # NaN is neither
    if is_possible.all():
        return minute, code, value, ()
    before = np.cumsum(is_possible)
    refused = tuple(
        Refused(int(before[i]), int(minute[i]), int(code[i]), float(value[i])) for i in np.flatnonzero(~is_possible)
    )
    return minute[is_possible], code[is_possible], value[is_possible], refused


def readings(stay: Stay) -> Iterator[tuple[int, int, float]]:
    """(minute, code, value) of every reading as it was received, the refused ones in their old places."""
    accepted = zip(stay.minute.tolist(), stay.code.tolist(), stay.value.tolist(), strict=True)
    position = 0
    for refused in stay.refused:
        yield from islice(accepted, refused.before - position)
        position = refused.before
        yield refused.minute, refused.code, refused.value
    yield from accepted


def observations(stay: Stay, provenance: Provenance) -> Iterator[Observation]:
    """The stay's readings as records, in order of time; readings of one minute keep their order.

    Readings that training left out are among them: refusing them is the gate's work.

    Args:
        stay: The stay.
        provenance: Put on every record; its clock should be `stay`.

    Yields:
        Observations in canonical units, numbered in their `id`.
    """
    names = [parameter.name for parameter in PARAMETERS]
    units = [parameter.unit for parameter in PARAMETERS]
    for position, (minute, code, value) in enumerate(readings(stay)):
        yield Observation(
            id=f"{stay.record_id}-{position}",
            patient=stay.record_id,
            code=names[code],
            value=value,
            unit=units[code],
            t_measured_ms=minute * 60_000,
            t_received_ms=minute * 60_000,
            system=SYSTEM,
            provenance=provenance,
        )


def _member(row: dict[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise DataError(f"{where}, member {name!r}: missing")
    return row[name]


def _number(row: dict[str, Any], name: str, where: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if type(value) not in (int, float):
        raise DataError(f"{where}, member {name!r}: expected a number or null, got {type(value).__name__}")
    if not abs(value) < 1e9:  # also refuses NaN, and whole numbers too long for a float
        raise DataError(f"{where}, member {name!r}: expected a number that a person can have")
    return float(value)


def _event_arrays(events: Any, where: str) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.float32]]:
    """(E,) minutes, parameter positions and values; the slow path only runs to name what is wrong."""
    if not isinstance(events, list):
        raise DataError(f"{where}, member 'events': expected an array, got {type(events).__name__}")
    if not events:
        return np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.float32)
    try:
        minutes, names, values = zip(*events, strict=True)
        code = np.array([INDEX[name] for name in names], dtype=np.int16)
        minute, value = np.array(minutes), np.array(values)
    except (KeyError, TypeError, ValueError) as error:
        raise _event_error(events, where) from error
    if minute.dtype.kind != "i" or value.dtype.kind not in "if" or minute.min() < 0 or minute.max() > _MAX_MINUTE:
        raise _event_error(events, where)
    return minute.astype(np.int32), code, value.astype(np.float32)


def _event_error(events: list[Any], where: str) -> DataError:
    for position, event in enumerate(events):
        at = f"{where}, member 'events[{position}]'"
        if not isinstance(event, list) or len(event) != 3:
            return DataError(f"{at}: expected [minute, parameter, value]")
        minute, name, value = event
        if type(minute) is not int or not 0 <= minute <= _MAX_MINUTE:
            return DataError(f"{at}: expected a whole minute from 0 to {_MAX_MINUTE}, got {minute!r}")
        if not isinstance(name, str) or name not in INDEX:
            return DataError(f"{at}: unknown parameter {name!r}: expected one of {', '.join(sorted(INDEX))}")
        if type(value) not in (int, float):
            return DataError(f"{at}: expected a number, got {type(value).__name__}")
    return DataError(f"{where}, member 'events': expected an array of [minute, parameter, value]")
