"""Training rows from a ward's own journal, for this site and no other place.

What is written is what training reads: stays in the layout of the PhysioNet/CinC Challenge 2012, a line each, under
`DIR/physionet2012_icu/`, so that `teach`, `evaluate --data DIR` and a site of a federation take them as they are.
Beside them lies `DIR/feedback.jsonl`: what people made of the alerts, joined to the outcome.

Only patients with a known outcome who have not withdrawn are exported, and none whose payloads were erased. The target
must lie on this machine's own file systems. Features are named; no free text, no name of a person leaves the journal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smallhold.assist.feedback import FeedbackLog, read_feedback
from smallhold.assist.live import READING
from smallhold.assist.replay import ADMISSION, STEP
from smallhold.assist.step import Step
from smallhold.device.durable_file import write_durably
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError
from smallhold.records import canonical_json
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.stays import ICU_TYPES, PHYSIONET_2012, UNKNOWN_ICU_TYPE
from smallhold.sectors.hospital.units import to_canonical

STAYS, ANSWERS = f"{PHYSIONET_2012}/site.jsonl", "feedback.jsonl"
_MINUTE_MS = 60_000
_MOUNTS = Path("/proc/self/mounts")
#: File systems whose files lie on another machine.
_NETWORK = re.compile(r"^(nfs\d?|cifs|smb\w*|afs|ceph|glusterfs|lustre|ncpfs|davfs|fuse\.(?!.*overlay|.*portal).+)$")


@dataclass(slots=True)
class _Stay:
    static: tuple[float, ...] = ()
    is_simulated: bool = False
    readings: list[tuple[int, str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote and left out, in patients and answers."""

    patients: int
    answers: int
    withdrawn: int
    without_outcome: int


def export_rows(
    journal: Journal, out: Path, *, is_withdrawn: Callable[[str], bool] = lambda _: False, run_id: str | None = None
) -> Exported:
    """Write training rows of the task `icu-risk`.

    Args:
        journal: Of the ward; read only.
        out: A folder on this machine, which does not exist yet or holds nothing.
        is_withdrawn: Whether a patient may not be learnt from.
        run_id: The run or ward whose readings count; default: all. A journal in which one patient was replayed more
            than once needs it.

    Raises:
        InputError: the folder lies on another machine or is not empty, or a patient's stay occurs twice.
        JournalError: an entry cannot be read.
    """
    check_local(out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"export: {out} is not empty", hint="give a new folder")
    log = read_feedback(journal)
    stays = _read_stays(journal, run_id)
    known = {patient: outcome for (patient, task), outcome in log.outcomes.items() if task == icu_risk.NAME}
    withdrawn = {patient for patient in stays if is_withdrawn(patient)}
    chosen = [patient for patient in stays if patient in known and patient not in withdrawn]
    rows = [_row(patient, stays[patient], died=known[patient].has_happened) for patient in chosen]
    answers = list(_answers(log, {patient: known[patient].has_happened for patient in chosen}))
    (out / STAYS).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(out / STAYS, _lines(rows), mode=0o600)
    write_durably(out / ANSWERS, _lines(answers), mode=0o600)
    without = len(set(stays) - set(known) - withdrawn)
    return Exported(len(rows), len(answers), len(withdrawn), without)


def check_local(out: Path, mounts: Path = _MOUNTS) -> None:
    """Refuse a folder that lies on another machine.

    Args:
        out: It need not exist.
        mounts: The kernel's list of mounts; where there is none (not Linux), only the form of the path is looked at.

    Raises:
        InputError: an address, a UNC path, or a path on a network file system.
    """
    text = str(out)
    hint = "rows of patients stay on the site: give a folder on this machine's own disk"
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*:/", text) or text.startswith(("//", "\\\\")):
        raise InputError(f"export: {text!r} is an address, expected a folder", hint=hint)
    if not mounts.exists():
        return
    target, found = out.resolve(), ("", "")
    for line in mounts.read_text().splitlines():
        _, point, kind, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)
        if target.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    if _NETWORK.match(found[1]):
        raise InputError(f"export: {target} lies on another machine: {found[0]} is mounted by {found[1]}", hint=hint)


def _read_stays(journal: Journal, run_id: str | None) -> dict[str, _Stay]:
    stays: dict[str, _Stay] = {}
    runs: dict[str, str] = {}
    for entry, payload in journal.entries():
        if payload is None or entry.kind not in (ADMISSION, READING, STEP):
            continue
        try:
            for patient, run, change in _events(entry.kind, payload):
                if run_id is not None and run != run_id:
                    continue
                if runs.setdefault(patient, run) != run:
                    raise InputError(
                        f"export: patient {patient!r} occurs in the runs {runs[patient]} and {run}",
                        hint="say which with --run",
                    )
                change(stays.setdefault(patient, _Stay()))
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(f"entry {entry.seq}: a {entry.kind} cannot be read: {error!r}") from error
    return {patient: stay for patient, stay in stays.items() if stay.readings}


def _events(kind: str, payload: bytes) -> Iterator[tuple[str, str, Callable[[_Stay], None]]]:
    if kind == STEP:
        step = Step.from_payload(payload)
        seen, is_accepted = step.observation, step.gate is not None and step.gate.is_accepted
        if seen is None or not is_accepted or seen.code not in INDEX:
            return
        value, is_simulated = (
            to_canonical(PARAMETERS[INDEX[seen.code]], seen.value, seen.unit),
            step.provenance.simulated,
        )
        reading = (seen.t_measured_ms, seen.code, value)

        def add(stay: _Stay) -> None:
            stay.readings.append(reading)
            stay.is_simulated |= is_simulated

        yield step.patient, step.run_id, add
        return
    item = json.loads(payload)
    if kind == ADMISSION:
        static = tuple(float(number) for number in item["static"])
        yield item["patient"], item["run_id"], lambda stay: setattr(stay, "static", static)
    elif not item["reasons"] and item["code"] in INDEX:
        value = to_canonical(PARAMETERS[INDEX[item["code"]]], float(item["value"]), item["unit"])
        later = (int(item["t_measured_ms"]), str(item["code"]), value)
        yield item["patient"], item["run_id"], lambda stay: stay.readings.append(later)


def _row(patient: str, stay: _Stay, *, died: bool) -> dict[str, Any]:
    # A stay's clock starts at 0; a live ward's is UTC, and then the first reading is the start.
    first_ms = min(t_ms for t_ms, _, _ in stay.readings)
    start_ms = 0 if first_ms < 366 * 24 * 60 * _MINUTE_MS else first_ms
    events: list[list[Any]] = [[(t_ms - start_ms) // _MINUTE_MS, code, value] for t_ms, code, value in stay.readings]
    row = {"record_id": patient, **_admission(stay.static), "saps1": None, "died_in_hospital": int(died)}
    row |= {"events": sorted(events, key=lambda event: event[0])}
    return row | ({"simulated": True} if stay.is_simulated else {})


def _admission(static: tuple[float, ...]) -> dict[str, Any]:
    """What was known on admission, back from the features that the model was given."""
    known = dict(zip(icu_risk.STATIC_FEATURES, static, strict=True)) if static else {}
    icu_type = next((name for name in ICU_TYPES if known.get(f"icu_type {name}")), UNKNOWN_ICU_TYPE)
    sex = None if not known or known["sex_unknown"] else ("M" if known["sex_m"] else "F")
    return {
        "age": round(known["age"] * 17 + 65, 1) if known else None,
        "sex": sex,
        "height_cm": round(known["height"] * 10 + 170, 1) if known and known["height_known"] else None,
        "icu_type": icu_type,
    }


def _answers(log: FeedbackLog, died: Mapping[str, bool]) -> Iterator[dict[str, Any]]:
    for answer in log.answers:
        if answer.patient in died:
            yield {
                "record_id": answer.patient,
                "condition": answer.condition,
                "response": answer.feedback.response,
                "reason": answer.feedback.reason,
                "response_time_ms": answer.feedback.response_time_ms,
                "bundle": answer.feedback.provenance.bundle,
                "died_in_hospital": int(died[answer.patient]),
            }


def _lines(rows: Iterable[Mapping[str, Any]]) -> list[bytes]:
    return [canonical_json(row) + b"\n" for row in rows]
