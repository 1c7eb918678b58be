"""Make a golden bundle: a tiny model of simulated patients, what it was asked, and what it answered.

    python conformance/make_golden.py [FOLDER]

Run once for each version of the bundle format, from an installed package (its version becomes the bundle's minimum
runtime); takes about a minute. Simulated patients only. The signing key lives as long as this process.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from smallhold.bundle.assemble import BundleRequest, SignalPart, build_bundle
from smallhold.compress.quantize import quantize_checkpoint
from smallhold.decide import LocalTask, open_bundle
from smallhold.decide.signal import encode_stays
from smallhold.decide.task import Task
from smallhold.device.trust import generate_private_key, save_public_key
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER, TEACHER_FILE
from smallhold.records import canonical_json
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.simulator import simulate_ward
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.teach.card import licence_texts, write_card
from smallhold.teach.recipe import parse_recipe
from smallhold.teach.train import run_training

RECIPE = """
seed = 0
task = { sector = "hospital", name = "icu-risk" }
data = { simulated_stays = 1200, simulated_seed = 20250601 }
teacher = { hours = [6, 12, 24, 48], iterations = 20, learning_rate = 0.2, leaves = 6, folds = 2 }
student = { epochs = 40, synthetic_share = 0.0, dropout = 0.0 }
optimizer = { learning_rate = 4e-3, warmup_steps = 20 }
bundle = { name = "icu-risk-golden", version = "1.0.0", max_error = 0.1, expires_days = 0 }

[model]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
"""
NUM_CASES = 8
#: Absolute, on the logits of the choices; runtimes that round activations to 8 bits have the wide one.
TOLERANCE = {"reference": 1e-4, "onnx_runtime": 0.03, "engine": 0.03, "trees": 1e-5}


def main() -> None:
    """Make everything in a scratch folder and move it into place."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "v1")
    if target.exists():
        sys.exit(f"{target} exists: a golden bundle is made once and kept for ever")
    recipe = parse_recipe(RECIPE, where="make_golden.py")
    stays = simulate_ward(recipe.data.simulated_stays, recipe.data.simulated_seed, icu_risk.NUM_BINS)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        run, out = Path(scratch) / "run", Path(scratch) / "golden"
        summary = run_training(recipe, stays, run, progress=_say, threads=1)
        quantize_checkpoint(run / CHECKPOINT_FOLDER, run / "quantized")
        key = generate_private_key()
        (out / "trusted_keys").mkdir(parents=True)
        save_public_key(key.public_key(), out / "trusted_keys" / "golden-v1.pem")
        request = BundleRequest(
            checkpoint=run / "quantized",
            parts=(
                SignalPart(
                    task=Task.from_bytes((run / "task.json").read_bytes()),
                    trees=run / TEACHER_FILE,
                    stays=icu_risk.split(stays, Split.CALIBRATION),
                ),
            ),
            name=recipe.bundle.name,
            version=recipe.bundle.version,
            expires=None,
            training_data=(summary.data_set,),
            licences=licence_texts((summary.data_set,)),
            card=write_card(summary, encoding="q8_0"),
            max_error=recipe.bundle.max_error,
        )
        build_bundle(
            request,
            out / "bundle",
            is_simulated=True,
            created=datetime.now(UTC),
            key=key,
            progress=_say,
        )
        bundle = open_bundle(out / "bundle", backend="reference", trusted_keys=out / "trusted_keys")
        local = bundle.signal_task(icu_risk.NAME)
        cases = _choose([_case(local, stay) for stay in icu_risk.split(stays, Split.TEST)], local)
        (out / "cases.jsonl").write_bytes(b"".join(canonical_json(case) + b"\n" for case in cases))
        (out / "tolerance.json").write_text(json.dumps(TOLERANCE, indent=1) + "\n")
        shutil.move(out, target)


def _case(local: LocalTask, stay: Stay) -> dict[str, Any]:
    """One patient hour by hour: everything that went in and everything that came out."""
    events = [
        [int(minute), PARAMETERS[code].name, float(value)]
        for minute, code, value in zip(stay.minute, stay.code, stay.value, strict=True)
        if minute <= 60 * local.task.num_bins
    ]
    static = icu_risk.static_features(stay)
    session, field, at = local.session(static), local.task.fields[0], 0
    answers = []
    for hour in range(1, local.task.num_bins + 1):
        while at < len(events) and events[at][0] <= 60 * hour:
            session.observe(events[at][1], events[at][2])
            at += 1
        session.close_bin()
        answers.append(session.decide().answers[field.name])
    channels = encode_stays(local.task.signal, [(stay.minute, stay.code, stay.value)], local.task.num_bins)[0]
    logits = local.logits(channels, static, range(1, local.task.num_bins + 1))[field.name]
    trees = local.trees()
    assert trees is not None  # noqa: S101 - this script has just written them
    return {
        "simulated": True,
        "patient": stay.record_id,
        "static": dict(zip(local.task.signal.static, static.tolist(), strict=True)),
        "events": events,
        "field": field.name,
        "choices": list(field.choices),
        "hours": [
            {
                "hour": hour,
                "logits": [round(float(x), 6) for x in logits[hour - 1]],
                "probabilities": [round(answer.probabilities[choice], 6) for choice in field.choices],
                "choice": answer.choice,
            }
            for hour, answer in enumerate(answers, start=1)
        ],
        "trees": {
            str(hour): round(float(trees.logit(np.concatenate([channels[hour - 1], static])[None], hour)[0]), 6)
            for hour in local.task.horizons
        },
    }


def _choose(cases: list[dict[str, Any]], local: LocalTask) -> list[dict[str, Any]]:
    """Patients as different from each other as there are, without the hours that the tolerance could turn over."""
    field = local.task.fields[0]
    edges = [0.0]
    if field.abstain_below > 0.5:
        edge = field.temperature * float(np.log(field.abstain_below / (1 - field.abstain_below)))
        edges = [edge, -edge]

    def is_safe(hour: dict[str, Any]) -> bool:
        margin = hour["logits"][1] - hour["logits"][0]
        return min(abs(margin - edge) for edge in edges) > 2 * TOLERANCE["onnx_runtime"]

    def variety(case: dict[str, Any]) -> tuple[int, float]:
        said = [hour["choice"] for hour in case["hours"]]
        return len(set(said)) + (field.positive in said), case["hours"][-1]["logits"][1]

    for case in cases:
        case["hours"] = [hour for hour in case["hours"] if is_safe(hour)]
    ranked = sorted((case for case in cases if len(case["hours"]) >= 24), key=variety, reverse=True)
    half = NUM_CASES // 2
    spread = np.linspace(half, len(ranked) - 1, NUM_CASES - half).round().astype(int)
    chosen = ranked[:half] + [ranked[i] for i in spread]
    said = {hour["choice"] for case in chosen for hour in case["hours"]}
    if said != {*field.choices, None}:
        sys.exit(f"the cases hold only the answers {said}: change the recipe")
    return chosen


def _say(caption: str, done: int, total: int) -> None:
    if done == total:
        print(caption, file=sys.stderr)


if __name__ == "__main__":
    main()
