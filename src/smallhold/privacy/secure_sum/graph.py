"""Who exchanges masks with whom: everybody, or a random ring of few neighbours (SecAgg+).

Source: Bell et al. 2020, section 3: Harary graphs over a random order of the sites.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from smallhold.errors import InputError
from smallhold.privacy.checks import check_count


@dataclass(frozen=True, slots=True)
class GraphSize:
    """How many neighbours, and how many shares give a secret back: for `SecureSumConfig`."""

    neighbors: int
    share_threshold: int


def neighborhoods(sites: Sequence[str], digest: bytes, neighbors: int | None) -> dict[str, tuple[str, ...]]:
    """The neighbours of every site, itself left out, sorted.

    With `neighbors`, the sites stand on a ring in an order that hashing with `digest` gives, and each sees half of its
    neighbours on either side. `digest` covers keys that every site has just drawn, so nobody chooses the order alone;
    a server that may also pick the cohort can try many.
    """
    if neighbors is None or neighbors >= len(sites) - 1:
        return {site: tuple(sorted(set(sites) - {site})) for site in sites}
    ring = sorted(sites, key=lambda site: hashlib.sha256(digest + site.encode()).digest())
    reach = range(1, neighbors // 2 + 1)
    return {
        site: tuple(sorted(ring[(place + side * step) % len(ring)] for step in reach for side in (1, -1)))
        for place, site in enumerate(ring)
    }


def is_connected(sites: Iterable[str], neighbors: Mapping[str, Sequence[str]]) -> bool:
    """Whether the graph stays in one piece on these sites: otherwise each piece's sum could be opened apart."""
    remaining = set(sites)
    frontier = [remaining.pop()]
    while frontier:
        for other in neighbors[frontier.pop()]:
            if other in remaining:
                remaining.remove(other)
                frontier.append(other)
    return not remaining


def fit_graph(
    num_sites: int,
    *,
    max_corrupt: float,
    max_dropped: float,
    security_bits: int = 40,
    correctness_bits: int = 20,
) -> GraphSize:
    """The fewest neighbours that are safe and live enough (Bell et al. 2020, section 3.2, computed exactly).

    Three things must not happen. (1) Some honest site has so many corrupt neighbours that these alone can open its
    secrets. (2) The honest survivors fall into pieces: on a ring that takes two gaps of half a neighbourhood each.
    Both have probability below 2^-security_bits. (3) So many holders drop out that a secret is lost and the round
    with it: below 2^-correctness_bits.

    Args:
        num_sites: Sites of the cohort.
        max_corrupt: Fraction of the sites that may share what they see with the server.
        max_dropped: Fraction of the sites that may drop out.
        security_bits: See above.
        correctness_bits: See above.

    Raises:
        InputError: fractions out of range, or no number of neighbours will do: exchange masks with everybody.
    """
    check_count(num_sites, "num_sites", at_least=3)
    for name, fraction in (("max_corrupt", max_corrupt), ("max_dropped", max_dropped)):
        if not 0 <= fraction < 1:
            raise InputError(f"{name}: expected a fraction from 0 to 1, got {fraction!r}")
    corrupt, dropped = math.ceil(num_sites * max_corrupt), math.ceil(num_sites * max_dropped)
    for neighbors in range(2, num_sites - 1, 2):
        gaps = 2 * math.log2(num_sites) - 1 + neighbors * math.log2(max((corrupt + dropped) / num_sites, 1e-300))
        if gaps > -security_bits:
            continue
        # A site gives its own share away as well: one corrupt neighbour fewer is enough to open it.
        for needed in range(neighbors // 2 + 1, neighbors + 1):
            if _log2_tail(num_sites - 1, corrupt, neighbors, needed - 1) + math.log2(num_sites) > -security_bits:
                continue
            lost = _log2_tail(num_sites - 1, dropped, neighbors, neighbors - needed + 1) + math.log2(num_sites)
            if lost < -correctness_bits:
                return GraphSize(neighbors, needed)
            break
    raise InputError(
        f"no sparse graph of {num_sites} sites stands {max_corrupt:g} corrupt and {max_dropped:g} dropped",
        hint="leave out `neighbors`: every pair exchanges masks then",
    )


def _log2_tail(population: int, marked: int, draws: int, at_least: int) -> float:
    """log2 of the probability that `draws` without replacement hit `at_least` of the marked or more."""
    if at_least > min(marked, draws):
        return -math.inf
    ways = sum(
        math.comb(marked, hits) * math.comb(population - marked, draws - hits)
        for hits in range(max(at_least, 0), min(marked, draws) + 1)
    )
    total = math.comb(population, draws)
    return math.log2(ways) - math.log2(total) if ways else -math.inf
