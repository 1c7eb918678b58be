"""Alarms as HL7 v2: ORU^R40 after IHE PCD-04 (Alert Communication Management, from a reporter to a manager).

Source: IHE Devices technical framework, volume 2, section 3.4; codes of ISO/IEEE 11073-10101 for the facets of an
alarm. A condition of ours has no code there: OBX-5 holds our own, of the coding system 99SMALLHOLD. The profile's OID
is left out of MSH-21, because published examples disagree about it. Simulated patients have processing id T.
"""

from __future__ import annotations

from dataclasses import dataclass

from smallhold.assist.alarm_condition import AlarmChange, Change
from smallhold.assist.sources.hl7 import dtm, escape
from smallhold.records import Alert, AlertState, Priority

SYSTEM = "99SMALLHOLD"
_PRIORITY = {Priority.HIGH: "PH", Priority.MEDIUM: "PM", Priority.LOW: "PL", Priority.INFO: "PN"}
_KIND = {"physiological": "SP", "technical": "ST"}
_STATE = {
    AlertState.ACTIVE: "active",
    AlertState.ACKNOWLEDGED: "active",
    AlertState.LATCHED: "latched",
    AlertState.RESOLVED: "inactive",
}
_PHASE = {Change.RETURNED: "continue", Change.RESOLVED: "end"}


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """One event of one alarm, as it is sent.

    Attributes:
        alert: As it stands after it.
        phase: PCD-04: start, present, continue, update, escalate or end.
        t_ms: When, UTC.
    """

    alert: Alert
    phase: str
    t_ms: int

    @property
    def key(self) -> str:
        """Names the alarm over all its events."""
        return f"{self.alert.patient}:{self.alert.id}"


def event_of(change: AlarmChange, *, is_known: bool) -> AlarmEvent:
    """What a change of an alert is in the words of PCD-04.

    Args:
        change: The change.
        is_known: An event of this alarm was sent before.
    """
    if change.change is Change.RAISED:
        phase = "escalate" if is_known else "start"
    else:
        phase = _PHASE.get(change.change, "update") if is_known or change.change is Change.RESOLVED else "present"
    return AlarmEvent(change.alert, phase, change.t_ms)


def write_alarm(event: AlarmEvent, control_id: str, now_ms: int, *, number: int, sender: str = "SMALLHOLD") -> bytes:
    """One ORU^R40^ORU_R40.

    Args:
        event: What is told.
        control_id: MSH-10.
        now_ms: MSH-7, UTC.
        number: 0 for the first event of this alarm, then 1, 2, ...: the later ones name the first as their parent.
        sender: MSH-3.
    """
    alert = event.alert
    flags = f"{_PRIORITY[alert.priority]}~{_KIND[alert.kind]}"
    seen = "alert-acknowledged" if alert.state is AlertState.ACKNOWLEDGED else "enabled"
    when, order = dtm(event.t_ms), f"{escape(event.key)}"
    header = (
        f"MSH|^~\\&|{escape(sender)}||||{dtm(now_ms)}||ORU^R40^ORU_R40|{escape(control_id)}|"
        f"{'T' if alert.provenance.simulated else 'P'}|2.6|||AL|NE||UNICODE UTF-8|||IHE_PCD_ACM_001^IHE PCD"
    )
    parent = f"^{order}-0&{escape(sender)}" if number else ""
    request = ["OBR", "1", "", f"{order}-{number}^{escape(sender)}", "196616^MDC_EVT_ALARM^MDC", "", "", when]
    request += [""] * 21 + [parent]  # OBR-29
    condition = f"{escape(alert.condition)}^{escape(alert.message)}^{SYSTEM}"
    facets = (
        ("CWE", "196616^MDC_EVT_ALARM", condition),
        ("ST", "68480^MDC_ATTR_ALERT_SOURCE", escape(alert.source + (" (degraded)" if alert.is_degraded else ""))),
        ("ST", "68481^MDC_ATTR_EVENT_PHASE", event.phase),
        ("ST", "68482^MDC_ATTR_ALARM_STATE", _STATE[alert.state]),
        ("ST", "68483^MDC_ATTR_ALARM_INACTIVATION_STATE", seen),
        ("ST", "68484^MDC_ATTR_ALARM_PRIORITY", _PRIORITY[alert.priority]),
        ("ST", "68485^MDC_ATTR_ALERT_TYPE", _KIND[alert.kind]),
        ("ST", "68546^MDC_ATTR_ALERT_TEXT", escape(alert.message)),
    )
    lines = [header, f"PID|1||{escape(alert.patient)}^^^{escape(sender)}^PI", "|".join(request).rstrip("|")]
    lines += [
        f"OBX|{position}|{kind}|{code}^MDC|1.0.0.0.{position}|{value}|||{flags if position == 1 else ''}|||F|||{when}"
        for position, (kind, code, value) in enumerate(facets, start=1)
    ]
    return "".join(f"{line}\r" for line in lines).encode()
