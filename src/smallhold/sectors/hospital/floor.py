"""The hospital's floor: NEWS2 of one patient, kept up to date reading by reading, without any model.

Rules, fixed and few, because this runs when everything else has failed:

- The newest reading of each parameter counts, as long as it is not older than `max_age_h`.
- Systolic pressure: the arterial line or the cuff, whichever is newer; at the same minute the arterial line.
- Oxygen: an inspired fraction above 0.21, or ventilated within the last `ventilated_h`.
- Alert: a Glasgow Coma Scale of 15. A sedated patient is therefore never alert, as NEWS2 itself would have it.
"""

from __future__ import annotations

from collections.abc import Callable

from smallhold.records import Counterfactual, Provenance, Score, ScoreSet
from smallhold.sectors.hospital.news2 import Vitals, news2
from smallhold.sectors.hospital.news2_otherwise import news2_otherwise

_HOUR_MS = 3_600_000
_AIR_FIO2 = 0.21
_CODES = frozenset({"HR", "RespRate", "Temp", "SysABP", "NISysABP", "SaO2", "FiO2", "MechVent", "GCS"})


class FloorState:
    """The newest vital signs of one patient.

    Append-only: readings may be added, none is taken back. A reading older than the one already held for its
    parameter is ignored; of two at the same time the later added counts.

    Args:
        patient: Pseudonymous identifier, put on every score.
        max_age_h: Older readings count as missing. 24 h suits replayed stays, whose saturation comes from blood
            gases; on a monitored bed take far less.
        ventilated_h: How long one entry of mechanical ventilation says that oxygen is given.
        is_hypercapnic: Score the saturation on NEWS2's scale 2.
    """

    def __init__(
        self, patient: str, *, max_age_h: float = 24.0, ventilated_h: float = 8.0, is_hypercapnic: bool = False
    ) -> None:
        self._patient = patient
        self._max_age_ms = max_age_h * _HOUR_MS
        self._ventilated_ms = ventilated_h * _HOUR_MS
        self._is_hypercapnic = is_hypercapnic
        self._newest: dict[str, tuple[int, float]] = {}

    def observe(self, code: str, value: float, t_ms: int) -> None:
        """Add one accepted reading; parameters that no score reads are ignored.

        Args:
            code: Name of the parameter.
            value: In the parameter's canonical unit.
            t_ms: When it was measured.
        """
        if code in _CODES:
            held = self._newest.get(code)
            if held is None or t_ms >= held[0]:
                self._newest[code] = (t_ms, value)

    def vitals(self, t_ms: int) -> Vitals:
        """What NEWS2 would read at `t_ms`: the newest readings that are fresh enough."""
        oldest = t_ms - self._max_age_ms
        gcs = self._fresh("GCS", oldest)
        return Vitals(
            resp_rate=self._fresh("RespRate", oldest),
            spo2=self._fresh("SaO2", oldest),
            on_oxygen=self._on_oxygen(t_ms),
            systolic=self._fresh(self._newer_systolic(), oldest),
            pulse=self._fresh("HR", oldest),
            is_alert=None if gcs is None else gcs >= 15,
            temperature=self._fresh("Temp", oldest),
        )

    def scores(self, t_ms: int, provenance: Provenance) -> ScoreSet:
        """All scores of the floor at `t_ms`: NEWS2."""
        score = news2(self.vitals(t_ms), is_hypercapnic=self._is_hypercapnic)
        return ScoreSet(patient=self._patient, t_ms=t_ms, scores=(score,), provenance=provenance)

    def otherwise(self, t_ms: int, holds: Callable[[Score], bool]) -> Counterfactual:
        """The smallest change of one or two vital signs with which a limit of NEWS2 would not be reached at `t_ms`.

        Codes are parts of the score; `off_oxygen` stands for breathing air, and for consciousness the value is that
        of the Glasgow Coma Scale.
        """
        found = news2_otherwise(self.vitals(t_ms), holds, is_hypercapnic=self._is_hypercapnic)
        if found is None:
            return Counterfactual(codes=(), values=())
        codes = tuple("off_oxygen" if part == "on_oxygen" else part for part in found.changes)
        values = tuple(15.0 if part == "is_alert" else value for part, value in found.changes.items())
        return Counterfactual(codes=codes, values=values, total=found.score.total)

    def _fresh(self, code: str, oldest_ms: float) -> float | None:
        held = self._newest.get(code)
        return held[1] if held is not None and held[0] >= oldest_ms else None

    def _newer_systolic(self) -> str:
        line, cuff = self._newest.get("SysABP"), self._newest.get("NISysABP")
        return "NISysABP" if cuff is not None and (line is None or cuff[0] > line[0]) else "SysABP"

    def _on_oxygen(self, t_ms: int) -> bool | None:
        fraction = self._fresh("FiO2", t_ms - self._max_age_ms)
        ventilated = self._fresh("MechVent", t_ms - self._ventilated_ms)
        if fraction is None and ventilated is None:
            return None
        # Single precision holds 0.21 as 0.20999..., never as more.
        return (fraction is not None and fraction > _AIR_FIO2) or (ventilated is not None and ventilated > 0)
