"""What every contestant answers: simulated stays in observation words, as groups of events.

`stream`: a stay is opened by its static words; every card that closes is appended, and decided on. `window`: a prefix
of 180 words stays in the cache; windows of 120 words, each ending with an hour, are decided on and rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.local import LocalTask, open_bundle
from smallhold.decide.plan import calibrate_logits
from smallhold.decide.words import words_of_record
from smallhold.device.durable_file import write_durably
from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.simulator import simulate_ward
from smallhold.sectors.hospital.stays import Stay

HOURS, PREFIX, WINDOW = 48, 180, 120
_SIMULATED = 300
ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "models" / "hospital"
GGUF = BUNDLE / "gguf" / "trunk.gguf"


@dataclass(frozen=True, slots=True)
class Group:
    """Events on one sequence.

    Attributes:
        kind: Events of a stream stay in the sequence; windows are rolled back.
        prefix: Tokens that it opens with, untimed.
        events: Tokens of each event; a decision is due after the last.
    """

    kind: Literal["stream", "window"]
    prefix: list[int]
    events: list[list[int]]

    def prompt(self, event: int) -> list[int]:
        """Everything that the model has read when it decides on an event."""
        kept = self.events[:event] if self.kind == "stream" else []
        return [*self.prefix, *(token for tokens in (*kept, self.events[event]) for token in tokens)]


@dataclass(frozen=True, slots=True)
class Workload:
    """Groups, the tokens of the two choices, and the stays behind the streams, with the hours at which cards end."""

    groups: list[Group]
    rows: tuple[int, int]
    stays: list[Stay]
    card_ends: tuple[int, ...]

    def of(self, kind: str) -> list[int]:
        """Numbers of the groups of a kind."""
        return [i for i, group in enumerate(self.groups) if group.kind == kind]

    def first(self, events: int) -> Workload:
        """So many events of the first stream and of the windows, for models that take long."""
        some = [self.groups[self.of(kind)[0]] for kind in ("stream", "window")]
        return replace(self, groups=[replace(group, events=group.events[:events]) for group in some])

    def write(self, path: Path) -> None:
        """The file that `driver.c` and `worker.py` read; `driver.c` says how."""
        lines = [f"rows {self.rows[0]} {self.rows[1]}"]
        for group in self.groups:
            lines.append(_line("begin", group.prefix))
            lines += [_line("keep" if group.kind == "stream" else "try", tokens) for tokens in group.events]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, ["\n".join(lines).encode() + b"\n"], mode=0o644)


def open_task() -> LocalTask:
    """The shipped hospital model, verified."""
    keys = ROOT / "models" / "trusted_keys"
    return open_bundle(BUNDLE, trusted_keys=keys, now=datetime.now(UTC)).signal_task("icu-risk")


def hospital_workload(task: LocalTask, *, stays: int, windows: int, seed: int = 0) -> Workload:
    """Streams of so many stays, and one prefix with so many windows, of stays that are all different.

    The patients die in the simulation: among them the model finds both those that it alerts about and those that it
    does not, so that equal decisions mean something.
    """
    door = task.word_door()
    (plan,) = task.plans.values()
    if not plan.is_direct or len(plan.deciding) != 2:
        raise ValueError(f"expected a field of two tokens that nothing precedes, got {plan}")
    groups: list[Group] = []
    chosen: list[Stay] = []
    prefix: list[int] = []
    endings: list[list[int]] = []
    ward = simulate_ward(_SIMULATED, seed, HOURS)
    for stay in (stay for stay in ward if stay.died):
        words = words_of_record(door.words, task.task.signal, stay.minute, stay.code, stay.value)
        cards = [door.spell(card) for card in words]
        opening = door.prefix(static_features(stay))
        whole = [*opening, *(token for card in cards for token in card)]
        if len(groups) < stays:
            groups.append(Group("stream", opening, cards))
            chosen.append(stay)
        elif not prefix and len(whole) >= PREFIX:
            prefix = whole[:PREFIX]
        elif len(whole) - len(opening) >= WINDOW and len(endings) < windows:
            endings.append(whole[-WINDOW:])
    if not prefix or len(endings) < windows:
        raise ValueError(f"the simulated ward gave {len(endings)} windows of {WINDOW} words, expected {windows}")
    groups.append(Group("window", prefix, endings))
    return Workload(groups, (plan.deciding[0], plan.deciding[1]), chosen, door.words.card_ends)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the field's probabilities follow from the margin between its two logits."""

    margins: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    threshold: float

    @classmethod
    def of(cls, task: LocalTask) -> Calibration:
        """Tabulate what the task was shipped with, for observation words."""
        (field,) = task.task.fields_in_words
        positive = field.choices.index(field.positive)
        logits = np.zeros((40_001, 2))
        logits[:, positive] = np.linspace(-20, 20, len(logits))
        return cls(logits[:, positive], calibrate_logits(field, logits)[:, positive], field.alert_threshold)

    @property
    def alert(self) -> float:
        """Margin from which an alert is due, to a thousandth."""
        return float(self.margins[self.probabilities >= self.threshold][0])

    def margin(self, probability: float) -> float:
        """The margin behind a probability; where several have it, one of them."""
        return float(np.interp(probability, self.probabilities, self.margins))


def _line(kind: str, tokens: list[int]) -> str:
    return " ".join(map(str, (kind, len(tokens), *tokens)))
