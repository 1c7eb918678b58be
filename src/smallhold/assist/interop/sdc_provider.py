"""A bed as an IEEE 11073 SDC device: its vital signs, scores and alarms as an MDIB that consumers subscribe to.

Sources: IEEE 11073-10207 (BICEPS) and -20701. One provider is one bed. It is reached by its address; it answers reading
and subscriptions, and offers no operation: nobody can set anything through it.
"""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from smallhold.assist.alarm import urgency
from smallhold.assist.interop.sdc_library import PATIENT_ROOT, NoDiscovery, contexts, library
from smallhold.assist.interop.terms import Terms
from smallhold.assist.sources.address import Credentials, check_plaintext
from smallhold.errors import EndpointError, InputError
from smallhold.records import Alert, AlertState, Priority, Score

_MSG = "http://standards.ieee.org/downloads/11073/11073-10207-2017/message"
_PM = "http://standards.ieee.org/downloads/11073/11073-10207-2017/participant"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_CONDITION_SYSTEM = "urn:smallhold:condition"
#: Where a condition goes that has no descriptor of its own, by kind of alert.
OTHER = {"physiological": "other-physiological", "technical": "other-technical"}
_PRIORITY = {Priority.HIGH: "Hi", Priority.MEDIUM: "Me", Priority.LOW: "Lo", Priority.INFO: "None"}
_NAMESPACE = uuid.UUID("0b7d6a3e-54c1-5d5a-9a0f-2f8a1c4be911")


@dataclass(frozen=True, slots=True)
class Metric:
    """A vital sign that is offered: the parameter and the unit in which it is given, UCUM."""

    code: str
    unit: str


class BedProvider:
    """One bed on the network. Used from one thread.

    Args:
        patient: Pseudonymous identifier.
        metrics: Vital signs; those without a code and unit in IEEE 11073-10101 are refused.
        terms: The sector's codes.
        scores: Names of scores.
        conditions: Alarm conditions with a descriptor of their own.
        host: Where to listen; loopback without TLS.
        credentials: TLS with certificates on both sides.
        unsafe_plaintext: Other machines without TLS.

    Raises:
        InputError: a metric has no code, or readings would travel between machines in the clear.
        MissingExtraError: sdc11073 is not installed.
    """

    def __init__(
        self,
        patient: str,
        metrics: Sequence[Metric],
        terms: Terms,
        *,
        scores: Sequence[str] = ("news2",),
        conditions: Sequence[str] = ("deterioration", "signal-stale", "model-unavailable"),
        host: str = "127.0.0.1",
        credentials: Credentials | None = None,
        unsafe_plaintext: bool = False,
    ) -> None:
        what = f"SDC provider on {host}"
        check_plaintext(host, uses_tls=credentials is not None, unsafe_plaintext=unsafe_plaintext, what=what)
        self.patient = patient
        self._sdc = sdc = library()
        self._metrics = {metric.code for metric in metrics}
        self._scores = set(scores)
        self._conditions = (*conditions, *OTHER.values())
        xml = ET.tostring(_mdib(metrics, terms, scores, self._conditions), encoding="utf-8", xml_declaration=True)
        self._mdib = sdc.ProviderMdib.from_string(xml, protocol_definition=sdc.Definitions)
        self._provider = sdc.SdcProvider(
            NoDiscovery(host),
            sdc.ThisModelType("Smallhold", "urn:smallhold", "bedside (research software, not a medical device)"),
            sdc.ThisDeviceType(f"bed of {patient}"),
            self._mdib,
            epr=uuid.uuid5(_NAMESPACE, patient),
            ssl_context_container=contexts(sdc, credentials),
        )
        self._is_running = False

    def start(self) -> str:
        """Listen; returns the address that a consumer connects to.

        Raises:
            EndpointError: the address cannot be used.
        """
        try:
            self._provider.start_all(start_rtsample_loop=False, http_server_start_timeout=10.0)
        except (OSError, RuntimeError) as error:
            raise EndpointError(f"SDC provider: cannot listen: {error}") from error
        self._is_running = True
        pm = self._sdc.pm_types
        with self._mdib.context_state_transaction() as change:
            state = change.mk_context_state("context.patient", set_associated=True)
            state.Identification = [pm.InstanceIdentifier(PATIENT_ROOT, extension_string=self.patient)]
        return str(self._provider.get_xaddrs()[0])

    def stop(self) -> None:
        """Tell subscribers, and end; calling it twice does no harm."""
        if self._is_running:
            self._is_running = False
            self._provider.stop_all()

    def show_reading(self, code: str, value: float, t_ms: int) -> bool:
        """A new value of a vital sign, in the unit of its metric; False when it is not offered here."""
        if code not in self._metrics:
            return False
        self._show(f"metric.{code}", Decimal(repr(round(value, 6))), t_ms, "Vld")
        return True

    def show_score(self, score: Score, t_ms: int) -> bool:
        """A new total; questionable when a part is missing, which makes it a lower bound."""
        if score.name not in self._scores:
            return False
        self._show(f"score.{score.name}", Decimal(score.total), t_ms, "Qst" if score.missing else "Vld")
        return True

    def show_alerts(self, alerts: Iterable[Alert], t_ms: int) -> None:
        """The alerts that stand now, all of them; a condition with several is as urgent as its most urgent."""
        loudest: dict[str, Alert] = {}
        for alert in alerts:
            if alert.state is AlertState.RESOLVED:
                continue
            name = alert.condition.partition(":")[0]
            name = name if name in self._conditions else OTHER[alert.kind]
            held = loudest.get(name)
            if held is None or urgency(alert.priority) > urgency(held.priority):
                loudest[name] = alert
        pm = self._sdc.pm_types
        with self._mdib.alert_state_transaction(set_determination_time=False) as change:
            for name in self._conditions:
                standing = loudest.get(name)
                condition = change.get_state(f"condition.{name}")
                condition.Presence = standing is not None and standing.state is not AlertState.LATCHED
                condition.ActualPriority = pm.AlertConditionPriority(
                    _PRIORITY[Priority.LOW if standing is None else standing.priority]
                )
                condition.ActivationState = pm.AlertActivation.ON
                condition.DeterminationTime = (t_ms if standing is None else standing.t_ms) / 1e3
                signal = change.get_state(f"signal.{name}")
                signal.ActivationState = pm.AlertActivation.ON
                signal.Presence = _signal(pm, standing)

    def _show(self, handle: str, value: Decimal, t_ms: int, validity: str) -> None:
        pm = self._sdc.pm_types
        # The time of the measurement, not the one at which the library is told of it.
        with self._mdib.metric_state_transaction(set_determination_time=False) as change:
            state = change.get_state(handle)
            if state.MetricValue is None:
                state.mk_metric_value()
            state.ActivationState = pm.ComponentActivation.ON
            state.MetricValue.Value = value
            state.MetricValue.DeterminationTime = t_ms / 1e3
            state.MetricValue.MetricQuality.Validity = pm.MeasurementValidity(validity)


def _signal(pm: Any, alert: Alert | None) -> Any:
    presence = pm.AlertSignalPresence
    if alert is None:
        return presence.OFF
    return {AlertState.ACKNOWLEDGED: presence.ACK, AlertState.LATCHED: presence.LATCH}.get(alert.state, presence.ON)


def _mdib(metrics: Sequence[Metric], terms: Terms, scores: Sequence[str], conditions: Sequence[str]) -> ET.Element:
    """The description of one bed; states are made by the library."""
    root = ET.Element(f"{{{_MSG}}}GetMdibResponse", SequenceId=uuid.uuid4().urn)
    mdib = ET.SubElement(root, f"{{{_MSG}}}Mdib", SequenceId=uuid.uuid4().urn)
    mds = _part(_part(mdib, "MdDescription", DescriptionVersion="0"), "Mds", "mds", SafetyClassification="Inf")
    _coded(mds, "Type", "69965", "MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS")
    alerts = _part(mds, "AlertSystem", "alerts", SafetyClassification="Inf")
    for name in conditions:
        kind = "Tec" if name in ("signal-stale", "model-unavailable", OTHER["technical"]) else "Phy"
        condition = _part(alerts, "AlertCondition", f"condition.{name}", Kind=kind, Priority="Hi")
        _coded(condition, "Type", name, system=_CONDITION_SYSTEM)
        _part(condition, "Source").text = "mds"
    for name in conditions:
        signal = {"ConditionSignaled": f"condition.{name}", "Manifestation": "Vis", "Latching": "true"}
        _part(alerts, "AlertSignal", f"signal.{name}", **signal)
    context = _part(mds, "SystemContext", "context")
    _part(context, "PatientContext", "context.patient")
    _part(context, "LocationContext", "context.location")
    vmd = _part(mds, "Vmd", "vmd")
    _coded(vmd, "Type", "69966", "MDC_DEV_MON_PHYSIO_MULTI_PARAM_VMD")
    channel = _part(vmd, "Channel", "channel")
    _coded(channel, "Type", "69967", "MDC_DEV_MON_PHYSIO_MULTI_PARAM_CHAN")
    for metric in metrics:
        code, unit = terms.mdc(metric.code), terms.mdc_unit(metric.unit)
        if code is None or unit is None:
            raise InputError(f"SDC: {metric.code} in {metric.unit}: no code in IEEE 11073-10101 is known for it")
        item = _metric(channel, f"metric.{metric.code}", "Msrmt")
        _coded(item, "Type", *code)
        _coded(item, "Unit", *unit)
    for name in scores:
        item = _metric(channel, f"score.{name}", "Clc")
        system, own, _ = terms.score(name)[0]
        _coded(item, "Type", own, system=system)
        _coded(item, "Unit", "262656", "MDC_DIM_DIMLESS")
    return root


def _metric(channel: ET.Element, handle: str, category: str) -> ET.Element:
    kind = {f"{{{_XSI}}}type": "pm:NumericMetricDescriptor", "MetricCategory": category}
    more = {"SafetyClassification": "Inf", "MetricAvailability": "Intr", "Resolution": "0.1"}
    return _part(channel, "Metric", handle, **kind, **more)


def _part(parent: ET.Element, name: str, handle: str = "", **attributes: str) -> ET.Element:
    own = {"Handle": handle, "DescriptorVersion": "0"} if handle else {}
    return ET.SubElement(parent, f"{{{_PM}}}{name}", {**own, **attributes})


def _coded(parent: ET.Element, element: str, code: str, symbol: str = "", *, system: str = "") -> None:
    attributes = {"Code": code, "SymbolicCodeName": symbol, "CodingSystem": system}
    _part(parent, element, **{name: text for name, text in attributes.items() if text})


ET.register_namespace("pm", _PM)
ET.register_namespace("msg", _MSG)
ET.register_namespace("xsi", _XSI)
