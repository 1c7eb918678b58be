"""A small, plausible result: two horizons, three models, one patient."""

from __future__ import annotations

from typing import Any

import pytest

from smallhold.evaluate.report import render_report


def interval(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def _row(horizon_h: float, model: str, auroc: float) -> dict[str, Any]:
    is_probability = model != "news2"
    return {
        "horizon_h": horizon_h,
        "model": model,
        "n": 960,
        "auroc": interval(auroc, auroc - 0.03, auroc + 0.03),
        "auprc": interval(0.41, 0.35, 0.5),
        "event1": interval(0.4, 0.33, 0.47),
        "event1_best": interval(0.42, 0.36, 0.49),
        "ece_noise": {"mean": 0.025, "q95": 0.035 if model == "shipped" else 0.02} if is_probability else None,
        "brier_skill": interval(0.21, -0.02, 0.3) if is_probability else None,
        "ece": interval(0.03, 0.02, 0.05) if is_probability else None,
        "brier": interval(0.1, 0.09, 0.12) if is_probability else None,
        "coverage": interval(0.95, 0.93, 0.96) if model == "shipped" else interval(1.0, 1.0, 1.0),
    }


def _difference(horizon_h: float, rival: str, value: float, low: float, high: float) -> dict[str, Any]:
    return {"horizon_h": horizon_h, "models": ["shipped", rival], "auroc": interval(value, low, high)}


def _burden(model: str, point: str, lead: dict[str, float] | None) -> dict[str, Any]:
    return {
        "model": model,
        "operating_point": point,
        "threshold": 0.31 if model != "news2" else None,
        "threshold_from": "calibration",
        "patient_days": 1920.0,
        "alerts": 55,
        "alerts_per_patient_day": interval(0.028, 0.02, 0.04),
        "false_alerts_per_patient_day": interval(0.01, 0.005, 0.02),
        "assessment_rate": interval(0.02, 0.01, 0.03),
        "ppv": interval(0.6, 0.5, 0.7),
        "sensitivity": interval(0.25, 0.2, 0.3),
        "lead_time_h": lead,
    }


_SUBGROUPS = [
    {
        "attribute": "sex",
        "subgroup": "women",
        "horizon_h": horizon_h,
        "model": "shipped",
        "n": 420,
        "num_events": 60,
        "is_too_small": False,
        "auroc": interval(0.8, 0.75, 0.86),
        "ece": interval(0.04, 0.03, 0.06),
        "ece_noise": {"mean": 0.03, "q95": 0.05},
        "brier": interval(0.1, 0.09, 0.12),
        "brier_skill": interval(0.2, 0.1, 0.3),
        "alert_rate": interval(0.12, 0.1, 0.15),
    }
    for horizon_h in (6, 48)
] + [
    {
        "attribute": "unit",
        "subgroup": "cardiac surgery recovery",
        "horizon_h": 48,
        "model": "shipped",
        "n": 185,
        "num_events": 6,
        "is_too_small": True,
    }
]

_CURVES = {
    "roc": [[0.0, 0.0], [0.05, 0.4], [0.2, 0.7], [1.0, 1.0]],
    "pr": [[0.0, 1.0], [0.4, 0.6], [0.7, 0.4], [1.0, 0.14]],
    "reliability": [[0.05, 0.04, 700.0], [0.3, 0.35, 200.0], [0.8, 0.7, 60.0]],
    "risk_coverage": [[0.1, 0.01], [0.6, 0.04], [1.0, 0.12]],
    "aurc": 0.031,
}


@pytest.fixture
def result() -> dict[str, Any]:
    """Real patients; a test that wants simulated ones sets `is_simulated`."""
    return make_result()


@pytest.fixture(scope="session")
def real_page() -> str:
    """The page of `result`, rendered once: its eleven pictures take a second."""
    pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib, the extra 'report'")
    return render_report(make_result())


@pytest.fixture(scope="session")
def simulated_page() -> str:
    """The page of `result` had its patients been simulated."""
    pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib, the extra 'report'")
    return render_report({**make_result(), "is_simulated": True, "data_set": "ward simulator"})


def make_result() -> Any:
    """A fresh copy, for tests that alter it."""
    score_curves = {key: _CURVES[key] for key in ("roc", "pr")}
    return {
        "task": "icu-risk",
        "split": "test",
        "data_set": "physionet2012_icu",
        "is_simulated": False,
        "num_patients": 960,
        "bundle": {
            "name": "icu-risk-signal-1M",
            "version": "0.1.0",
            "digest": "3f" * 32,
            "files": [{"path": f"part-{i}.bin", "bytes": 1000 * 4**i, "role": "weights"} for i in range(10)],
            "total_bytes": 349_525_000,
        },
        "rows": [
            _row(horizon_h, model, auroc + horizon_h / 1000)
            for horizon_h in (6, 48)
            for model, auroc in (("news2", 0.7), ("trees", 0.79), ("shipped", 0.8), ("int4", 0.795))
        ],
        "differences": [
            _difference(6, "trees", 0.01, -0.004, 0.02),
            _difference(48, "trees", 0.01, -0.002, 0.03),
            _difference(6, "news2", 0.1, 0.07, 0.13),
            _difference(48, "news2", 0.1, 0.06, 0.14),
            {**_difference(48, "int4", 0.005, 0.001, 0.009), "auprc": interval(0.01, -0.01, 0.02)},
        ],
        "curves": {
            key: {"news2": dict(score_curves), "trees": dict(_CURVES), "shipped": dict(_CURVES)} for key in ("6", "48")
        },
        "subgroups": [dict(row) for row in _SUBGROUPS],
        "burden": [
            _burden("shipped", "1 alert per 35 patient-days", {"median": 26.0, "low": 8.0, "high": 37.25}),
            _burden("news2", "1 alert per 35 patient-days", None),
        ],
        "promise": {
            "alpha": 0.1,
            "is_by_choice": True,
            "is_feasible": False,
            "smallest_alpha": 0.2,
            "rows": [
                {
                    "horizon_h": 6,
                    "choice": "yes",
                    "n": 130,
                    "coverage": interval(0.92, 0.86, 0.96),
                    "reading": "within",
                    "answered": 0.7,
                    "wrong": 0.08,
                    "set_size": 1.3,
                }
            ],
        },
        "word_promise": {
            "alpha": 0.1,
            "is_by_choice": True,
            "is_feasible": True,
            "smallest_alpha": 0.01,
            "rows": [
                {
                    "horizon_h": 6,
                    "choice": "no",
                    "n": 830,
                    "coverage": interval(0.85, 0.82, 0.87),
                    "reading": "below",
                    "answered": 0.61,
                    "wrong": 0.15,
                    "set_size": 1.4,
                }
            ],
        },
        "shift": {
            "alpha": 0.1,
            "step": 0.05,
            "groups": [
                {
                    "held_out": "medical",
                    "n": 342,
                    "num_events": 6,
                    "num_calibration": 620,
                    "num_calibration_events": 87,
                    "is_too_small": False,
                    "rows": [
                        {
                            "horizon_h": 6,
                            "choice": "no",
                            "n": 336,
                            "is_too_small": False,
                            "coverage": interval(0.817, 0.767, 0.861),
                            "reading": "below",
                            "answered": 0.42,
                            "wrong": 0.18,
                            "set_size": 1.56,
                            "shipped_coverage": 0.86,
                            "adaptive_coverage": 0.896,
                            "adaptive_set_size": 1.54,
                            "adaptive_bound": 0.0565,
                        },
                        {"horizon_h": 6, "choice": "yes", "n": 6, "is_too_small": True},
                    ],
                },
                {
                    "held_out": "coronary care",
                    "n": 115,
                    "num_events": 13,
                    "num_calibration": 40,
                    "num_calibration_events": 2,
                    "is_too_small": True,
                    "rows": [],
                },
            ],
        },
        "besides": [{"name": "int4", "bundle": "icu-risk 0.2.0", "digest": "ab" * 32, "total_bytes": 1_800_000}],
        "remarks": ["A remark on how this was measured."],
        "latency": {
            "append_decide_ms": {"p50": 2.19, "p99": 8.31, "max": 15.1, "n": 4000},
            "histogram": {"edges": [0.0, 2.0, 4.0, 16.0], "counts": [1500, 2400, 100]},
        },
        "events_per_second_per_core": 441.3,
        "cold_start_s": 0.83,
        "resident_bytes": 143_000_000,
        "training": {"loss": [[0, 0.7], [100, 0.3], [200, 0.25]], "seconds": 318.4, "parameters": 1_055_361},
        "patient": {
            "id": "stay-17",
            "outcome": "survived",
            "threshold": 0.31,
            "vitals": [{"code": "HR", "unit": "/min", "points": [[0.5, 80.0], [2.0, 120.0]]}],
            "risk": [
                {"hour": 1, "probability": 0.1, "has_abstained": False, "evidence": []},
                {
                    "hour": 2,
                    "probability": 0.4,
                    "has_abstained": True,
                    "evidence": [{"code": "HR", "text": "heart rate 120 /min, 0 h old", "effect": 0.6}],
                },
            ],
            "news2": [[1, 2], [2, 7]],
            "alerts": [
                {
                    "hour": 2,
                    "priority": "high",
                    "source": "floor",
                    "message": "NEWS2 7: emergency assessment",
                    "is_degraded": True,
                }
            ],
        },
        "command": "smallhold evaluate icu-risk.bundle --task icu-risk --split test",
        "machine": "Linux x86-64, 2 cores",
        "seed": 7,
    }
