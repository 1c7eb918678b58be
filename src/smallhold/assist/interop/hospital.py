"""What interoperability needs from the hospital sector. Nothing else in this folder names a sector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smallhold.assist.hospital import HospitalLimits
from smallhold.assist.interop.sdc_provider import Metric
from smallhold.assist.sources.fhir import bundle_entries, read_observation
from smallhold.assist.sources.intake import Reading
from smallhold.assist.sources.strict_json import MalformedError
from smallhold.errors import InputError
from smallhold.records import Provenance, ScoreSet
from smallhold.sectors.hospital.codes import HospitalCodes
from smallhold.sectors.hospital.floor import FloorState

_LIMITS = HospitalLimits()
_SDC_CODES = ("HR", "SaO2", "RespRate", "Temp", "NISysABP", "NIDiasABP", "NIMAP", "SysABP", "DiasABP", "MAP")
#: Vital signs that a bed's SDC device offers, in their canonical units.
SDC_METRICS = tuple(Metric(code, _LIMITS.unit(code)) for code in _SDC_CODES)
#: Vital signs on a ward without monitors are taken every 12 hours at least (NEWS2, chart 4).
_MAX_AGE_H = 12.0


def score_vitals(patient: str, bundle: Mapping[str, Any], now_ms: int) -> ScoreSet:
    """NEWS2 of prefetched Observations; readings that no gate would let in are passed over.

    Args:
        patient: Whose they must be.
        bundle: A Bundle of Observations.
        now_ms: UTC.

    Raises:
        MalformedError: no such Bundle, or an Observation is another patient's.
    """
    codes, floor = HospitalCodes(), FloorState(patient, max_age_h=_MAX_AGE_H)
    for entry in bundle_entries(dict(bundle)):
        for item in [] if entry is None else read_observation(entry, codes):
            if not isinstance(item, Reading):
                continue
            if item.patient != patient:
                raise MalformedError("an Observation is about another patient")
            name = codes.name_of(item.system, item.code)
            allowed = None if name is None else _LIMITS.plausible_range(name)
            if name is None or allowed is None or item.t_measured_ms > now_ms:
                continue
            try:
                value = _LIMITS.to_canonical(name, item.value, codes.unit_of(item.unit))
            except InputError:
                continue
            if allowed[0] <= value <= allowed[1]:
                floor.observe(name, value, item.t_measured_ms)
    return floor.scores(now_ms, Provenance(trace_id="0" * 32))
