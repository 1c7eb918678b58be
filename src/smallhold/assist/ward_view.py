"""A ward in a terminal: a line a bed, the most urgent first, redrawn in place; text alone, so that SSH is enough."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

from smallhold.assist.alarm import urgency
from smallhold.assist.live import LiveBed, LiveWard
from smallhold.assist.step import GENERAL
from smallhold.records import Alert, AlertState, Priority

#: Columns of vital signs: heading, signals of which the newest is shown, format.
_VITALS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("HR", ("HR",), ".0f"),
    ("BP", ("SysABP", "NISysABP"), ".0f"),
    ("RR", ("RespRate",), ".0f"),
    ("SpO2", ("SaO2",), ".0f"),
    ("Temp", ("Temp",), ".1f"),
    ("GCS", ("GCS",), ".0f"),
)
_COLOURS = {Priority.HIGH: "41;97", Priority.MEDIUM: "43;30", Priority.LOW: "46;30", Priority.INFO: "2"}
_MARKS = {
    AlertState.ACTIVE: "!",
    AlertState.LATCHED: "L",
    AlertState.ACKNOWLEDGED: "a",
    AlertState.RESOLVED: " ",
}
_STALE_MS = 5 * 60_000
_LEGEND = "  value? older than 5 min   risk? the model abstains   ! active   L latched   a acknowledged   Ctrl-C ends"
#: Moves home and clears what lies below, so that a shorter picture leaves nothing of the longer one.
REDRAW = "\x1b[H\x1b[J"
SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the picture; `colour` is an SGR code, empty for none."""

    text: str
    colour: str = ""

    def paint(self, width: int, *, is_coloured: bool) -> str:
        """The line at most `width` cells wide."""
        text = safe_text(self.text)[:width]
        return f"\x1b[{self.colour}m{text}\x1b[0m" if self.colour and is_coloured else text


def safe_text(text: str) -> str:
    """Text from outside without anything that a terminal would obey or hide: escapes, controls, direction marks."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c)[0] == "C" else c for c in text)


def draw(ward: LiveWard, *, rows: int, notes: Sequence[str] = ()) -> list[Line]:
    """The picture of this moment; call it on the ward's thread (`LiveWard.call`).

    Args:
        ward: The ward.
        rows: Lines that there is room for; beds beyond are counted, never an urgent one before a calm one.
        notes: Lines that stand below the title: what feeds the ward, whether it is simulated.
    """
    now_ms = ward.clock.now_ms()
    beds = sorted(ward.beds.values(), key=by_urgency)
    lines = [Line(_title(ward), "1"), *(Line(note) for note in notes)]
    lines += [Line(f"! {fault}", "41;97") for fault in (ward.journal_error, ward.state_error) if fault is not None]
    heading = " ".join(f"{name:>5}" for name, _, _ in _VITALS)
    lines.append(Line(f"  {'patient':16} {'hours':>5} {heading}  NEWS2  risk  alert", "4"))
    room = max(1, rows - len(lines) - 2)
    shown = beds if len(beds) <= room else beds[: room - 1]
    lines += [_bed_line(live, now_ms) for live in shown]
    if len(shown) < len(beds):
        lines.append(Line(f"  and {len(beds) - len(shown)} calmer beds", "2"))
    return [*lines, Line(_LEGEND, "2")]


def summary(ward: LiveWard) -> dict[str, object]:
    """What the ward has done, as JSON."""
    counts = ward.counts
    return {
        "beds": len(ward.beds),
        "readings": counts.readings,
        "accepted": counts.accepted,
        "refused": dict(counts.refused),
        "steps": counts.steps,
        "decisions": counts.decisions,
        "abstained": counts.abstained,
        "model_failures": counts.model_failures,
        "alerts": counts.alerts,
        "unjournalled": counts.unjournalled,
        "alarm_ms": percentiles(counts.alarm_ms),
        "sent_to_alarm_ms": percentiles(counts.sent_to_alarm_ms),
        "decision_ms": percentiles(counts.decision_ms),
        "model_alarm_ms": percentiles(counts.model_alarm_ms),
        "step_ms": percentiles(counts.step_ms),
        "policy_us": percentiles(counts.policy_us),
    }


def percentiles(values: Sequence[float]) -> Mapping[str, float | int | None]:
    """n, p50, p99 and the largest."""
    if len(values) < 2:
        only = values[0] if values else None
        return {"n": len(values), "p50": only, "p99": only, "max": only}
    cuts = quantiles(values, n=100, method="inclusive")
    return {"n": len(values), "p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "max": round(max(values), 3)}


def by_urgency(live: LiveBed) -> tuple[int, int, str]:
    """Sorts beds, the most urgent first."""
    alert = loudest(live)
    total = live.scores.scores[0].total if live.scores is not None and live.scores.scores else -1
    return (-urgency(alert.priority) if alert is not None else 1, -total, live.bed.patient)


def loudest(live: LiveBed) -> Alert | None:
    """A bed's most urgent unresolved alert; of equally urgent ones an active one."""
    standing = [a for a in live.bed.alarms.current(live.bed.patient) if a.state is not AlertState.RESOLVED]
    return max(standing, key=lambda a: (urgency(a.priority), a.state is AlertState.ACTIVE), default=None)


def _title(ward: LiveWard) -> str:
    counts = ward.counts
    alarm, decision = percentiles(counts.alarm_ms), percentiles(counts.decision_ms)
    speed = "" if ward.clock.speed == 1 else f", {ward.clock.speed:g} times as fast as life"
    return (
        f"NOT A MEDICAL DEVICE. {len(ward.beds)} beds{speed}; {counts.accepted:,} readings, "
        f"{sum(counts.refused.values()):,} refused; {counts.decisions:,} decisions; "
        f"floor alarm p99 {_ms(alarm['p99'])}, decision p99 {_ms(decision['p99'])}"
    )


def _ms(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _risk(live: LiveBed, task: str) -> str:
    """A model's newest answer: marked where it abstained, `off` where it is missing, `-` before the first.

    A model on trial is only said to be.
    """
    if live.bed.is_silent:
        return "trial"
    model, consultation = live.models[task], live.bed.consultations.get(task)
    if model.risk is None or consultation is None:
        return "off" if model.model_error is not None or consultation is None else "-"
    p = model.risk.probabilities[consultation.question.alarm_choice]
    return f"{p:.0%}" + ("?" if model.risk.has_abstained else "")


def _bed_line(live: LiveBed, now_ms: int) -> Line:
    bed, readings = live.bed, live.bed.readings
    cells = []
    for _, codes, form in _VITALS:
        known = [readings[code] for code in codes if code in readings]
        if not known:
            cells.append(f"{'-':>5}")
            continue
        value, t_ms = max(known, key=lambda item: item[1])
        mark = "?" if now_ms - t_ms > _STALE_MS else ""
        cells.append(f"{format(value, form) + mark:>5}")
    score = live.scores.scores[0].total if live.scores is not None and live.scores.scores else None
    risk = _risk(live, GENERAL)
    beside = " ".join(f"{task[:4]} {_risk(live, task)}" for task in live.models if task != GENERAL)
    alert = loudest(live)
    text = "" if alert is None else f"{_MARKS[alert.state]} {alert.priority.value.upper()} {alert.message}"
    text = f"[{beside}] {text}" if beside else text
    hours = (now_ms - live.admitted_ms) / 3_600_000
    line = (
        f"  {bed.patient:16.16} {hours:5.1f} {' '.join(cells)}  {'-' if score is None else score:>5} {risk:>5}  {text}"
    )
    is_loud = alert is not None and alert.state in (AlertState.ACTIVE, AlertState.LATCHED)
    return Line(line, _COLOURS[alert.priority] if alert is not None and is_loud else "")
