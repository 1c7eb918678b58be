"""CDS Hooks cards (2.0) from what stands at a bed: one for each alert, conflict of drugs or score.

Indicator: HIGH is critical, MEDIUM and LOW are warning, INFO is info. Text that did not come from this program is
escaped wherever Markdown would obey it.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any

from smallhold.assist.alarm import urgency
from smallhold.assist.interop.cds_view import Picture
from smallhold.assist.interop.fhir_base import Dialect, Json
from smallhold.assist.interop.fhir_out import communication_request
from smallhold.assist.medication.board import Conflict
from smallhold.records import Alert, Priority, Score, ScoreSet

LONGEST_SUMMARY = 139  # the specification: fewer than 140 characters
INDICATOR = {
    Priority.HIGH: "critical",
    Priority.MEDIUM: "warning",
    Priority.LOW: "warning",
    Priority.INFO: "info",
}
REASON_URI = "urn:smallhold:override-reason"
#: Why a person may set a card aside; the words of `records.Feedback.reason`.
OVERRIDE_REASONS: dict[str, str] = {
    "already-known": "I know, and it is being treated",
    "artefact": "The reading is wrong",
    "expected": "Expected in this patient",
    "not-relevant": "Not relevant for this patient",
    "other": "Another reason",
}
_NAMESPACE = uuid.UUID("4a6f1a5c-4f2e-5b27-8f55-7a0f6d2c9b11")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&:@$=^\"'])")
_SOURCE: Json = {"label": "Smallhold (research software, not a medical device)"}


@dataclass(frozen=True, slots=True)
class Issued:
    """A card and what it is about.

    Attributes:
        card: As it is sent.
        about: The alert's id, `conflict:DRUG` or `score:NAME`.
    """

    card: Json
    about: str


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: no link, image, HTML or emphasis of its own, and no line of its own."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return _MARKUP.sub(r"\\\1", plain)


def summary(text: str) -> str:
    """One line of fewer than 140 characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST_SUMMARY else line[: LONGEST_SUMMARY - 1] + "…"


def alert_cards(
    picture: Picture, hook_instance: str, dialect: Dialect, *, least: Priority = Priority.INFO
) -> list[Issued]:
    """A card for each standing alert, the most urgent first.

    Args:
        picture: The patient.
        hook_instance: Makes the cards' identifiers: the same request is answered with the same cards.
        dialect: Of suggested resources.
        least: Alerts below are left out.
    """
    standing = [alert for alert in picture.alerts if urgency(alert.priority) >= urgency(least)]
    standing.sort(key=lambda alert: (-urgency(alert.priority), alert.t_ms, alert.id))
    return [Issued(_alert_card(alert, picture, hook_instance, dialect), alert.id) for alert in standing]


def conflict_cards(patient: str, drug: str, conflicts: list[Conflict], hook_instance: str) -> list[Issued]:
    """A card for each conflict of a drug that is being ordered."""
    cards = []
    for number, conflict in enumerate(conflicts):
        is_forbidden = conflict.severity == "contraindicated"
        detail = f"**{escape_markdown(drug)}**: {escape_markdown(conflict.text)}"
        if conflict.source:
            detail += f"\n\nSource: {escape_markdown(conflict.source)}"
        card = _card(
            hook_instance,
            f"conflict:{patient}:{drug}:{number}",
            f"{drug}: {conflict.severity}: {conflict.text}",
            "critical" if is_forbidden else "warning",
            detail,
        )
        cards.append(Issued(card, f"conflict:{drug}"))
    return cards


def score_card(scores: ScoreSet, hook_instance: str) -> Issued | None:
    """A card for the first score, of a patient who does not lie on the ward; None without one."""
    if not scores.scores:
        return None
    score = scores.scores[0]
    indicator = {"high": "critical", "medium": "warning", "low-medium": "warning"}.get(score.band, "info")
    text = f"{score.name.upper()} is {score.total} ({score.band})" + (", at least" if score.missing else "")
    card = _card(hook_instance, f"score:{scores.patient}:{score.name}", text, indicator, _score_lines(score))
    return Issued(card, f"score:{score.name}")


def _alert_card(alert: Alert, picture: Picture, hook_instance: str, dialect: Dialect) -> Json:
    lines = [escape_markdown(alert.message), ""]
    lines.append(f"Priority **{alert.priority.value}**, {alert.state.value}, said by the {_speaker(alert)}.")
    if alert.is_degraded:
        lines.append("\n**Degraded**: the model is late, unsure or down; the score speaks alone.")
    if alert.provenance.simulated:
        lines.append("\n**Simulated**: no patient stands behind this.")
    if picture.scores is not None and picture.scores.scores:
        lines += ["", _score_lines(picture.scores.scores[0])]
    risk = picture.risk
    if risk is not None:
        answer = "abstains" if risk.has_abstained else f"answers {escape_markdown(str(risk.choice))}"
        lines += ["", f"The model {answer} ({escape_markdown(risk.field)}):"]
        lines += [f"- {escape_markdown(name)}: {p:.0%}" for name, p in risk.probabilities.items()]
    head = ("Simulated: " if alert.provenance.simulated else "") + alert.message
    card = _card(hook_instance, alert.id, head, INDICATOR[alert.priority], "\n".join(lines))
    suggestions = [
        {
            "label": summary(ask.question)[:80],
            "uuid": _uuid(hook_instance, alert.id, ask.action),
            "actions": [
                {
                    "type": "create",
                    "description": "Ask the ward's staff to confirm",
                    "resource": communication_request(ask, dialect),
                }
            ],
        }
        for ask in picture.asks
    ]
    return card | ({"suggestions": suggestions, "selectionBehavior": "at-most-one"} if suggestions else {})


def _card(hook_instance: str, about: str, head: str, indicator: str, detail: str) -> dict[str, Any]:
    return {
        "uuid": _uuid(hook_instance, about),
        "summary": summary(head),
        "indicator": indicator,
        "detail": detail,
        "source": _SOURCE,
        "overrideReasons": [
            {"system": REASON_URI, "code": code, "display": text} for code, text in OVERRIDE_REASONS.items()
        ],
    }


def _score_lines(score: Score) -> str:
    lines = [f"{escape_markdown(score.name.upper())} **{score.total}** ({escape_markdown(score.band)})"]
    lines += [
        f"- {escape_markdown(part.replace('_', ' '))}: {points}" for part, points in score.parts.items() if points
    ]
    if score.missing:
        named = escape_markdown(", ".join(score.missing).replace("_", " "))
        lines.append(f"\nAt least so much: no usable reading of {named}.")
    return "\n".join(lines)


def _speaker(alert: Alert) -> str:
    return {"floor": "deterministic score", "model": "model", "gate": "check of the readings"}.get(
        alert.source, escape_markdown(alert.source)
    )


def _uuid(*words: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\n".join(words)))
