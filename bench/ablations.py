"""What is each part worth? Train the hospital's and finance's models without it, and measure on the same rows.

    python bench/ablations.py [NAME ...]     # needs the runs that `make models` leaves, SMALLHOLD_DATA, and hours

Every model is trained as its control is, apart from the part that is missing, and measured beside it on the test split
with paired differences. Nothing is chosen by these figures. Results lie in `docs/figures/ablation-NAME.json`; runs, and
what an interrupted call left of them, in `runs/ablations/`.
"""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import figures
import numpy as np
from numpy.typing import NDArray
from place import RUNS, Place, carry_out, publisher, smallhold
from text_card import TASK, text_card, write_text_cards

from smallhold.cli.output import ProgressBar
from smallhold.decide.local import open_bundle
from smallhold.decide.text_task import LocalTextTask
from smallhold.evaluate.bootstrap import bootstrap_interval, paired_difference
from smallhold.evaluate.metrics import auroc
from smallhold.evaluate.predict import word_margins
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.teach.joint import run_joint
from smallhold.teach.joint_recipe import JointRecipe, TextLessonChoice, read_joint_recipe
from smallhold.teach.pretrain import run_pretraining
from smallhold.teach.pretrain_recipe import PretrainRecipe, read_pretrain_recipe

ABLATIONS = RUNS / "ablations"
#: Short enough to be trained twice; the shipped base reads more.
_SHORT_MILLION_TOKENS = 2.5
_NEVER = 1_000_000
#: Of a measurement; the rest of it is told by the control's own figures.
_KEPT = ("task", "data_set", "num_patients", "num_texts", "split", "seed", "bundle", "rows", "differences")


def main() -> int:
    """Carry out what was asked for."""
    return carry_out(__doc__, ABLATIONS_BY_NAME)


def precision(place: Place) -> None:
    """The shipped 8 bits beside float32 and 4 bits: same run, same rows."""
    run = RUNS / "hospital"
    _bundle(run, bits=4, place=place)
    _measure(
        "precision",
        (figures.ROOT / "models" / "hospital", "icu-risk"),
        {"int4": run / "bundle-4"},
        place,
        "--run",
        str(run),
    )


def parts(place: Place) -> None:
    """`icu-risk` alone, then without the teacher, and without what pretraining left."""
    control = _alone(read_joint_recipe("hospital"))
    lesson = control.signal[0]
    untaught = replace(lesson, training=replace(lesson.training, distill=0.0, synthetic_share=0.0))
    besides = {
        "without the teacher": replace(control, signal=(untaught,)),
        "without pretraining": replace(control, from_scratch=True),
    }
    alone = _train("icu-risk-alone", control, place)
    bundles = {name: _train(f"icu-risk-{name.replace(' ', '-')}", recipe, place) for name, recipe in besides.items()}
    shipped = {"with three text tasks and words": figures.ROOT / "models" / "hospital"}
    _measure("parts", (alone, "icu-risk"), bundles | shipped, place)


def streams(place: Place) -> None:
    """Two short bases of the same length and vocabulary: one has read patients beside texts, the other texts alone."""
    both = read_pretrain_recipe("base")
    both = replace(both, training=replace(both.training, million_tokens=_SHORT_MILLION_TOKENS))
    texts = replace(both, training=replace(both.training, patient_passes=0, signal_every=_NEVER))
    control = _alone(read_joint_recipe("hospital"))
    found = {}
    for name, recipe in {"streams": both, "without-streams": texts}.items():
        base = _pretrain(f"base-{name}", recipe, place)
        found[name] = _train(f"icu-risk-{name}", replace(control, base=str(base)), place)
    _measure("streams", (found["streams"], "icu-risk"), {"without streams": found["without-streams"]}, place)


def finance(place: Place) -> None:
    """The text tasks of finance without what pretraining left: the n-gram path is the same in both."""
    bundle = _train("finance-without-pretraining", replace(read_joint_recipe("finance"), from_scratch=True), place)
    for task in ("news-sentiment", "support-intent"):
        shipped = figures.ROOT / "models" / "finance"
        _measure(f"finance-{task}", (shipped, task), {"without pretraining": bundle}, place)


def card(place: Place) -> None:
    """A text card of the patient in place of observation words: as many tokens as one pass in words."""
    folder = ABLATIONS / "card"
    sector = write_text_cards(folder, place.data)
    recipe = read_joint_recipe("hospital")
    lesson = TextLessonChoice(task=TASK, epochs=0.25, batch_size=32, max_tokens=384)
    cards = replace(recipe, sector=str(sector), signal=(), text=(lesson,))
    _measure_cards(_train("icu-card", cards, replace(place, data=folder / "data")), place.data)


ABLATIONS_BY_NAME: dict[str, Callable[[Place], None]] = {
    "precision": precision,
    "parts": parts,
    "finance": finance,
    "streams": streams,
    "card": card,
}


def _alone(recipe: JointRecipe) -> JointRecipe:
    """`icu-risk` by the signal door and nothing else."""
    return replace(recipe, signal=(replace(recipe.signal[0], word_epochs=0.0),), text=())


def _train(name: str, recipe: JointRecipe, place: Place) -> Path:
    """Train, compress to 8 bits and sign; the trees of the shipped run are the teacher of all."""
    run = ABLATIONS / name
    if recipe.signal and not (run / "teacher").exists():
        run.mkdir(parents=True, exist_ok=True)
        shutil.copytree(RUNS / "hospital" / "teacher", run / "teacher")
    if not (run / "run.json").exists():
        with closing(ProgressBar()) as progress:
            run_joint(recipe, place.data, run, progress=progress, threads=place.threads)
    _bundle(run, bits=8, place=place)
    return run / "bundle-8"


def _pretrain(name: str, recipe: PretrainRecipe, place: Place) -> Path:
    """A short base over the vocabulary of the shipped one."""
    run = ABLATIONS / name
    if not (run / "run.json").exists():
        run.mkdir(parents=True, exist_ok=True)
        shutil.copy(figures.ROOT / "models" / "base" / "tokenizer.json", run / "tokenizer.json")
        with closing(ProgressBar()) as progress:
            run_pretraining(recipe, place.data, run, progress=progress, threads=place.threads)
    return run / "checkpoint"


def _bundle(run: Path, *, bits: int, place: Place) -> None:
    if (run / f"bundle-{bits}").exists():
        return
    smallhold("compress", str(run), "--bits", str(bits))
    smallhold(
        "bundle", "build", str(run), "--bits", str(bits), "--out", str(run / f"bundle-{bits}"),
        "--data", str(place.data), *publisher(),
    )  # fmt: skip


def _measure(name: str, control: tuple[Path, str], besides: dict[str, Path], place: Place, *more: str) -> None:
    """Measure one bundle's task, and other bundles beside it."""
    bundle, task = control
    words = [str(bundle), "--task", task, *publisher(), "--quality-only", *more]
    for label, other in besides.items():
        words += ["--beside", f"{label}={other}"]
    result = figures.without(figures.evaluate(words, str(place.data)))
    found = {key: result[key] for key in _KEPT if key in result}
    shown = {"shipped", "fp32", *besides}
    found["rows"] = [row for row in found["rows"] if row["model"] in shown]
    found["differences"] = [item for item in found["differences"] if set(item["models"]) <= shown]
    _write(name, found)


def _measure_cards(bundle: Path, data: Path) -> None:
    """Rank the same test patients by their cards, by the shipped model's observation words and by its signal door."""
    keys = Path(publisher()[1]) / "trust"
    cards = open_bundle(bundle, trusted_keys=keys).task(TASK)
    shipped = open_bundle(figures.ROOT / "models" / "hospital", trusted_keys=keys).task("icu-risk")
    stays = [stay for stay in icu_risk.split(icu_risk.load_stays(data), Split.TEST) if stay.died is not None]
    died = np.array([bool(stay.died) for stay in stays])
    said = {"words": word_margins(shipped, stays, icu_risk.HORIZONS_H)}
    said["card"] = np.stack([_card_margins(cards, stays, hour) for hour in icu_risk.HORIZONS_H], axis=1)
    rows, differences = [], []
    for i, hour in enumerate(icu_risk.HORIZONS_H):
        for model, margin in said.items():
            found = bootstrap_interval(auroc, died, margin[:, i], num_resamples=500, seed=0)
            rows.append({"horizon_h": hour, "model": model, "auroc": found.to_json()})
        pair = [(died, said[model][:, i]) for model in ("words", "card")]
        apart = paired_difference(auroc, *pair, num_resamples=500, seed=0)
        differences.append({"horizon_h": hour, "models": ["words", "card"], "auroc": apart.to_json()})
    about = {"task": "icu-risk", "data_set": stays[0].data_set, "num_patients": len(stays), "seed": 0}
    _write("card", figures.without(about | {"rows": rows, "differences": differences}))


def _card_margins(cards: LocalTextTask, stays: Sequence[Stay], hour: int) -> NDArray[np.float64]:
    """(N,) log-odds of death that the trunk reads from the cards of one hour; no n-grams beside it."""
    logits = np.concatenate([cards.logits([text_card(stay, hour)], "trunk") for stay in stays]).astype(np.float64)
    margins: NDArray[np.float64] = logits[:, 1] - logits[:, 0]
    return margins


def _write(name: str, value: dict[str, Any]) -> None:
    about = inspect.getdoc(ABLATIONS_BY_NAME[name.partition("-")[0]])
    value = {"about": about} | value
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    figures.write(figures.FIGURES / f"ablation-{name}.json", text)


if __name__ == "__main__":
    sys.exit(main())
