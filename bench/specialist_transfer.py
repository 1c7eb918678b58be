"""Does the specialist for low pressure foresee vasopressors in infected patients of other hospitals?

The eICU demo has cuff pressures alone and too few such stays to train a specialist; none of them was seen, so that all
are measured. Asked at hours 3 to 36, before the first vasopressor, where a pressure was read within three hours and the
stay goes on for twelve hours or the vasopressor comes: is it begun within twelve hours?
`python bench/specialist_transfer.py BUNDLE --trusted-keys DIR`
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from smallhold.decide.local import open_bundle
from smallhold.decide.signal import encode_stays
from smallhold.evaluate import metrics
from smallhold.evaluate.bedside_scores import news2_at
from smallhold.evaluate.bootstrap import resample
from smallhold.evaluate.predict import shipped_margins
from smallhold.sectors.hospital.conditions import condition_groups
from smallhold.sectors.hospital.eicu import RecordedStay, load_recorded_stays
from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.onsets import series

_FIRST_H, _LAST_H, _WINDOW_H = 3, 36, 12


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--trusted-keys", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    bundle = open_bundle(args.bundle, trusted_keys=args.trusted_keys)
    models = {"specialist": bundle.signal_task("hypotension"), "icu-risk": bundle.signal_task("icu-risk")}
    group = next(group for group in condition_groups() if group.name == "infectious")
    stays = [item for item in load_recorded_stays(args.data) if group.reasons(item.record)]
    hours = range(1, _LAST_H + 1)
    scores: dict[str, list[float]] = {name: [] for name in (*models, "NEWS2", "newest pressure")}
    label: list[bool] = []
    patient: list[str] = []
    for item in stays:
        asked = [hour for hour in hours if is_asked(item, hour)]
        if not asked:
            continue
        stay = item.stay
        channels = encode_stays(models["specialist"].task.signal, [(stay.minute, stay.code, stay.value)], _LAST_H)
        for name, local in models.items():
            margins = shipped_margins(local, channels, static_features(stay)[None], list(hours))[0]
            scores[name] += [float(margins[hour - 1]) for hour in asked]
        news2 = news2_at(stay, hours)
        minute, value = series(stay, "NIMAP")
        scores["NEWS2"] += [float(news2[hour - 1]) for hour in asked]
        scores["newest pressure"] += [-float(value[minute <= 60 * hour][-1]) for hour in asked]
        label += [is_begun(item, hour) for hour in asked]
        patient += [stay.record_id] * len(asked)
    y, groups = np.array(label), np.array(patient)
    found = {
        name: resample(metrics.auroc, y, np.array(said), num_resamples=500, seed=0, groups=groups).interval().to_json()
        for name, said in scores.items()
    }
    happened = len(set(groups[y].tolist()))
    print(
        json.dumps(
            {"stays": len(stays), "patients": len(set(patient)), "onsets": happened, "asked": len(y), "auroc": found},
            indent=1,
        )
    )
    return 0


def is_begun(item: RecordedStay, hour: int) -> bool:
    """Whether the first vasopressor is begun in the window after an hour."""
    begun = item.vasopressor_minute
    return begun is not None and 60 * hour < begun <= 60 * (hour + _WINDOW_H)


def is_asked(item: RecordedStay, hour: int) -> bool:
    """Whether both answers could be seen at an hour."""
    now, begun = 60 * hour, item.vasopressor_minute
    if hour < _FIRST_H or now > item.minutes or (begun is not None and begun <= now):
        return False
    minute, _ = series(item.stay, "NIMAP")
    is_read = bool(((minute <= now) & (minute > now - 180)).any())
    return is_read and (is_begun(item, hour) or item.minutes >= now + 60 * _WINDOW_H)


if __name__ == "__main__":
    raise SystemExit(main())
