"""What may happen here: a profile compiled to a table, and one look-up per decision.

A situation is a `Context` of closed facts, so all 27,648 of them are computed when a profile is loaded:

* Every action class has a default effect.
* A `permit` weakens it where it matches. The profile nearest to the site decides (a region before what it extends);
  within one profile the strongest of its permits wins.
* Every `restrict` of every profile raises the effect; the maximum wins. Nothing that extends a profile can lift it.
* Clauses and obligations of all rules that apply are united: retention takes the largest, a time limit for erasure the
  smallest, residency the intersection. Where nothing is left, the profile is refused.

`load_profile` refuses a profile that is not safe as a table; `decide` then needs no rule engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smallhold.assist.context import FACTS, WORSENINGS, Context, FactValue
from smallhold.assist.profile import (
    OBLIGATIONS,
    SOURCES,
    Clause,
    Layer,
    Rule,
    Source,
    digest_layers,
    read_layers,
    split_obligation,
)
from smallhold.errors import PolicyError
from smallhold.records import ActionClass, Effect, Provenance, Verdict, effect_rank

_SHAPE = tuple(len(values) for values in FACTS.values())
_STRIDES = tuple(int(np.prod(_SHAPE[axis + 1 :])) for axis in range(len(_SHAPE)))
_EFFECTS = tuple(Effect)
_AXIS = {fact: axis for axis, fact in enumerate(FACTS)}
#: Per fact: value -> its share of a cell's position in the flat table.
_OFFSETS = tuple(
    {value: position * stride for position, value in enumerate(values)}
    for values, stride in zip(FACTS.values(), _STRIDES, strict=True)
)
(_ACTION, _ORDER, _DEVICE, _CONFIDENCE, _ABSTAINED, _STALE, _DEGRADED, _JOURNAL, _CONSENT, _EMERGENCY, _PRIORITY) = (
    _OFFSETS
)
_LEAST_HUMAN = effect_rank(Effect.CONFIRM_ONE)

Ranks = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the table says about one or more cells."""

    effect: Effect
    clauses: tuple[str, ...]
    obligations: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """A checked profile, ready for `decide`.

    Attributes:
        name: For example `eu`.
        version: The profile's own version.
        note: What a reader must know; shipped ones are engineering encodings that counsel has to review.
        digest: SHA-256 of what the files say, carried by every record.
        layers: The profile and what it extends, the most general first.
        draft_permissions: Rules that permit on clauses nobody has read; empty unless that was allowed.
        outcomes: The distinct outcomes.
        cells: For every situation, in the order of `FACTS`, the position of its outcome.
    """

    name: str
    version: str
    note: str
    digest: str
    layers: tuple[Layer, ...]
    draft_permissions: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    cells: Sequence[int]

    @property
    def clauses(self) -> dict[str, Clause]:
        """Every clause of the profile and of what it extends."""
        return {clause.id: clause for layer in self.layers for clause in layer.clauses.values()}


def load_profile(
    name_or_path: str | Path, *, allow_draft_permissions: bool = False, source: Source | None = None
) -> Profile:
    """Read, check and compile a profile.

    Guarantees of a profile that loads, for every situation:
        * it has exactly one effect, and a list of clauses and obligations;
        * losing confidence, abstaining, stale data, degradation, an expired or missing order, a missing clearance,
          a failed journal or less consent never weaken the effect;
        * a HIGH alert to a clinician (A1) is automatic: nothing suppresses it;
        * a treatment under a standing order (A4) needs a person unless the order is valid and the device cleared;
        * a new treatment (A5) is forbidden.

    Args:
        name_or_path: A shipped name (`base-clinical`, `eu`, `us`, ...) or the path of a TOML file.
        allow_draft_permissions: Accept permits that cite only clauses which nobody has read in their source.
        source: What the readings come from. A profile that refuses a kind of source does not load before it is told.

    Raises:
        RecipeError: the file is absent or an entry is unknown, missing or impossible.
        PolicyError: a guarantee does not hold; the message names the first situation where it fails. Obligations
            exclude each other (no common residency, erasure due before retention ends). The source is refused.
    """
    layers = read_layers(name_or_path)
    name = layers[-1].name
    _check_source(name, layers, source)
    defaults = _defaults(layers)
    drafts = _draft_permissions(layers, defaults)
    if drafts and not allow_draft_permissions:
        raise PolicyError(
            f"profile {name}: rules that permit something because of clauses that nobody has read in their source: "
            f"{', '.join(drafts)}",
            hint="read the clause and set its status to 'read', or load with draft permissions allowed",
        )
    ranks, applies = _compile(layers, defaults)
    _check_monotone(name, ranks)
    _check_actions(name, ranks)
    rules = [rule for layer in layers for rule in layer.rules]
    outcomes, cells = _outcomes(name, rules, ranks, applies)
    return Profile(
        name=name,
        version=layers[-1].version,
        note=layers[-1].note,
        digest=digest_layers(layers),
        layers=layers,
        draft_permissions=drafts,
        outcomes=outcomes,
        cells=cells,
    )


def decide(profile: Profile, context: Context, provenance: Provenance) -> Verdict:
    """Look one situation up.

    Args:
        profile: From `load_profile`.
        context: The situation.
        provenance: Goes onto the verdict.

    Raises:
        PolicyError: a fact of the context has a value outside its closed set.
    """
    try:
        cell = (
            _ACTION[context.action]
            + _ORDER[context.standing_order]
            + _DEVICE[context.device_class]
            + _CONFIDENCE[context.confidence]
            + _ABSTAINED[context.has_abstained]
            + _STALE[context.is_stale]
            + _DEGRADED[context.is_degraded]
            + _JOURNAL[context.has_journal_failed]
            + _CONSENT[context.consent]
            + _EMERGENCY[context.is_emergency]
            + _PRIORITY[context.priority]
        )
    except (KeyError, TypeError) as error:  # TypeError: a value that cannot even be looked up, such as a list
        raise PolicyError(f"a fact has a value outside its closed set: {error.args[0]!r} in {context}") from error
    outcome = profile.outcomes[profile.cells[cell]]
    return Verdict(
        action=context.action,
        effect=outcome.effect,
        clauses=outcome.clauses,
        obligations=outcome.obligations,
        provenance=provenance,
    )


def _check_source(name: str, layers: tuple[Layer, ...], source: Source | None) -> None:
    if source is not None and source not in SOURCES:
        raise PolicyError(f"profile {name}: source: expected {' or '.join(SOURCES)}, got {source!r}")
    refused = {item for layer in layers for item in layer.refuses_sources}
    if refused and (source is None or source in refused):
        got = "was not told which source it is for" if source is None else f"got a {source} one"
        raise PolicyError(
            f"profile {name} refuses a {' or '.join(sorted(refused))} source: {got}",
            hint="say what it is for (source='discrete', or --source discrete), or use the profile that it extends",
        )


def _defaults(layers: tuple[Layer, ...]) -> dict[str, Effect]:
    defaults: dict[str, Effect] = {}
    for layer in layers:
        for action, effect in layer.defaults.items():
            if action in defaults and effect_rank(effect) < effect_rank(defaults[action]):
                raise PolicyError(
                    f"profile {layer.name}: default of {action} would weaken {defaults[action]} to {effect}",
                    hint="write a [[permit]] that cites its clause",
                )
            defaults[action] = effect
    missing = [action for action in ActionClass if action not in defaults]
    if missing:
        raise PolicyError(f"profile {layers[-1].name} is not total: no default effect for {', '.join(missing)}")
    return defaults


def _draft_permissions(layers: tuple[Layer, ...], defaults: dict[str, Effect]) -> tuple[str, ...]:
    clauses = {clause.id: clause for layer in layers for clause in layer.clauses.values()}
    drafts = []
    for layer in layers:
        for rule in layer.rules:
            if rule.kind != "permit":
                continue
            weakened = [
                action
                for action in rule.when.get("action", tuple(ActionClass))
                if effect_rank(rule.effect) >= effect_rank(defaults[str(action)])
            ]
            if weakened:
                raise PolicyError(
                    f"profile {layer.name}: rule {rule.id!r} permits nothing: {rule.effect} is not weaker than the "
                    f"default of {', '.join(str(action) for action in weakened)}",
                    hint="use [[restrict]] to raise an effect",
                )
            if all(clauses[clause].is_draft for clause in rule.clauses):
                drafts.append(rule.id)
    return tuple(drafts)


def _matches(rule: Rule) -> tuple[NDArray[np.intp], ...]:
    """Open mesh of the cells where a rule holds."""
    positions = [[values.index(value) for value in rule.when.get(fact, values)] for fact, values in FACTS.items()]
    return np.ix_(*positions)


def _compile(layers: tuple[Layer, ...], defaults: dict[str, Effect]) -> tuple[Ranks, NDArray[np.bool_]]:
    """The effect of every cell, and which rules apply in it: shapes `_SHAPE` and (rules, *_SHAPE)."""
    by_action = np.array([effect_rank(defaults[action]) for action in ActionClass], np.int8)
    permitted = np.empty(_SHAPE, np.int8)
    permitted[...] = by_action.reshape(-1, *[1] * (len(_SHAPE) - 1))
    floor = np.zeros(_SHAPE, np.int8)
    applies = np.zeros((sum(len(layer.rules) for layer in layers), *_SHAPE), bool)
    number = 0
    for layer in layers:
        first = number
        nearest = np.full(_SHAPE, -1, np.int8)
        for rule in layer.rules:
            cells = _matches(rule)
            applies[number][cells] = True
            if rule.kind == "permit":
                nearest[cells] = np.maximum(nearest[cells], effect_rank(rule.effect))
            else:
                floor[cells] = np.maximum(floor[cells], effect_rank(rule.effect))
            number += 1
        # A nearer profile that permits here replaces what farther ones permit, and their clauses with it.
        is_decided = nearest >= 0
        permitted = np.where(is_decided, nearest, permitted)
        for farther, rule in enumerate(rule for layer in layers for rule in layer.rules):
            if farther < first and rule.kind == "permit":
                applies[farther] &= ~is_decided
    return np.maximum(permitted, floor), applies


def _check_monotone(name: str, ranks: Ranks) -> None:
    for fact, pairs in WORSENINGS.items():
        axis, values = _AXIS[fact], FACTS[fact]
        for better, worse in pairs:
            weaker = np.take(ranks, values.index(worse), axis) < np.take(ranks, values.index(better), axis)
            if weaker.any():
                cell = list(np.argwhere(weaker)[0])
                cell.insert(axis, values.index(better))
                before = _EFFECTS[ranks[tuple(cell)]]
                cell[axis] = values.index(worse)
                raise PolicyError(
                    f"profile {name} is not monotone: {fact} from {better} to {worse} weakens {before} to "
                    f"{_EFFECTS[ranks[tuple(cell)]]} when {_describe(cell, without=fact)}"
                )


def _check_actions(name: str, ranks: Ranks) -> None:
    def refuse(is_bad: NDArray[np.bool_], rule: str) -> None:
        if is_bad.any():
            cell = list(np.argwhere(is_bad)[0])
            raise PolicyError(f"profile {name}: {rule}: got {_EFFECTS[ranks[tuple(cell)]]} when {_describe(cell)}")

    def where(**facts: FactValue) -> NDArray[np.bool_]:
        chosen = np.zeros(_SHAPE, bool)
        chosen[np.ix_(*[[v.index(facts[f])] if f in facts else range(len(v)) for f, v in FACTS.items()])] = True
        return chosen

    refuse(where(action="A5") & (ranks < effect_rank(Effect.FORBID)), "A5 starts a new treatment and must be forbidden")
    is_covered = where(standing_order="valid", device_class="closed_loop_cleared")
    refuse(
        where(action="A4") & ~is_covered & (ranks < _LEAST_HUMAN),
        "A4 without a person needs a valid standing order and a cleared device",
    )
    refuse(where(action="A1", priority="high") & (ranks > 0), "a HIGH alert (A1) must be auto, nothing may suppress it")


def _describe(cell: Sequence[int], without: str | None = None) -> str:
    facts = zip(FACTS.items(), cell, strict=True)
    return ", ".join(f"{fact} = {_word(values[i])}" for (fact, values), i in facts if fact != without)


def _word(value: FactValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _outcomes(
    name: str, rules: list[Rule], ranks: Ranks, applies: NDArray[np.bool_]
) -> tuple[tuple[Outcome, ...], list[int]]:
    """Distinct (effect, rules) pairs as outcomes, and the outcome of every cell."""
    flat = applies.reshape(len(rules), ranks.size)
    bits = np.packbits(flat, axis=0).T
    keys = np.ascontiguousarray(np.concatenate([ranks.reshape(-1, 1).astype(np.uint8), bits], axis=1))
    _, first, cells = np.unique(keys.view(f"V{keys.shape[1]}").ravel(), return_index=True, return_inverse=True)
    outcomes = []
    for cell in first:
        held = [rules[number] for number in np.flatnonzero(flat[:, cell])]
        outcomes.append(
            Outcome(
                effect=_EFFECTS[ranks.flat[cell]],
                clauses=tuple(sorted({clause for rule in held for clause in rule.clauses})),
                obligations=_unite(name, held),
            )
        )
    return tuple(outcomes), cells.ravel().tolist()


def _unite(name: str, rules: Iterable[Rule]) -> tuple[str, ...]:
    """One obligation per name: flags as they are, the largest number, the intersection of lists."""
    united: dict[str, str] = {}
    for rule in rules:
        for obligation in rule.obligations:
            key, value = split_obligation(obligation)
            if key not in united:
                united[key] = value
            elif OBLIGATIONS[key] == "largest":
                united[key] = max(united[key], value, key=int)
            elif OBLIGATIONS[key] == "smallest":
                united[key] = min(united[key], value, key=int)
            elif OBLIGATIONS[key] == "intersection":
                common = set(united[key].split(",")) & set(value.split(","))
                if not common:
                    raise PolicyError(
                        f"profile {name}: obligations conflict: {key}={united[key]} and {key}={value} "
                        f"(rule {rule.id!r}) have nothing in common"
                    )
                united[key] = ",".join(sorted(common))
    if int(united.get("retain_days", 0)) > int(united.get("erase_within_days", 10**9)):
        raise PolicyError(
            f"profile {name}: obligations conflict: retain_days={united['retain_days']} and "
            f"erase_within_days={united['erase_within_days']}: what must be kept would be erased"
        )
    return tuple(f"{key}={value}" if value else key for key, value in sorted(united.items()))
