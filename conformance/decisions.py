"""Questions to every way to a decision: the golden bundles as recorded, the shipped hospital as the oracle decides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from conformance.models import HOSPITAL, KEYS, ROOT
from conformance.prompts import WARD_SEED
from conformance.texts import TEXTS
from smallhold.decide.local import BackendName, LocalTextTask, open_bundle
from smallhold.decide.plan import Answer
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.simulator import simulate_ward

GOLDEN = ROOT / "conformance"
Request = dict[str, Any]

HOSPITAL_TOLERANCE = 0.02
"""How far a probability of the shipped bundle may be off, absolute: activations rounded to 8 bits, and weights that
calibration multiplies. An answer that turns over within it stood at the edge."""
LEAST_EQUAL = 0.99
"""Share of the shipped bundle's answers that are the same; of the golden bundles, without edges, all are."""


@dataclass(frozen=True, slots=True)
class Case:
    """Requests to one bundle, and the answers that are compared.

    Attributes:
        name: For tables.
        bundle: The bundle.
        keys: Folder of the keys that it is trusted by.
        requests: In order.
        expected: For each request, field to its answer (`choice`, `probabilities`, `prediction_set` where recorded), or
            None where nothing is compared.
        tolerance: Of probabilities, absolute.
        least_equal: Share of answers whose choice has to be the same.
    """

    name: str
    bundle: Path
    keys: Path
    requests: list[Request]
    expected: list[dict[str, Any] | None]
    tolerance: float
    least_equal: float


def cases(runtime: str, *, patients: int = 8, texts: int = len(TEXTS)) -> list[Case]:
    """All cases for a runtime: the tolerance of the golden bundles depends on it."""
    golden = [_golden(folder, runtime) for folder in sorted(GOLDEN.glob("v*"))]
    requests = hospital_requests(patients, texts)
    answers = ask_python(HOSPITAL, KEYS, requests, "reference")
    expected = [answer.get("answers") for answer in answers]
    return [*golden, Case("hospital", HOSPITAL, KEYS, requests, expected, HOSPITAL_TOLERANCE, LEAST_EQUAL)]


def judge(case: Case, answers: Sequence[Request]) -> dict[str, Any]:
    """Compare the answers; plain numbers, `status`, and the first mismatch in words."""
    counts = {"answers": 0, "equal": 0, "worst": 0.0, "first": ""}
    if len(answers) != len(case.expected):
        counts["first"] = f"expected {len(case.expected)} answers, got {len(answers)}"
        return {"what": f"decisions of {case.name}", "status": "fail", **counts}
    for number, (answer, expected) in enumerate(zip(answers, case.expected, strict=True)):
        if "error" in answer:
            counts["first"] = counts["first"] or f"request {number}: {answer['error']}"
            counts["worst"] = 1.0
        for field, wanted in (expected or {}).items():
            found = answer.get("answers", {}).get(field)
            counts["answers"] += 1
            if found is None or found["probabilities"].keys() != wanted["probabilities"].keys():
                counts["worst"] = 1.0
                counts["first"] = counts["first"] or f"request {number}: no answer of {field}"
                continue
            off = max(abs(found["probabilities"][key] - p) for key, p in wanted["probabilities"].items())
            is_equal = all(found[key] == wanted[key] for key in ("choice", "prediction_set") if key in wanted)
            counts["worst"] = max(counts["worst"], off)
            counts["equal"] += is_equal
            if not is_equal or off > case.tolerance:
                counts["first"] = counts["first"] or f"request {number}, {field}: {wanted}, got {found}"
    is_good = counts["answers"] > 0 and counts["worst"] <= case.tolerance
    is_good = is_good and counts["equal"] >= case.least_equal * counts["answers"]
    return {"what": f"decisions of {case.name}", "status": "pass" if is_good else "fail", **counts}


def hospital_requests(patients: int, texts: int) -> list[Request]:
    """Simulated patients hour by hour through both doors, and each text to one of the tasks."""
    names = ("triage", "note-specialty", "evidence")
    asked: list[Request] = [
        {"task": task, "text": text} for text, task in islice(zip(TEXTS, cycle(names), strict=False), texts)
    ]
    for number, stay in enumerate(simulate_ward(patients, WARD_SEED + 1, icu_risk.NUM_BINS)):
        in_words = number % 4 == 3
        opening: Request = {"static": [float(x) for x in icu_risk.static_features(stay)]}
        ends = (1, 2, 3, 4, 5, 6, 8, 12, 24, 48) if in_words else (1, 2, 3, 6, 9, 12, 18, 24, 36, 48)
        readings = [
            [int(minute), PARAMETERS[code].name, float(value)]
            for minute, code, value in zip(stay.minute, stay.code, stay.value, strict=True)
        ]
        asked += _hours(icu_risk.NAME, f"{number}", opening | ({"words": True} if in_words else {}), readings, ends)
    return asked


def ask_python(bundle: Path, keys: Path, requests: Sequence[Request], backend: BackendName) -> list[Request]:
    """Answer requests through `smallhold.decide`, as the engine's program does in its place."""
    opened = open_bundle(bundle, backend=backend, trusted_keys=keys, now=datetime.now(UTC))
    tasks = {name: opened.task(name) for name in opened.manifest.tasks}
    patients: dict[str, Any] = {}
    said: list[Request] = []
    for request in requests:
        task = tasks[request["task"]]
        answer: Request = {}
        if isinstance(task, LocalTextTask):
            answer["answers"] = _told(task.decide(request["text"]).answers)
        else:
            name = request["patient"]
            if "static" in request:
                in_order = task.session(request["static"]).static
                is_in_words = request.get("words", False)
                patients[name] = task.word_session(in_order) if is_in_words else task.session(in_order)
            for code, value in request.get("observe", []):
                patients[name].observe(code, value)
            for _ in range(int(request.get("close", 0))):
                patients[name].close_bin()
            if request.get("decide"):
                decision = patients[name].decide()
                answer["answers"] = _told(decision if isinstance(decision, dict) else decision.answers)
        said.append(answer)
    return said


def _golden(folder: Path, runtime: str) -> Case:
    """Recorded cases as requests: fed hour by hour, compared at the hours that were recorded."""
    tolerance = json.loads((folder / "tolerance.json").read_text())[runtime]
    requests: list[Request] = []
    expected: list[dict[str, Any] | None] = []
    temperature = json.loads((folder / "bundle" / "tasks" / "icu-risk.json").read_text())["fields"][0]["temperature"]
    for line in (folder / "cases.jsonl").read_text().splitlines():
        case = json.loads(line)
        recorded = {hour["hour"]: hour for hour in case["hours"]}
        asked = _hours("icu-risk", case["patient"], {"static": case["static"]}, case["events"], sorted(recorded))
        hours = iter(sorted(recorded))
        for request in asked:
            requests.append(request)
            if not request.get("decide"):
                expected.append(None)
                continue
            hour = recorded[next(hours)]
            probabilities = dict(zip(case["choices"], hour["probabilities"], strict=True))
            expected.append({case["field"]: {"choice": hour["choice"], "probabilities": probabilities}})
    # A probability moves by at most a quarter of what the difference of the logits over the temperature does.
    return Case(
        f"golden {folder.name}", folder / "bundle", folder / "trusted_keys", requests, expected,
        max(2 * tolerance / temperature / 4, 1e-6), 1.0,
    )  # fmt: skip


def _hours(
    task: str, patient: str, opening: Request, readings: Sequence[Sequence[Any]], ends: Sequence[int]
) -> list[Request]:
    """Open a patient, then go on to each end of an hour and decide."""
    asked: list[Request] = [{"task": task, "patient": patient, **opening}]
    at, last = 0, 0
    for end in ends:
        for hour in range(last + 1, end + 1):
            new = []
            while at < len(readings) and readings[at][0] <= 60 * hour:
                new.append([*readings[at][1:]])
                at += 1
            asked.append({"task": task, "patient": patient, "observe": new, "close": True})
        asked[-1]["decide"] = True
        last = end
    return asked


def _told(answers: dict[str, Answer]) -> dict[str, Any]:
    return {
        name: {
            "choice": answer.choice,
            "probabilities": answer.probabilities,
            "prediction_set": list(answer.prediction_set),
        }
        for name, answer in answers.items()
    }
