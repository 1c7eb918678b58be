"""What a federation is worth: the global model beside each site alone, and beside everything in one place.

Every site's figures are on its own rows of one split, with bootstrap intervals; the simple thing stands in each row.
Sites are averaged: over all rows together, a ranking is rewarded for knowing which site a row is from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.evaluate.bootstrap import Resampled, resample
from smallhold.federate.job import FederatedJob
from smallhold.federate.layout import Vector
from smallhold.federate.local_model import LocalModel, Rows
from smallhold.federate.measure import AUROC, Measure
from smallhold.federate.personalise import choose_share, mix

_TREES = {"max_iter": 150, "learning_rate": 0.05, "max_leaf_nodes": 8, "l2_regularization": 1.0, "random_state": 0}
#: In the order of a table.
NAMES = ("federated", "personalised", "local", "pooled", "trees", "commonest")
Scores = dict[str, NDArray[np.float64]]


def compare(
    job: FederatedJob,
    model: LocalModel,
    federated: Vector,
    training: Mapping[str, Rows],
    held_out: Mapping[str, Rows],
    choosing: Mapping[str, Rows],
    measure: Measure = AUROC,
    besides: Mapping[str, Vector] | None = None,
) -> dict[str, Any]:
    """Measure the federated model and its alternatives, all trained for the same number of passes.

    Args:
        job: What was carried out.
        model: What was trained.
        federated: (P,) its last global model.
        training: Site -> rows it trained on.
        held_out: Site -> rows nobody trained or chose on.
        choosing: Site -> other rows, on which it chooses how much of its own model it takes.
        measure: By which figure.
        besides: Name -> (P,) other models that every site is measured with.

    Returns:
        Ready for JSON: `rows`, one a site and one for `all` rows together, each with `n`, `positive` and, where there
        are enough, the figure with interval of `federated`, `personalised` (federated and local mixed, see
        `personalise`; `share` is the local model's), `local` (the site alone; on `all`, each site's rows by its own
        model), `pooled` (all rows in one place), for tables `trees` (pooled gradient-boosted trees), for texts
        `commonest` (the site's commonest label); and paired `minus_local` and `personalised_minus_local`. `mean` is the
        mean over the sites that have figures.
    """
    scores, shares = _predict(job, model, federated, training, held_out, choosing, measure, besides or {})
    found: dict[str, dict[str, Resampled]] = {}
    for place, site in enumerate(held_out):
        label = held_out[site].label
        if measure.has_enough(label):
            found[site] = _figures(measure, label, scores[site], job.seed + place)
    rows = [_row(site, held_out[site].label, found.get(site)) | {"share": shares[site]} for site in held_out]
    label = np.concatenate([part.label for part in held_out.values()])
    together = {name: np.concatenate([scores[site][name] for site in held_out]) for name in next(iter(scores.values()))}
    everything = _figures(measure, label, together, job.seed) if measure.has_enough(label) else None
    mean = _in_row(_mean(list(found.values()))) | {"sites": list(found)} if found else {"sites": []}
    return {"metric": measure.name, "rows": [*rows, _row("all", label, everything)], "mean": mean}


def _predict(
    job: FederatedJob,
    model: LocalModel,
    federated: Vector,
    training: Mapping[str, Rows],
    held_out: Mapping[str, Rows],
    choosing: Mapping[str, Rows],
    measure: Measure,
    besides: Mapping[str, Vector],
) -> tuple[dict[str, Scores], dict[str, float]]:
    """Site -> name -> predictions on its held-out rows; site -> share of its own model."""
    passes = replace(job.local, epochs=job.local.epochs * job.rounds, proximal=0.0)
    start = model.initial(job.seed)
    together = Rows.together(list(training.values()))
    pooled = model.train(start, together, passes, job.seed).model
    trees = _trees(together) if measure is AUROC else None
    scores: dict[str, Scores] = {}
    shares: dict[str, float] = {}
    for site, rows in held_out.items():
        alone = model.train(start, training[site], passes, job.seed).model
        vectors = {"federated": federated, "local": alone, "pooled": pooled, **besides}
        here = {name: model.predict(vector, rows) for name, vector in vectors.items()}
        shares[site] = 0.0
        if site in choosing:
            common, own = (model.predict(vector, choosing[site]) for vector in (federated, alone))
            shares[site] = choose_share(common, own, choosing[site].label)
        here["personalised"] = mix(here["federated"], here["local"], shares[site])
        if trees is not None:
            here["trees"] = trees.predict_proba(rows.inputs["features"])[:, 1]
        if here["local"].ndim == 2:
            counts = np.bincount(training[site].label, minlength=here["local"].shape[1])
            here["commonest"] = np.tile(counts.astype(np.float64), (len(rows), 1))
        scores[site] = here
    return scores, shares


def _figures(measure: Measure, label: NDArray[np.int64], scores: Scores, seed: int) -> dict[str, Resampled]:
    return {name: resample(measure.metric, label, measure.answer(score), seed=seed) for name, score in scores.items()}


def _mean(sites: list[dict[str, Resampled]]) -> dict[str, Resampled]:
    """Each site's rows are drawn anew for themselves, and every site counts alike."""
    return {
        name: Resampled(
            float(np.mean([site[name].value for site in sites])),
            np.mean([site[name].resamples for site in sites], axis=0),
        )
        for name in sites[0]
    }


def _row(site: str, label: NDArray[np.int64], figures: dict[str, Resampled] | None) -> dict[str, Any]:
    return {"site": site, "n": len(label), "positive": int((label == 1).sum())} | (_in_row(figures) if figures else {})


def _in_row(figures: dict[str, Resampled]) -> dict[str, Any]:
    row = {name: figure.interval().to_json() for name, figure in figures.items()}
    for key, name in (("minus_local", "federated"), ("personalised_minus_local", "personalised")):
        row[key] = figures[name].minus(figures["local"]).interval().to_json()
    return row


def _trees(rows: Rows):  # type: ignore[no-untyped-def]
    """Trees on the pooled table, or None where rows are no table."""
    if "features" not in rows.inputs:
        return None
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(**_TREES).fit(rows.inputs["features"], rows.label)


def format_comparison(found: Mapping[str, Any], title: str = AUROC.title) -> str:
    """A table for a terminal."""
    rows = [*found["rows"], {"site": "mean", "n": "", "positive": "", **found["mean"]}]
    names = [name for name in NAMES if any(name in row for row in rows)]
    wide = max(len(row["site"]) for row in rows)
    has_cases = "trees" in names or "commonest" not in names
    lines = [f"{'site':{wide}}{'rows':>6}{'cases' if has_cases else '':>7}  " + "".join(f"{n:>20}" for n in names)]
    for row in rows:
        cells = [_cell(row.get(name)) for name in names]
        counts = f"{row['n']:>6}{row['positive'] if has_cases else '':>7}  "
        lines.append(f"{row['site']:{wide}}{counts}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join([*_verdict(found, title), "", *lines])


def _verdict(found: Mapping[str, Any], title: str) -> list[str]:
    gain = found["mean"].get("minus_local")
    if not gain:
        return ["too few rows to say what the federation is worth"]
    if gain["low"] is None:
        return [f"{title} is undefined on too many resamples to say what the federation is worth"]
    kind = "better than" if gain["low"] > 0 else "worse than" if gain["high"] < 0 else "not told apart from"
    lines = [
        f"federated is {kind} each site alone: {gain['value']:+.3f} {title} in the mean over "
        f"{len(found['mean']['sites'])} sites ({gain['low']:+.3f} to {gain['high']:+.3f})"
    ]
    for row in found["rows"]:
        loss = row.get("minus_local") or {"high": None}
        if row["site"] == "all" or loss["high"] is None or loss["high"] >= 0:
            continue
        own = row["personalised_minus_local"]
        lines.append(
            f"{row['site']} is worse off: {loss['value']:+.3f}; personalised {own['value']:+.3f} "
            f"({own['low']:+.3f} to {own['high']:+.3f})"
        )
    return lines


def _cell(interval: Mapping[str, float | None] | None) -> str:
    if interval is None:
        return "too few"
    if interval["low"] is None:
        return f"{interval['value']:.3f} (undefined)" if interval["value"] is not None else "undefined"
    return f"{interval['value']:.3f} ({interval['low']:.2f}-{interval['high']:.2f})"
