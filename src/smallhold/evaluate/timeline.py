"""One patient's stay in one picture: what the model saw, what it said, what it cited, and who was called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smallhold.evaluate.result import Citation, HourlyRisk, Patient, TimelineAlert
from smallhold.evaluate.svg import GRID, HIGH, INK, LOW, MEDIUM, MUTED, PAPER, SERIES, Picture, clipped, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour and marker of an alarm priority: red, yellow, cyan as IEC 60601-1-8 has them, and a shape for those who do not
# see the colour.
_PRIORITY = {"high": (HIGH, "^"), "medium": (MEDIUM, "D"), "low": (LOW, "o"), "info": (MUTED, ".")}
_MOST_CITED = 6
_WIDTH_INCHES = 9.6


def timeline_picture(name: str, patient: Patient, *, is_simulated: bool) -> Picture:
    """Vitals as observed, NEWS2 in steps, the model's calibrated risk, its evidence, and the alerts, hour by hour.

    Args:
        name: Unique on the page.
        patient: The stay; every part may be absent.
        is_simulated: Whether the patient comes from the simulator.
    """
    vitals = patient.get("vitals", [])
    risk = patient.get("risk", [])
    news2 = patient.get("news2", [])
    alerts = patient.get("alerts", [])
    cited = most_cited(risk)
    heights = [0.42] * len(vitals) + [0.55] * bool(news2) + [1.3] * bool(risk)
    heights += [0.15 + 0.16 * len(cited)] * bool(cited) + [0.15 + 0.2 * len(_sources(alerts))] * bool(alerts)

    def paint(figure: Figure) -> None:
        if not heights:
            return
        rows = iter(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
        for vital in vitals:
            axes = next(rows)
            if vital["points"]:
                axes.plot(
                    *zip(*vital["points"], strict=True), color=MUTED, linewidth=0.7, marker="o", markersize=2.6,
                    markerfacecolor=INK, markeredgecolor=INK, markeredgewidth=0,
                )  # fmt: skip
            axes.locator_params(axis="y", nbins=2)
            axes.margins(y=0.25)
            _row_label(axes, vital["code"], vital["unit"])
        if news2:
            axes = next(rows)
            hours, totals = zip(*news2, strict=True)
            axes.step(hours, totals, where="post", color=SERIES[3], linewidth=1.4)
            axes.axhline(7, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
            axes.set_ylim(0, max(10, *totals) + 1)
            axes.set_yticks([0, 7])
            _row_label(axes, "NEWS2", "points")
        if risk:
            axes = next(rows)
            _paint_risk(axes, risk, patient.get("threshold"), alerts)
        if cited:
            _paint_evidence(next(rows), risk, cited)
        if alerts:
            axes = next(rows)
            _paint_alerts(axes, alerts)
        axes.set_xlabel("hours since admission")
        axes.set_xlim(0, _last_hour(patient) + 0.5)
        axes.locator_params(axis="x", steps=[1, 2, 3, 6], nbins=9, integer=True)

    height = 0.7 + sum(heights) * 1.25
    title = f"Patient {patient['id']}" if patient.get("id") else "One patient"
    return draw(
        name, f"{title}: hour by hour", describe_stay(patient), size_inches=(_WIDTH_INCHES, height),
        is_simulated=is_simulated, paint=paint,
    )  # fmt: skip


def most_cited(risk: list[HourlyRisk]) -> list[str]:
    """The parameters that the model cited most, by summed absolute effect; ties by name."""
    total: dict[str, float] = {}
    for item in risk:
        for citation in item.get("evidence", []):
            total[citation["code"]] = total.get(citation["code"], 0.0) + abs(citation["effect"])
    return sorted(total, key=lambda code: (-total[code], code))[:_MOST_CITED]


def evidence_at(risk: list[HourlyRisk], hour: float) -> list[Citation]:
    """What the last decision at or before an hour cited."""
    said = [item for item in risk if item["hour"] <= hour]
    return said[-1].get("evidence", []) if said else []


def describe_stay(patient: Patient) -> str:
    """The timeline in words."""
    risk, alerts, news2 = patient.get("risk", []), patient.get("alerts", []), patient.get("news2", [])
    words = [f"{len(patient.get('vitals', []))} signals over {_last_hour(patient):.3g} hours."]
    if risk:
        top = max(risk, key=lambda item: item["probability"])
        words.append(
            "Calibrated risk "
            + ", ".join(f"{item['probability']:.2f} at hour {item['hour']:.3g}" for item in (risk[0], risk[-1]))
            + f"; highest {top['probability']:.2f} at hour {top['hour']:.3g}."
        )
        silent = sum(item.get("has_abstained", False) for item in risk)
        words.append(f"The model abstained in {silent} of {len(risk)} hours.")
    if "threshold" in patient:
        words.append(f"Alert threshold {patient['threshold']:.2f}.")
    if news2:
        words.append(f"NEWS2 from {min(total for _, total in news2):g} to {max(total for _, total in news2):g}.")
    called = [
        f"{item['priority']} priority from {item['source']} at hour {item['hour']:.3g}: {item['message']}"
        for item in alerts
    ]
    words.append("; ".join(called) + "." if called else "No alert.")
    if patient.get("outcome"):
        words.append(f"Outcome: {patient['outcome']}.")
    return " ".join(words)


def _paint_risk(axes: Axes, risk: list[HourlyRisk], threshold: float | None, alerts: list[TimelineAlert]) -> None:
    hours = [item["hour"] for item in risk]
    probabilities = [item["probability"] for item in risk]
    axes.plot(hours, probabilities, color=SERIES[0], linewidth=1.6)
    for is_silent, face, label in ((False, SERIES[0], "answered"), (True, PAPER, "abstained")):
        shown = [item for item in risk if item.get("has_abstained", False) is is_silent]
        if shown:
            axes.plot(
                [item["hour"] for item in shown], [item["probability"] for item in shown], linestyle="none", marker="o",
                markersize=3.6, markerfacecolor=face, markeredgecolor=SERIES[0], label=label,
            )  # fmt: skip
    top = max([*probabilities, threshold or 0.0])
    if threshold is not None:
        axes.axhline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label=f"alert at {threshold:.2f}")
        axes.fill_between(hours, threshold, probabilities, where=[p >= threshold for p in probabilities],
                          interpolate=True, color=SERIES[0], alpha=0.18, linewidth=0)  # fmt: skip
    for alert in alerts:
        axes.axvline(alert["hour"], color=_look(alert)[0], linewidth=0.8, zorder=1)
    axes.set_ylim(0, min(1.0, top * 1.35) if top > 0 else 1.0)
    axes.legend(loc="upper left", ncols=3, handlelength=2)
    _row_label(axes, "risk", "calibrated")


def _paint_evidence(axes: Axes, risk: list[HourlyRisk], cited: list[str]) -> None:
    strongest = max(abs(citation["effect"]) for item in risk for citation in item.get("evidence", [])) or 1.0
    for item in risk:
        for citation in item.get("evidence", []):
            if citation["code"] in cited:
                speaks_for = citation["effect"] > 0
                axes.plot(
                    item["hour"], cited.index(citation["code"]), linestyle="none", marker="^" if speaks_for else "v",
                    markersize=2.5 + 4.5 * abs(citation["effect"]) / strongest, markeredgewidth=0,
                    color=SERIES[1] if speaks_for else SERIES[2],
                )  # fmt: skip
    _lanes(axes, cited)
    _row_label(axes, "cited", "▲ pro ▼ con")


def _paint_alerts(axes: Axes, alerts: list[TimelineAlert]) -> None:
    sources = _sources(alerts)
    for alert in alerts:
        colour, marker = _look(alert)
        axes.plot(
            alert["hour"], sources.index(alert["source"]), linestyle="none", marker=marker, markersize=7,
            markerfacecolor=PAPER if alert.get("is_degraded") else colour, markeredgecolor=colour,
        )  # fmt: skip
    _lanes(axes, sources)
    _row_label(axes, "alerts", "")


def _lanes(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [clipped(name, 12) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="y", color=GRID)


def _row_label(axes: Axes, label: str, unit: str) -> None:
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0)
    text = f"{clipped(label, 18)}\n{clipped(unit, 18)}".strip()
    axes.set_ylabel(text, rotation=0, ha="left", va="center", labelpad=0, fontsize=8)
    axes.yaxis.set_label_coords(-0.17, 0.5)


def _look(alert: TimelineAlert) -> tuple[str, str]:
    return _PRIORITY.get(alert["priority"], _PRIORITY["info"])


def _sources(alerts: list[TimelineAlert]) -> list[str]:
    return sorted({alert["source"] for alert in alerts})


def _last_hour(patient: Patient) -> float:
    hours = [point[0] for vital in patient.get("vitals", []) for point in vital["points"]]
    hours += [item["hour"] for item in patient.get("risk", [])] + [item["hour"] for item in patient.get("alerts", [])]
    return max([*hours, *(point[0] for point in patient.get("news2", []))], default=0.0)
