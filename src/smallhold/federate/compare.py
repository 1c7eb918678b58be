"""What a federation is worth: the global model beside each site alone, and beside everything in one place.

Every site's figures are on its own rows of one split, with bootstrap intervals; the simple thing stands in each row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.evaluate.bootstrap import bootstrap_interval, paired_difference
from smallhold.evaluate.metrics import auroc
from smallhold.federate.job import FederatedJob
from smallhold.federate.layout import Vector
from smallhold.federate.local_model import LocalModel, Rows

#: Fewer of either outcome give no figure: the interval would span everything.
LEAST_OF_EITHER = 5
_TREES = {"max_iter": 150, "learning_rate": 0.05, "max_leaf_nodes": 8, "l2_regularization": 1.0, "random_state": 0}


def compare(
    job: FederatedJob,
    model: LocalModel,
    federated: Vector,
    training: Mapping[str, Rows],
    held_out: Mapping[str, Rows],
) -> dict[str, Any]:
    """Measure the federated model and its alternatives, all trained for the same number of passes.

    Args:
        job: What was carried out.
        model: What was trained.
        federated: (P,) its last global model.
        training: Site -> rows it trained on.
        held_out: Site -> rows nobody trained or chose on.

    Returns:
        Ready for JSON: `rows`, one a site and one for `all`, each with `n`, `positive` and, where there is enough of
        either outcome, AUROC with interval of `federated`, `personalised` (the federated model after one more local
        round), `local` (the site alone; on `all`, each site's rows by its own model), `pooled` (all rows in one
        place) and, for tables, `trees` (pooled gradient-boosted trees); and `minus_local`, paired.
    """
    passes = replace(job.local, epochs=job.local.epochs * job.rounds, proximal=0.0)
    start = model.initial(job.seed)
    pooled = model.train(start, Rows.together(list(training.values())), passes, job.seed).model
    trees = _trees(Rows.together(list(training.values())))
    scores: dict[str, dict[str, NDArray[np.float64]]] = {}
    for site, rows in held_out.items():
        alone = model.train(start, training[site], passes, job.seed).model
        own = model.train(federated, training[site], replace(job.local, proximal=0.0), job.seed).model
        vectors = {"federated": federated, "personalised": own, "local": alone, "pooled": pooled}
        scores[site] = {name: model.predict(vector, rows) for name, vector in vectors.items()}
        if trees is not None:
            scores[site]["trees"] = trees.predict_proba(rows.inputs["features"])[:, 1]
    everywhere = {
        name: np.concatenate([scores[site][name] for site in held_out]) for name in next(iter(scores.values()))
    }
    label = np.concatenate([rows.label for rows in held_out.values()])
    measured = [_row(site, held_out[site].label, scores[site], job.seed) for site in held_out]
    return {"metric": "auroc", "rows": [*measured, _row("all", label, everywhere, job.seed)]}


def _row(site: str, label: NDArray[np.int64], scores: Mapping[str, NDArray[np.float64]], seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {"site": site, "n": len(label), "positive": int(label.sum())}
    if min(label.sum(), len(label) - label.sum()) < LEAST_OF_EITHER:
        return row
    for name, score in scores.items():
        interval = bootstrap_interval(auroc, label, score, seed=seed)
        row[name] = {"value": interval.value, "low": interval.low, "high": interval.high}
    gain = paired_difference(auroc, (label, scores["federated"]), (label, scores["local"]), seed=seed)
    row["minus_local"] = {"value": gain.value, "low": gain.low, "high": gain.high}
    return row


def _trees(rows: Rows):  # type: ignore[no-untyped-def]
    """Trees on the pooled table, or None where rows are no table."""
    if "features" not in rows.inputs:
        return None
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(**_TREES).fit(rows.inputs["features"], rows.label)


def format_comparison(found: Mapping[str, Any]) -> str:
    """A table for a terminal."""
    names = [name for name in ("federated", "personalised", "local", "pooled", "trees") if name in found["rows"][-1]]
    wide = max(len(row["site"]) for row in found["rows"])
    lines = [f"{'site':{wide}}{'rows':>6}{'cases':>7}  " + "".join(f"{name:>20}" for name in names)]
    for row in found["rows"]:
        cells = [_cell(row.get(name)) for name in names]
        counts = f"{row['n']:>6}{row['positive']:>7}  "
        lines.append(f"{row['site']:{wide}}{counts}" + "".join(f"{cell:>20}" for cell in cells))
    gain = found["rows"][-1].get("minus_local")
    verdict = "too few rows to say what the federation is worth"
    if gain:
        kind = "better than" if gain["low"] > 0 else "worse than" if gain["high"] < 0 else "not told apart from"
        verdict = (
            f"federated is {kind} each site alone: {gain['value']:+.3f} AUROC over all sites "
            f"({gain['low']:+.3f} to {gain['high']:+.3f})"
        )
    return "\n".join([verdict, "", *lines])


def _cell(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "too few"
    return f"{interval['value']:.3f} ({interval['low']:.2f}-{interval['high']:.2f})"
