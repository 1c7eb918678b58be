"""Our program as a contestant: readings in, decisions out, one JSON object a line; nothing is left to Python.

It does more than the rows beside it: it turns readings into words or signal tokens, calibrates, and says a prediction
set. Of a stream alone: the program has no windows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.decide.process import ContestantError, Outcome, Process, settled_cpu_seconds
from bench.decide.workload import BUNDLE, HOURS, ROOT, Workload

from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import Stay

_PATIENT = {"task": "icu-risk", "patient": "1"}


class EngineProgram:
    """`smallhold-engine` with the shipped bundle."""

    def __init__(
        self, program: Path, workload: Workload, margin: Callable[[float], float], *, words: bool, log: Path
    ) -> None:
        """Start it.

        Args:
            program: `smallhold-engine`.
            workload: What is asked: the stays of the streams, in the order of their groups.
            margin: From a calibrated probability back to the logits' margin.
            words: By observation words; else by signal tokens.
            log: Where its messages go.
        """
        keys = ROOT / "models" / "trusted_keys"
        self._process = Process([program, BUNDLE, "--task", "icu-risk", "--trusted-keys", keys], log=log)
        self.pid = self._process.pid
        self._margin = margin
        self._requests = [_requests(stay, workload.card_ends) for stay in workload.stays]
        self._openings = [
            json.dumps(_PATIENT | {"static": static_features(stay).tolist()} | ({"words": True} if words else {}))
            for stay in workload.stays
        ]

    def run(self, group: int) -> Outcome:
        """Answer a group of events.

        Raises:
            ContestantError: a request was refused.
        """
        self._ask(self._openings[group])
        outcome = Outcome()
        begun = settled_cpu_seconds(self.pid)
        for lines in self._requests[group]:
            start = time.perf_counter()
            for line in lines:
                answer = self._ask(line)
            outcome.wall_ms.append((time.perf_counter() - start) * 1e3)
            (field,) = answer["answers"].values()
            outcome.margins.append(self._margin(field["probabilities"]["yes"]))
        outcome.cpu_seconds = settled_cpu_seconds(self.pid) - begun
        self._ask(json.dumps(_PATIENT | {"static": None}))
        return outcome

    def first(self) -> None:
        """Answer the first event of the first group alone."""
        self._ask(self._openings[0])
        for line in self._requests[0][0]:
            self._ask(line)

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def _ask(self, line: str) -> dict[str, Any]:
        self._process.tell(line)
        answer: dict[str, Any] = self._process.hear()
        if "error" in answer:
            raise ContestantError(f"smallhold-engine: {answer['error']['message']}")
        return answer


def _requests(stay: Stay, ends: Sequence[int]) -> list[list[str]]:
    """Lines of each event: hours that are closed, the last with a decision."""
    events: list[list[str]] = []
    lines: list[str] = []
    at = 0
    for hour in range(1, HOURS + 1):
        readings = []
        while at < len(stay.minute) and stay.minute[at] <= 60 * hour:
            readings.append([PARAMETERS[stay.code[at]].name, float(stay.value[at])])
            at += 1
        is_due = hour in ends
        lines.append(json.dumps(_PATIENT | {"observe": readings, "close": True} | ({"decide": True} if is_due else {})))
        if is_due:
            events.append(lines)
            lines = []
    return events
