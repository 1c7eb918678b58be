"""The model card of a bundle of several tasks, and of the base beneath it."""

from __future__ import annotations

from typing import Any

from smallhold.errors import DataError
from smallhold.sectors.data_sets import known_data_set
from smallhold.sectors.tasks import find_task
from smallhold.teach.joint import JointSummary
from smallhold.teach.pretrain import PretrainSummary

_NOT_A_DEVICE = (
    "Research and engineering software. **Not a medical device**; no decision about a person may rest on it."
)
_ICU_RISK = """### icu-risk

Estimates, at any hour of the first 48 in intensive care, the probability of death in hospital.

- Inputs: age, sex, height, unit type, and 37 vital signs and laboratory values. Never an input: outcomes, length of
  stay, SAPS-I, SOFA.
- Teacher: gradient-boosted trees, out of fold; also shipped as the baseline.
- Limits: adults; 48 hours; one data set split at random by patient, so that figures on its test split are
  in-distribution; not measured on other monitors, populations or years.
"""


def write_joint_card(summary: JointSummary, *, sector: str, encoding: str) -> str:
    """Markdown. Quality figures are not in it: they belong to an evaluation, whose report names data and split."""
    warning = (
        "\n**Some of the training data are simulated: their figures say nothing about the world.**\n"
        if summary.is_simulated
        else ""
    )
    parts = [_ICU_RISK if name == "icu-risk" else _text_task(name, sector) for name in summary.tasks]
    rows = "\n".join(
        f"| {name} | {item['data_set']} | {item['examples']:,} | {known_licence(item['data_set'])} |"
        for name, item in summary.data.items()
    )
    return f"""# {summary.recipe["bundle"]["name"]}

One trunk for {len(summary.tasks)} tasks: {", ".join(summary.tasks)}. {_NOT_A_DEVICE}
{warning}
- Model: causal Llama-style trunk with a signal encoder, {summary.parameters:,} parameters, weights {encoding}.
- Base: sha256:{summary.base_digest or "none, from random weights"}.
- Trained jointly on the {" and ".join(summary.recipe["splits"])} split; {summary.training_seconds:.0f} s, teacher
  {summary.teacher_seconds:.0f} s, {summary.threads} thread{"s" if summary.threads > 1 else ""}.
- Recipe sha256:{summary.recipe_digest}.
- Figures: `smallhold evaluate BUNDLE --task TASK` prints them with intervals, beside the simple baselines.

| Task | Data set | Training examples | Licence |
| --- | --- | --- | --- |
{rows}

{"".join(part + chr(10) for part in parts)}"""


def write_base_card(summary: PretrainSummary) -> str:
    """Markdown: what the base is and was trained on. Held-out figures belong to an evaluation."""
    rows = "\n".join(
        f"| {name} | {count:,} | {known_licence(name)} | {'; '.join(known_sources(name))} |"
        for name, count in summary.documents.items()
    )
    read = summary.tokens_read / 1e6
    before = summary.begun_from
    after = (
        f", after {before['tokens_trained'] / 1e6:.1f} million before them (sha256:{before['weights']})"
        if before
        else ""
    )
    megabytes = ", ".join(f"{lang} {size / 1e6:.1f} MB" for lang, size in summary.training_bytes.items())
    return f"""# Base

A causal language model of {summary.parameters:,} parameters, from scratch: Llama architecture, byte-level BPE over
English, Russian and French, and observation words. It reads notes and patients' readings; it is the beginning of a
small decision model, not a chat model. {_NOT_A_DEVICE}

- Trained on {read:.1f} million tokens{after}, {summary.tokens_read / summary.pass_tokens:.2f} passes over the training
  split ({megabytes}{_repeats(summary.recipe)}); {summary.seconds / 60:.0f} minutes, the last slice on
  {summary.threads} CPU thread{"s" if summary.threads > 1 else ""}.
- Figures: `smallhold evaluate` prints bits per byte beside `xz` and an n-gram model.
- Recipe sha256:{summary.recipe_digest}, data sha256:{summary.data_digest}.
- Weights: float16 on disk, Hugging Face layout; `transformers` loads the folder and continues it.
- Languages: English mostly; Russian and French prose of the 19th century. It knows little of the world, and repeats
  what such books say about people.

| Data set | Training documents | Licence | Source |
| --- | --- | --- | --- |
{rows}
"""


def _repeats(recipe: dict[str, Any]) -> str:
    """What a pass reads more than once."""
    often = {lang: times for lang, times in recipe["training"]["passes"].items() if times != 1}
    return "".join(f"; each {lang} document {times} times a pass" for lang, times in often.items())


def known_licence(name: str) -> str:
    """Licence of a data set that the catalogue knows; a simulated one has none."""
    if name.startswith("simulated"):
        return "simulated"
    try:
        return known_data_set(name).licence
    except DataError:
        return "not in the catalogue: its owner knows"


def known_sources(name: str) -> tuple[str, ...]:
    """Where a data set that the catalogue knows comes from."""
    return () if name.startswith("simulated") else known_data_set(name).sources


def _text_task(name: str, sector: str) -> str:
    task = find_task(name, sector)
    choices = ", ".join(task.choices[:8]) + (f" and {len(task.choices) - 8} more" if len(task.choices) > 8 else "")
    return f"""### {name}

{task.question} Answers: {choices}.

- Use: {task.intended_use.strip()}
- Limits: {task.known_limits.strip()}
"""
