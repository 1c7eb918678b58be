"""Which filters an update passes, in which order, and which combinations are nonsense.

Every filter says what it does, whether it commutes with adding (is linear), and whether it must see plain numbers. From
that follows what may come before what; nothing here runs a filter.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from smallhold.errors import RecipeError

Kind = Literal["clip", "noise", "sparsify", "quantize", "fixed_point", "discrete_noise", "mask", "encrypt"]
#: The order in which a site applies them. Between clip and noise nothing may change the norm; what is lossy and linear
#: (fixed_point) comes before noise on whole numbers; what hides the numbers comes last.
ORDER: tuple[Kind, ...] = (
    "clip",
    "noise",
    "sparsify",
    "quantize",
    "fixed_point",
    "discrete_noise",
    "mask",
    "encrypt",
)
_HIDING = ("mask", "encrypt")
Aggregate = Literal["sum", "mean", "weighted_mean", "median", "trimmed_mean", "krum", "fedadam"]
_LINEAR_AGGREGATES = ("sum", "mean", "weighted_mean", "fedadam")  # fedadam: a server step on the mean
_ALL_AGGREGATES = (*_LINEAR_AGGREGATES, "median", "trimmed_mean", "krum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One step between a site's update and what the server adds.

    Attributes:
        kind: What it does.
        is_linear: Whether filtered updates can be added and the sum be read like one of them. Top-k is not: every site
            keeps other positions. Positions that are the same for all sites, chosen without looking at data, are.
        needs_plaintext: Whether it reads or changes plain numbers.
        key: What asked for it, for messages: a key of a job.
    """

    kind: Kind
    is_linear: bool
    needs_plaintext: bool
    key: str = ""

    def __str__(self) -> str:
        """The kind, and who asked for it."""
        return f"{self.kind} ({self.key})" if self.key else self.kind


CLIP = Filter(kind="clip", is_linear=False, needs_plaintext=True)
NOISE = Filter(kind="noise", is_linear=True, needs_plaintext=True)
TOP_K = Filter(kind="sparsify", is_linear=False, needs_plaintext=True)
SHARED_SUPPORT = Filter(kind="sparsify", is_linear=True, needs_plaintext=True)
QUANTIZE = Filter(kind="quantize", is_linear=False, needs_plaintext=True)
FIXED_POINT = Filter(kind="fixed_point", is_linear=True, needs_plaintext=True)
DISCRETE_NOISE = Filter(kind="discrete_noise", is_linear=True, needs_plaintext=True)
MASK = Filter(kind="mask", is_linear=True, needs_plaintext=False)
ENCRYPT = Filter(kind="encrypt", is_linear=True, needs_plaintext=False)


@dataclass(frozen=True, slots=True)
class FilterPlan:
    """Filters in the order of their application.

    Attributes:
        filters: In order.
        aggregate: What the server computes.
        hides_updates: Whether the server sees only the sum.
        has_site_noise: Whether the noise is in an update before it leaves the site.
    """

    filters: tuple[Filter, ...]
    aggregate: Aggregate
    hides_updates: bool
    has_site_noise: bool

    def __str__(self) -> str:
        """For example `clip > fixed_point > mask, then weighted_mean`."""
        return " > ".join(step.kind for step in self.filters) + f", then {self.aggregate}"


def plan_filters(
    filters: Sequence[Filter],
    *,
    aggregate: Aggregate,
    claims_privacy: bool = False,
    has_server_noise: bool = False,
    keeps_order: bool = False,
    aggregate_key: str = "",
    noise_key: str = "",
) -> FilterPlan:
    """Order filters, and refuse what cannot work or protects nothing.

    Args:
        filters: What the job asks for, in any order.
        aggregate: What the server computes from the updates.
        claims_privacy: Whether an epsilon will be stated for the result.
        has_server_noise: Whether the server adds noise to the sum (central differential privacy).
        keeps_order: Refuse another order than the right one instead of putting it right.
        aggregate_key: What asked for the aggregate, for messages.
        noise_key: What asked for the server's noise, for messages.

    Raises:
        RecipeError: names the filters that do not go together, and what to do instead.
    """
    if aggregate not in _ALL_AGGREGATES:
        raise RecipeError(f"aggregate: expected one of {', '.join(_ALL_AGGREGATES)}, got {aggregate!r}")
    kinds = [step.kind for step in filters]
    for kind in kinds:
        if kind not in ORDER:
            raise RecipeError(f"filters: expected kinds among {', '.join(ORDER)}, got {kind!r}")
        if kinds.count(kind) > 1:
            raise RecipeError(f"filters: {kind} is named twice")
    ordered = tuple(sorted(filters, key=lambda step: ORDER.index(step.kind)))
    if keeps_order:
        _check_order(filters, ordered)
    hiding = [step for step in ordered if step.kind in _HIDING]
    _check_hidden(ordered, hiding, f"{aggregate} ({aggregate_key})" if aggregate_key else aggregate, aggregate)
    if hiding and has_server_noise:
        raise RecipeError(
            f"noise at the server{f' ({noise_key})' if noise_key else ''} after {hiding[0]}: "
            "nothing holds a site that hides its update to its clip norm",
            hint="discrete_noise at the sites, before they hide their updates",
        )
    _check_exclusive(kinds)
    has_site_noise = "noise" in kinds or "discrete_noise" in kinds
    if (claims_privacy or has_site_noise or has_server_noise) and "clip" not in kinds:
        raise RecipeError(
            "clip is missing: without a bound on an update no noise gives differential privacy",
            hint="add a clip filter with a clip_norm",
        )
    if claims_privacy and not (has_site_noise or has_server_noise):
        raise RecipeError(
            "noise is missing: clipping alone gives no epsilon", hint="add noise at the sites or at the server"
        )
    if has_server_noise and aggregate not in _LINEAR_AGGREGATES:
        raise RecipeError(
            f"{aggregate} with noise at the server: its sensitivity is not bounded by the clip norm",
            hint="add noise at the sites, or take a mean",
        )
    return FilterPlan(ordered, aggregate, bool(hiding), has_site_noise)


def _check_order(asked: Sequence[Filter], ordered: Sequence[Filter]) -> None:
    for before, after in itertools.pairwise(asked):
        if ORDER.index(before.kind) > ORDER.index(after.kind):
            reason = (
                f"{after.kind} needs plain numbers, after {before.kind} there are none"
                if after.needs_plaintext and before.kind in _HIDING
                else f"{after.kind} must come before {before.kind}"
            )
            raise RecipeError(
                f"{after.kind} after {before.kind}: {reason}", hint=" > ".join(step.kind for step in ordered)
            )


def _check_hidden(ordered: Sequence[Filter], hiding: Sequence[Filter], named: str, aggregate: str) -> None:
    """What is added without being read must be whole numbers with one meaning at every site."""
    if not hiding:
        return
    if len(hiding) == 2:
        raise RecipeError(
            "mask and encrypt: each hides the updates from the server, together they only cost", hint="choose one"
        )
    what = "masked sums" if hiding[0].kind == "mask" else "ciphertexts"
    what += f" ({hiding[0].key})" if hiding[0].key else ""
    if aggregate not in _LINEAR_AGGREGATES:
        raise RecipeError(
            f"{named} over {what}: it compares single updates, which the server cannot see",
            hint="take a mean and clip the updates, or give up hiding them",
        )
    kinds = {step.kind for step in ordered}
    for step in ordered:
        if step.kind == "sparsify" and not step.is_linear:
            raise RecipeError(
                f"sparsify ({step.key or 'top-k'}) under {hiding[0]}: "
                "every site would keep other positions, no sum has a meaning",
                hint="choose the positions for all sites alike, without looking at data, or send LoRA adapters whole",
            )
        if step.kind == "noise":
            raise RecipeError(
                f"noise on floats under {hiding[0]}: rounding it afterwards breaks its guarantee",
                hint="discrete_noise after fixed_point",
            )
        if step.kind == "quantize" and not step.is_linear:
            raise RecipeError(
                f"quantize by group{f' ({step.key})' if step.key else ''} under {hiding[0]}: "
                "every site has its own scales, and the codes cannot be added",
                hint="fixed_point has one step for all sites",
            )
    if "fixed_point" not in kinds:
        raise RecipeError(f"fixed_point is missing: {what} are of whole numbers", hint="add fixed_point")


def _check_exclusive(kinds: Sequence[str]) -> None:
    if "noise" in kinds and "discrete_noise" in kinds:
        raise RecipeError("noise and discrete_noise: one of them is enough", hint="discrete_noise needs fixed_point")
    if "discrete_noise" in kinds and "fixed_point" not in kinds:
        raise RecipeError("discrete_noise without fixed_point: it is noise on whole numbers", hint="add fixed_point")
    if "quantize" in kinds and "fixed_point" in kinds:
        raise RecipeError("quantize and fixed_point: two ways to round the same numbers", hint="choose one")
