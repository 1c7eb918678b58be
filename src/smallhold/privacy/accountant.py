"""What a series of noisy releases costs: epsilon for a delta, by dp-accounting (extra `dp`).

Source: Mironov 2017, arXiv:1702.07476, and Mironov, Talwar, Zhang 2019, arXiv:1908.10530 (Rényi DP of the Poisson
subsampled Gaussian); Doroshenko et al. 2022, arXiv:2207.04380 (privacy loss distributions, "connect the dots").
Neighbouring data sets differ by one unit added or removed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from smallhold.errors import InputError, MissingExtraError
from smallhold.privacy.checks import check_count, check_positive

Mechanism = Literal["gaussian", "concentrated"]
MECHANISMS: tuple[Mechanism, ...] = ("gaussian", "concentrated")
# Beyond these the grid of a privacy loss distribution takes minutes and gigabytes, for an epsilon that means nothing.
_PLD_MAX_EPSILON = 50.0
_PLD_MIN_NOISE = 0.3
# A coarser grid than the library's 1e-4 rounds losses up, never down: five times faster, looser by under a thousandth
# for hundreds of steps and by one or two hundredths for twenty thousand. One grid for all, so that epsilon never sinks.
_PLD_INTERVAL = 5e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One release, or `steps` equal ones, as one privacy unit meets it.

    Attributes:
        noise_multiplier: Standard deviation of the noise over the L2 sensitivity for this unit.
        sampling_rate: With which probability each unit took part in a step, independently (Poisson sampling); 1 when
            the choice was not random, or the noise adder knows it.
        steps: How many.
        mechanism: "gaussian"; or "concentrated" for noise of which only concentrated DP of rho = 1 / (2
            noise_multiplier^2) is known (`effective_noise_multiplier`): composed in Rényi DP, never subsampled.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int = 1
    mechanism: Mechanism = "gaussian"

    def __post_init__(self) -> None:
        """Refuse what no accountant can compose."""
        check_positive(self.noise_multiplier, "noise_multiplier")
        check_count(self.steps, "steps")
        if not 0 < check_positive(self.sampling_rate, "sampling_rate") <= 1:
            raise InputError(f"sampling_rate: expected a probability above 0, at most 1, got {self.sampling_rate!r}")
        if self.mechanism not in MECHANISMS:
            raise InputError(f"mechanism: expected one of {', '.join(MECHANISMS)}, got {self.mechanism!r}")
        if self.mechanism == "concentrated" and self.sampling_rate < 1:
            raise InputError("sampling_rate: subsampling amplifies a Gaussian; for a concentrated charge it must be 1")


def compose_epsilon(charges: Iterable[Charge], *, delta: float) -> float:
    """The epsilon of all these charges together: an upper bound.

    The smaller of two bounds is returned, each of which holds: Rényi DP, and privacy loss distributions where those
    apply (Gaussian charges alone, an epsilon of at most 50).

    Args:
        charges: In any order; their order does not change the result.
        delta: Above 0, below 1.

    Raises:
        MissingExtraError: dp-accounting is absent.
        InputError: `delta` is out of range.
    """
    if not 0 < check_positive(delta, "delta") < 1:
        raise InputError(f"delta: expected above 0 and below 1, got {delta!r}")
    total: Counter[tuple[float, float, Mechanism]] = Counter()
    for charge in charges:
        total[charge.noise_multiplier, charge.sampling_rate, charge.mechanism] += charge.steps
    if not total:
        return 0.0
    dp, pld, rdp = _dp_accounting()
    events = []
    for (noise, rate, _), steps in sorted(total.items()):
        event = dp.GaussianDpEvent(noise)
        events.append(dp.SelfComposedDpEvent(event if rate == 1 else dp.PoissonSampledDpEvent(rate, event), steps))
    event = dp.ComposedDpEvent(events)
    relation = dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    with _without_left_out_orders():
        by_rdp = float(rdp.RdpAccountant(neighboring_relation=relation).compose(event).get_epsilon(delta))
    is_gaussian = all(mechanism == "gaussian" and noise >= _PLD_MIN_NOISE for noise, _, mechanism in total)
    if not is_gaussian or by_rdp > _PLD_MAX_EPSILON:
        return by_rdp
    accountant = pld.PLDAccountant(neighboring_relation=relation, value_discretization_interval=_PLD_INTERVAL)
    return min(by_rdp, float(accountant.compose(event).get_epsilon(delta)))


def fit_noise_multiplier(
    epsilon: float, *, delta: float, sampling_rate: float = 1.0, steps: int = 1, mechanism: Mechanism = "gaussian"
) -> float:
    """The smallest noise multiplier, to three decimals upwards, whose `steps` releases cost at most `epsilon`.

    Raises:
        MissingExtraError: dp-accounting is absent.
        InputError: no noise multiplier up to 10^6 is enough, or an argument is out of range.
    """
    check_positive(epsilon, "epsilon")

    def cost(thousandths: int) -> float:
        charge = Charge(
            noise_multiplier=thousandths / 1000, sampling_rate=sampling_rate, steps=steps, mechanism=mechanism
        )
        return compose_epsilon([charge], delta=delta)

    high = 1000
    while cost(high) > epsilon:
        high *= 2
        if high > 10**9:
            raise InputError(f"epsilon: no noise multiplier up to 10^6 brings {steps} steps to {epsilon:g}")
    low = 0 if high == 1000 else high // 2  # cost(low) > epsilon, or low is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= epsilon else (middle, high)
    return high / 1000


@contextmanager
def _without_left_out_orders() -> Iterator[None]:
    """Keep to itself, line after line, that a Rényi order did not converge: the bound holds without it."""
    logger = logging.getLogger("absl")

    def is_kept(record: logging.LogRecord) -> bool:
        return "Excluding this order" not in record.getMessage()

    logger.addFilter(is_kept)
    try:
        yield
    finally:
        logger.removeFilter(is_kept)


def _dp_accounting() -> tuple[Any, Any, Any]:
    try:
        import dp_accounting
        from dp_accounting import pld, rdp
    except ImportError as error:
        raise MissingExtraError("dp_accounting", "dp", "privacy accounting") from error
    return dp_accounting, pld, rdp
