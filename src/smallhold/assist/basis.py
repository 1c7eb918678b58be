"""What stands behind a decision, for whoever asks: the clauses, the score, the model with its card, and the data.

Regulation (EU) 2024/1689, Articles 13(3) and 86, and the fourth criterion of section 520(o)(1)(E) of the US Food, Drug,
and Cosmetic Act ask that the basis of a recommendation can be reviewed. Nothing here is written for the occasion: every
entry is read from the journalled step, the profile in force and the bundle that answered, and names their digests.
"""

from __future__ import annotations

from typing import Any

from smallhold.assist.policy import Profile
from smallhold.assist.step import Step
from smallhold.decide.local import LocalBundle
from smallhold.decide.plan import Field
from smallhold.decide.task import Task
from smallhold.errors import InputError
from smallhold.records import Card, Verdict, to_json

_CARD = "card.md"


def decision_basis(step: Step, profile: Profile, bundle: LocalBundle | None = None) -> dict[str, Any]:
    """The basis of one step as a JSON object.

    Args:
        step: As it was made, or read back from the journal.
        profile: The policy that was in force.
        bundle: What answered; None when there was no model, or it is not at hand.

    Returns:
        * `decision`: when, for whom, which run and trace, and whether the data are simulated;
        * `policy`: the profile and its digest, `verdicts` (condition, action, effect, obligations) and `clauses`, each
          with its source, summary, status (`read` or `draft`) and the actions that cite it;
        * `scores`: the deterministic scores with parts and missing readings;
        * `answer`: the model's answer, or why there is none;
        * `explanation`: its evidence, how that stood up to deletion, and what would have made the difference;
        * `model`: name, version, digest, `card` (digest and text) and `key_figures` of the task that was asked; None
          without a bundle;
        * `data_sheet`: data sets that the model was trained on, with the digests of their licences, and the readings of
          this step; of the training data None without a bundle.

    Raises:
        InputError: the profile or the bundle is not the one that the step names; showing another would mislead.
    """
    named = step.provenance
    if named.profile != profile.digest:
        raise InputError(
            f"basis: the step was judged under profile {_short(named.profile)}, this is {profile.name} "
            f"{profile.version}, {_short(profile.digest)}",
            hint="load the profile in the version that was in force",
        )
    if bundle is not None and named.bundle != bundle.manifest.digest:
        raise InputError(
            f"basis: the step names bundle {_short(named.bundle)}, this is {bundle.manifest.name} "
            f"{bundle.manifest.version}, {_short(bundle.manifest.digest)}"
        )
    return {
        "schema": "smallhold.decision-basis/1",
        "decision": {
            "run_id": step.run_id,
            "patient": step.patient,
            "number": step.number,
            "t_ms": step.t_ms,
            "trace_id": named.trace_id,
            "clock": named.clock,
            "is_simulated": named.simulated,
            "is_degraded": step.is_degraded,
            "bundle": named.bundle,
        },
        "policy": _policy(step, profile),
        "scores": to_json(step.scores)["scores"],
        "answer": _answer(step),
        "explanation": _explanation(step.card, step.explain_error),
        "model": None if bundle is None else _model(step, bundle),
        "data_sheet": _data_sheet(step, bundle),
    }


def _policy(step: Step, profile: Profile) -> dict[str, Any]:
    cited: dict[str, list[str]] = {}
    for verdict in step.verdicts:
        for clause in verdict.clauses:
            actions = cited.setdefault(clause, [])
            actions += [] if verdict.action.value in actions else [verdict.action.value]
    known = profile.clauses
    return {
        "profile": {
            "name": profile.name,
            "version": profile.version,
            "digest": profile.digest,
            "note": profile.note,
            "extends": [layer.name for layer in profile.layers[:-1]],
        },
        "verdicts": [
            {"condition": proposal.condition, "source": proposal.source, "priority": proposal.priority.value}
            | _verdict(verdict)
            for proposal, verdict in zip(step.proposals, step.verdicts, strict=True)
        ],
        "clauses": [
            {
                "id": clause,
                "source": known[clause].source,
                "summary": known[clause].summary,
                "status": "draft" if known[clause].is_draft else "read",
                "actions": actions,
            }
            for clause, actions in cited.items()
        ],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "action": verdict.action.value,
        "effect": verdict.effect.value,
        "clauses": list(verdict.clauses),
        "obligations": list(verdict.obligations),
    }


def _answer(step: Step) -> dict[str, Any]:
    risk = step.risk
    if risk is None:
        return {"error": step.model_error}
    names = ("task", "field", "choice", "probabilities", "confidence", "has_abstained", "horizon_h", "model")
    return {"error": None, **{name: getattr(risk, name) for name in names}}


def _explanation(card: Card | None, error: str | None) -> dict[str, Any] | None:
    if card is None:
        return None if error is None else {"error": error}
    told = to_json(card)
    return {
        "error": None,
        "is_verified": card.is_verified,
        **{name: told.get(name) for name in ("text", "evidence", "deletion", "counterfactual")},
    }


def _model(step: Step, bundle: LocalBundle) -> dict[str, Any]:
    manifest = bundle.manifest
    entry = manifest.files.get(_CARD)
    task = None if step.risk is None else bundle.task(step.risk.task).task
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "created": manifest.created,
        "is_simulated": manifest.is_simulated,
        "card": None if entry is None else {"sha256": entry.sha256, "text": bundle.read(_CARD).decode()},
        "key_figures": None if task is None or step.risk is None else _key_figures(task, step.risk.field),
    }


def _key_figures(task: Task, name: str) -> dict[str, Any]:
    field: Field = task.field(name)
    promise = field.conformal
    return {
        "task": task.name,
        "question": task.question,
        "choices": list(field.choices),
        "alert_choice": field.positive,
        "alert_threshold": field.alert_threshold,
        "promised_error": None if promise is None else promise.alpha,
        "calibrated_on": None
        if promise is None
        else {group.name: dict(zip(field.choices, group.counts, strict=True)) for group in promise.groups},
    }


def _data_sheet(step: Step, bundle: LocalBundle | None) -> dict[str, Any]:
    training = None
    if bundle is not None:
        files = bundle.manifest.files
        training = [
            {"data_set": name, "licence_sha256": files[path].sha256 if path in files else None}
            for name in bundle.manifest.training_data
            for path in [f"licences/{name}.txt"]
        ]
    gate, window = step.gate, step.window
    return {
        "training_data": training,
        "reading": None if step.observation is None else step.observation.id,
        "gate_reasons": [] if gate is None else list(gate.reasons),
        "window": None
        if window is None
        else {"start_ms": window.start_ms, "end_ms": window.end_ms, "observations": list(window.observations)},
    }


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
