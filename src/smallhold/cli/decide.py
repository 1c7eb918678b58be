"""`smallhold decide`: one patient or one text in, one decision out."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.options import add_bundle_options, home_of
from smallhold.cli.output import note, print_json
from smallhold.errors import DataError, InputError

if TYPE_CHECKING:
    from smallhold.decide.local import LocalTask
    from smallhold.decide.text_task import LocalTextTask

EXAMPLE = """echo '{"age": 71, "sex": "F", "height_cm": 160, "icu_type": "medical",
        "events": [[10, "HR", 118], [10, "Temp", 101.3, "[degF]"]]}' | smallhold decide icu-risk.bundle --hours 1
example: smallhold decide hospital.bundle --task triage --text "Red, itchy patches on both elbows for a month."
example: smallhold decide hospital.bundle --task note-specialty --json < note.txt"""

_OLDEST = 130
_LARGEST = 1e9
_MOST_CHOICES, _MOST_EVIDENCE = 3, 4
#: Log-odds below which a piece of a text is not worth a line.
_LEAST_EFFECT = 0.02


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    add_bundle_options(parser)
    parser.add_argument("--text", metavar="TEXT", help="the text, for a task that reads text")
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="plain text for a task that reads text; else JSON with "
        "age, sex, height_cm, icu_type and events: [minute, parameter, value, unit]; the unit may be "
        "left out when it is the parameter's own; default: standard input",
    )
    parser.add_argument(
        "--hours", type=int, metavar="H", help="decide after so many hours; default: all that the events cover"
    )


def run(args: argparse.Namespace) -> int:
    """Ask the task through the door that it has; exit code 3 when the model abstains."""
    from smallhold.decide.text_task import LocalTextTask

    local = _open(args)
    return _of_text(args, local) if isinstance(local, LocalTextTask) else _of_patient(args, local)


def _open(args: argparse.Namespace) -> LocalTask | LocalTextTask:
    from smallhold.decide.local import open_bundle
    from smallhold.device.install import active_bundle

    home = home_of(args)
    bundle = args.bundle or active_bundle(home)
    return open_bundle(bundle, backend=args.backend, trusted_keys=args.trusted_keys or home.trust).task(args.task)


def _of_text(args: argparse.Namespace, local: LocalTextTask) -> int:
    if args.hours is not None:
        raise InputError(f"--hours: task {local.task.name} reads text, not readings")
    if args.text is not None and args.input is not None:
        raise InputError("--text and --input: expected one of them")
    text = args.text if args.text is not None else _read_text(args.input)
    decision = local.decide(text)
    answer = decision.answers[local.field.name]
    strongest = sorted(local.effects(text, answer.choice), key=lambda item: -abs(item.effect))[:_MOST_EVIDENCE]
    evidence = [item for item in strongest if abs(item.effect) >= _LEAST_EFFECT]
    strings = {name: asdict(item) for name, item in decision.strings.items()}
    if args.json:
        print_json(
            {
                "bundle": local.bundle.manifest.digest,
                "task": decision.task,
                "question": local.task.question,
                "field": local.field.name,
                **asdict(answer),
                "tokens": decision.tokens,
                "is_cut": decision.is_cut,
                "latency_ms": decision.latency_ms,
                "evidence": [asdict(item) for item in evidence],
                **({"strings": strings} if strings else {}),
            }
        )
    else:
        ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
        for choice, p in ranked[:_MOST_CHOICES]:
            print(f"{local.field.name} = {choice}: {p:.3f}")
        print(f"answer: {'abstained' if answer.choice is None else answer.choice} ({decision.tokens} tokens)")
        if answer.choice is None:
            print(f"  not excluded: {', '.join(answer.prediction_set)}")
        for item in evidence:
            print(f"  {item.text!r} ({item.effect:+.2f} log-odds)")
        for name, written in decision.strings.items():
            print(f"{name}: {written.text!r} (written by the model, not checked{'' if written.has_ended else ', cut'})")
        if decision.is_cut:
            note(f"remark: the text is longer than the {decision.tokens} tokens that the trunk read")
        note("not a medical device")
    return 3 if answer.has_abstained else 0


def _read_text(path: Path | None) -> str:
    where = "standard input" if path is None else str(path)
    try:
        return sys.stdin.read() if path is None else path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text: {error}") from error


def _of_patient(args: argparse.Namespace, local: LocalTask) -> int:
    """Gate, append, decide, explain."""
    import uuid

    from smallhold.assist.gate import Gate
    from smallhold.assist.hospital import RECORDED_TOLERANCES, HospitalLimits
    from smallhold.assist.local_specialist import LocalSpecialist
    from smallhold.assist.ward import describe_reading
    from smallhold.records import Observation, Provenance, to_json
    from smallhold.sectors.hospital import icu_risk
    from smallhold.sectors.hospital.floor import FloorState
    from smallhold.sectors.hospital.stays import SYSTEM

    if args.hours is not None and args.hours < 1:
        raise InputError(f"--hours: expected at least 1, got {args.hours}")
    if args.text is not None:
        raise InputError(f"--text: task {local.task.name} reads readings, not text")
    patient = _read(args.input)
    limits = HospitalLimits()
    gate = Gate(limits, RECORDED_TOLERANCES)
    floor = FloorState("patient")
    static = icu_risk.static_features_from(
        patient.get("age"), patient.get("sex"), patient.get("height_cm"), patient.get("icu_type") or "unknown"
    )
    specialist = LocalSpecialist("patient", local, static, describe_reading)
    provenance = Provenance(trace_id=uuid.uuid4().hex, bundle=local.bundle.manifest.digest, clock="stay")
    events = [(i, *_event(item, i)) for i, item in enumerate(patient["events"])]
    events.sort(key=lambda event: event[1])  # stable: readings of one minute keep their order
    hours = args.hours or max(1, -(-events[-1][1] // 60))
    hour, accepted = 0, 0
    for i, minute, code, value, unit in events:
        while minute > 60 * (hour + 1) and hour < hours:
            specialist.close_bin(3_600_000 * (hour + 1))
            hour += 1
        if hour == hours:
            break
        observation = Observation(
            id=f"event-{i}",
            patient="patient",
            code=code,
            value=value,
            unit=unit if unit is not None else (limits.unit(code) if limits.plausible_range(code) else ""),
            t_measured_ms=60_000 * minute,
            t_received_ms=60_000 * minute,
            system=SYSTEM,
            provenance=provenance,
        )
        result, canonical = gate.check(observation, observation.t_received_ms)
        if canonical is None:
            raise InputError(f"events[{i}] refused: {'; '.join(result.reasons)}")
        floor.observe(code, canonical, observation.t_measured_ms)
        specialist.observe(code, canonical, observation.t_measured_ms)
        accepted += 1
    while hour < hours:
        specialist.close_bin(3_600_000 * (hour + 1))
        hour += 1
    now_ms = 3_600_000 * hours
    risk = specialist.decide(now_ms, provenance)
    card = specialist.explain()
    scores = floor.scores(now_ms, provenance)
    if args.json:
        print_json({"risk": to_json(risk), "card": to_json(card), "scores": to_json(scores), "accepted": accepted})
    else:
        for choice, p in risk.probabilities.items():
            print(f"{risk.field} = {choice}: {p:.3f}")
        print(f"answer: {'abstained' if risk.choice is None else risk.choice} (after {hours} h, {accepted} readings)")
        print(f"floor: NEWS2 {scores.scores[0].total} ({scores.scores[0].band})")
        for item in card.evidence:
            print(f"  {item.text} ({item.effect:+.2f} log-odds)")
        note("not a medical device")
    return 3 if risk.has_abstained else 0


def _read(path: Path | None) -> dict[str, Any]:
    from smallhold.sectors.hospital.stays import ICU_TYPES, UNKNOWN_ICU_TYPE

    where = "standard input" if path is None else str(path)
    try:
        value = json.loads(sys.stdin.read() if path is None else path.read_text())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("events"), list) or not value["events"]:
        raise DataError(f"{where}: expected an object with a non-empty list 'events'")
    for name, kinds in (("age", (int, float)), ("height_cm", (int, float)), ("sex", str), ("icu_type", str)):
        if value.get(name) is not None and (not isinstance(value[name], kinds) or isinstance(value[name], bool)):
            raise DataError(f"{where}, member {name!r}: got {value[name]!r}")
    for name, words in (("sex", ("F", "M")), ("icu_type", (*ICU_TYPES, UNKNOWN_ICU_TYPE))):
        if value.get(name) is not None and value[name] not in words:
            raise DataError(f"{where}, member {name!r}: expected one of {', '.join(words)}, got {value[name]!r}")
    if value.get("age") is not None and not 0 <= value["age"] <= _OLDEST:
        raise DataError(f"{where}, member 'age': expected years from 0 to {_OLDEST}, got {value['age']!r}")
    return value


def _event(item: Any, i: int) -> tuple[int, str, float, str | None]:
    match item:
        case [int() as minute, str() as code, int() | float() as value, *unit] if (
            minute >= 0
            and not isinstance(minute, bool)
            and not isinstance(value, bool)
            and len(unit) <= 1
            and all(isinstance(u, str) for u in unit)
        ):
            if not abs(value) < _LARGEST:
                raise DataError(f"events[{i}]: the value is not a number that can be measured")
            return minute, code, float(value), unit[0] if unit else None
    raise DataError(
        f"events[{i}]: expected [minute, parameter, value] or [minute, parameter, value, unit], got {item!r}"
    )
