"""The model card of a bundle, and the licences of what it was trained on."""

from __future__ import annotations

from smallhold.sectors.data_sets import KNOWN
from smallhold.teach.train import RunSummary


def write_card(summary: RunSummary, *, encoding: str) -> str:
    """Markdown. Quality figures are not in it: they belong to an evaluation, whose report names data and split."""
    kind = "simulated patients" if summary.is_simulated else "real patients"
    warning = (
        "\n**Trained on simulated patients: shows that the machinery works, says nothing about clinical value.**\n"
        if summary.is_simulated
        else ""
    )
    return f"""# icu-risk

Estimates, at any hour of the first 48 in intensive care, the probability of death in hospital. Research and
engineering software. **Not a medical device**; no decision about a person may rest on it.
{warning}
- Model: causal Llama-style trunk with a signal encoder, {summary.parameters:,} parameters, weights {encoding}.
- Trained on: {summary.num_stays:,} {kind} of {summary.data_set} (training split); {summary.death_rate:.1%} died.
- Teacher: gradient-boosted trees, out of fold; also shipped as the baseline.
- Time: teacher {summary.teacher_seconds:.0f} s, student {summary.training_seconds:.0f} s.
- Recipe sha256:{summary.recipe_digest}, data sha256:{summary.data_digest}.
- Inputs: age, sex, height, unit type, and 37 vital signs and laboratory values. Never an input: outcomes, length of
  stay, SAPS-I, SOFA.
- Limits: {_limits(summary)} Adults; 48 hours; not measured on other monitors, populations or years.
- Figures: `smallhold evaluate` prints them with intervals, beside NEWS2, SAPS-I and the trees.
"""


def _limits(summary: RunSummary) -> str:
    if summary.is_simulated:
        return "no person stands behind the data."
    return "patients of one data set, split at random, so that figures on its test split are in-distribution."


def licence_texts(data_sets: tuple[str, ...]) -> dict[str, str]:
    """One short text a data set: name, licence, source; and one for the weights."""
    texts = {"weights.txt": "The weights in this bundle are licensed under Apache-2.0.\n"}
    for known in KNOWN:
        if known.name in data_sets:
            sources = "\n".join(f"- {source}" for source in known.sources)
            texts[f"{known.name}.txt"] = f"Trained on {known.name}: {known.what}\nLicence: {known.licence}\n{sources}\n"
    return texts
