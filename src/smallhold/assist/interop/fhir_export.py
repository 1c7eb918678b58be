"""A journal as FHIR: NDJSON, one file a resource type.

What changes over time (an alert, a message, a prescription, a dose) becomes one resource, as it stands at the end of
the journal; everything else is written as it is read, so that memory does not grow with the readings.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.assist import care, live
from smallhold.assist.alarm_condition import AlarmChange
from smallhold.assist.alarm_log import KIND as ALARM
from smallhold.assist.alarm_log import AlarmEntry
from smallhold.assist.interop import fhir_medication, fhir_out
from smallhold.assist.interop.fhir_base import Dialect, Json
from smallhold.assist.interop.fhir_step import HeldAlert, mitigations_of, step_resources
from smallhold.assist.medication.board import read_prescription
from smallhold.assist.medication.prescription import Prescription
from smallhold.assist.messages import Message
from smallhold.assist.orders import doses
from smallhold.assist.replay import START as REPLAY_START
from smallhold.assist.step import Step
from smallhold.device.durable_file import fsync_directory
from smallhold.device.journal_store import read_entries
from smallhold.errors import InputError, JournalError, SmallholdError
from smallhold.records import AuditEntry, Observation, Provenance

Emit = Callable[[Json], None]


@dataclass(frozen=True, slots=True)
class FhirExport:
    """What was exported.

    Attributes:
        resources: Number of each type.
        entries: Journal entries that were read.
        erased: Those whose payload was erased; of them there is an AuditEvent alone.
        refused: Readings that the gate refused, which are nobody's observations.
    """

    resources: dict[str, int]
    entries: int
    erased: int
    refused: int


class JournalReader:
    """Turns journal entries into resources, in their order; `finish` gives those that changed over time.

    Args:
        dialect: Release and codes.
        emit: Called with every resource that is complete.
        system: Code system of the readings' codes, which short entries of a live ward do not repeat.
    """

    def __init__(self, dialect: Dialect, emit: Emit, *, system: str) -> None:
        self.erased = self.refused = 0
        self._dialect, self._emit, self._system = dialect, emit, system
        self._devices: set[str] = set()
        self._alerts: dict[tuple[str, str], HeldAlert] = {}
        self._messages: dict[str, Message] = {}
        self._prescriptions: dict[tuple[str, str], Prescription] = {}
        self._stopped: dict[tuple[str, str], int] = {}
        self._doses: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._withheld: dict[tuple[str, str], str] = {}
        self._administrations: list[Mapping[str, Any]] = []
        self._confirmed: set[tuple[str, str, int]] = set()
        self._consents: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._shared = Provenance(trace_id="")

    def read(self, entry: AuditEntry, payload: bytes | None) -> None:
        """Take one entry.

        Raises:
            JournalError: its payload is not what an entry of this kind holds.
        """
        self._device(Provenance(trace_id=""), is_model=False)
        if payload is None:
            self.erased += 1
            self._emit(fhir_out.audit_event(entry, self._dialect))
            return
        try:
            value = self._take(entry, payload)
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise JournalError(f"journal entry {entry.seq} ({entry.kind}) cannot be read: {error!r}") from error
        if entry.kind != live.READING:  # a reading's Observation is record enough: there is one a second and signal
            patient, actor = value.get("patient"), value.get("actor")
            self._emit(
                fhir_out.audit_event(
                    entry,
                    self._dialect,
                    patient=patient if isinstance(patient, str) else "",
                    actor=actor if isinstance(actor, str) else "",
                )
            )

    def finish(self) -> None:
        """Give out what changed over time, as it stands."""
        for held in self._alerts.values():
            self._emit(held.to_json(self._dialect))
        for message in self._messages.values():
            self._emit(fhir_out.message_communication(message, self._dialect))
        for key, item in self._prescriptions.items():
            self._emit(fhir_medication.medication_request(item, self._dialect, stopped_ms=self._stopped.get(key)))
        for said in self._consents.values():
            about = said["patient"], said["purpose"], said["state"], said["actor"]
            self._emit(fhir_out.consent(*about, said["t_ms"], self._dialect))
        for key, dose in self._doses.items():
            resource = fhir_medication.dose_given(dose, self._dialect, withheld=self._withheld.get(key, ""))
            self._emit(resource)
        for event in self._administrations:
            patient, name = event["patient"], event.get("prescription") or event["id"]
            is_confirmed = (patient, name, event["t_ms"]) in self._confirmed
            item = self._prescriptions[patient, name]
            self._emit(fhir_medication.administration(item, event, self._dialect, is_confirmed=is_confirmed))

    def _take(self, entry: AuditEntry, payload: bytes) -> Mapping[str, Any]:
        if entry.kind == live.STEP:
            step = Step.from_payload(payload)
            self._step(step, entry.t_ms)
            return {"patient": step.patient}
        if entry.kind == ALARM:
            alarm = AlarmEntry.from_payload(payload)
            self._changes(alarm.changes)
            return {"patient": alarm.patient, "actor": next((c.actor for c in alarm.changes if c.actor), "")}
        try:
            value = json.loads(payload)
        except ValueError:
            return {}  # of a kind that is not ours to read
        if not isinstance(value, dict):
            return {}
        match entry.kind:
            case live.READING:
                self._reading(value)
            case kind if kind in (live.START, REPLAY_START):
                self._shared = replace(
                    self._shared, bundle=value.get("bundle"), simulated=bool(value.get("is_simulated", False))
                )
            case live.STAFF:
                self._staff(value)
            case care.MESSAGE:
                self._message(value)
            case care.MEDICATION:
                self._medication(value)
            case care.CONSENT:
                self._consents[value["patient"], value["purpose"]] = value
            case doses.DOSE:
                self._doses[value["patient"], value["id"]] = value
                dose = fhir_medication.dose_given(value, self._dialect)
                shared = Provenance(
                    trace_id=value["trace_id"],
                    bundle=value["bundle"],
                    profile=value["profile"],
                    simulated=value["simulated"],
                )
                self._made([dose], shared, entry.t_ms)
            case doses.WITHHELD:
                self._withheld[value["patient"], value["id"]] = value["reason"]
            case _:
                pass
        return value

    def _step(self, step: Step, recorded_ms: int) -> None:
        issues: dict[str, HeldAlert] = {}
        for one in step_resources(step, self._dialect, recorded_ms, issues=issues):
            if one["resourceType"] == "Device":
                self._device_once(one)
            else:
                self._emit(one)
        if step.gate is not None and not step.gate.is_accepted:
            self.refused += 1
        for held in issues.values():
            self._keep(held)

    def _keep(self, new: HeldAlert) -> None:
        key = (new.alert.patient, new.alert.id)
        held = self._alerts.setdefault(key, new)
        if held is not new:
            held.alert = new.alert
            for mine, theirs in ((held.evidence, new.evidence), (held.implicated, new.implicated)):
                mine.extend(one for one in theirs if one not in mine)
            held.mitigations.extend(new.mitigations)

    def _changes(self, changes: Iterable[AlarmChange]) -> None:
        for change in changes:
            self._keep(HeldAlert(change.alert, mitigations=mitigations_of(change)))

    def _reading(self, value: Mapping[str, Any]) -> None:
        if value["reasons"]:
            self.refused += 1
            return
        names = ("id", "patient", "code", "value", "unit", "t_measured_ms", "t_received_ms", "quality", "device")
        record = Observation(**{name: value[name] for name in names}, system=self._system, provenance=self._shared)
        self._emit(fhir_out.observation(record, self._dialect, value["run_id"]))

    def _staff(self, value: Mapping[str, Any]) -> None:
        if value.get("action") != "acknowledge":
            return
        for held in self._alerts.values():
            is_meant = held.alert.patient == value["patient"] and held.alert.condition == value["condition"]
            if is_meant and held.alert.state.value != "resolved":
                held.mitigations.append((value["t_ms"], value["actor"]))

    def _message(self, value: Mapping[str, Any]) -> None:
        if value["event"] == "sent":
            message = Message(**{name: item for name, item in value.items() if name != "event"})
            self._messages[message.id] = message
        elif value["event"] == "seen":
            self._messages[value["id"]] = replace(self._messages[value["id"]], seen_ms=value["t_ms"])

    def _medication(self, value: Mapping[str, Any]) -> None:
        patient = value["patient"]
        match value["event"]:
            case "prescribed":
                item = read_prescription(value["prescription"])
                self._prescriptions[patient, item.id] = item
            case "stopped":
                self._stopped.setdefault((patient, value["id"]), value["t_ms"])
            case "given" | "settled":
                self._administrations.append(value)
            case "confirmed":
                self._confirmed.add((patient, value["id"], value["given_ms"]))

    def _made(self, resources: list[Json], shared: Provenance, recorded_ms: int) -> None:
        self._emit(fhir_out.provenance_of(resources, shared, recorded_ms, self._dialect))
        self._device(shared, is_model=True)

    def _device(self, provenance: Provenance, *, is_model: bool) -> None:
        self._device_once(fhir_out.device(provenance, self._dialect, is_model=is_model))

    def _device_once(self, resource: Json) -> None:
        if resource["id"] not in self._devices:
            self._devices.add(resource["id"])
            self._emit(resource)


def export_fhir(
    journal: Path, out: Path, dialect: Dialect, *, system: str, key: Ed25519PrivateKey | None = None
) -> FhirExport:
    """Write a journal as NDJSON, `<type>.ndjson` for each resource type (FHIR Bulk Data's form).

    Args:
        journal: The database file.
        out: A folder that does not exist yet; it appears whole or not at all.
        dialect: Release and codes.
        system: Code system of the readings' codes.
        key: The device's key, which opens sealed payloads.

    Raises:
        InputError: the folder exists or cannot be written.
        JournalError: the journal cannot be read.
    """
    if out.exists():
        raise InputError(f"{out} exists: expected a folder that is still to be made", hint="choose another --out")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    counts: Counter[str] = Counter()
    try:
        part.mkdir(parents=True)
        with ExitStack() as stack:
            files: dict[str, IO[str]] = {}

            def emit(resource: Json) -> None:
                kind = resource["resourceType"]
                if kind not in files:
                    files[kind] = stack.enter_context((part / f"{kind}.ndjson").open("w", encoding="utf-8"))
                files[kind].write(
                    json.dumps(resource, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"
                )
                counts[kind] += 1

            reader, entries = JournalReader(dialect, emit, system=system), 0
            for entry, payload in read_entries(journal, key=key):
                reader.read(entry, payload)
                entries += 1
            reader.finish()
        part.rename(out)
        fsync_directory(out.parent)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise InputError(f"{out} cannot be written: {error}") from error
    except (SmallholdError, KeyboardInterrupt):
        shutil.rmtree(part, ignore_errors=True)
        raise
    return FhirExport(dict(sorted(counts.items())), entries, reader.erased, reader.refused)
