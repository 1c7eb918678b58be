"""Simulated rows for simulated sites: a linear rule with noise, from a seed. They say nothing about any patient.

Every site sees the same rule through features of its own mean, and has a number of rows of its own: sites are alike in
what is to be learnt and unlike in what they see.
"""

from __future__ import annotations

import numpy as np

from smallhold.federate.local_model import Rows
from smallhold.sectors.splits import Split

NAME = "simulated"
NUM_FEATURES = 32
_LEAST_ROWS, _MORE_ROWS = 8, 16  # as a device or a small practice may have


def site_names(count: int) -> tuple[str, ...]:
    """Names that say what they are."""
    return tuple(f"simulated-{place:06d}" for place in range(count))


def rows_of(site: str, seed: int, part: Split = Split.TRAIN, *, num_features: int = NUM_FEATURES) -> Rows:
    """Rows of one site, the same whenever they are asked for.

    Args:
        site: Its name.
        seed: Of the rule, and with the name of the rows.
        part: Of the split; parts share no row.
        num_features: I of `features` (N, I).
    """
    rule = np.random.default_rng([seed, 29]).normal(size=num_features) * 2 / np.sqrt(num_features)
    rng = np.random.default_rng([seed, 31, list(Split).index(part), *site.encode()])
    count = _LEAST_ROWS + int(rng.poisson(_MORE_ROWS))
    mean = 0.5 * np.random.default_rng([seed, 37, *site.encode()]).normal(size=num_features)
    features = rng.normal(size=(count, num_features)) + mean
    label = rng.random(count) < 1 / (1 + np.exp(-(features @ rule)))
    names = tuple(f"{site}-{part}-{row}" for row in range(count))
    return Rows({"features": features.astype(np.float32)}, label.astype(np.int64), names)


def held_out_rows(seed: int, *, num_sites: int = 200, num_features: int = NUM_FEATURES) -> Rows:
    """Rows of sites that take no part in any job."""
    sites = [f"held-out-{place:03d}" for place in range(num_sites)]
    return Rows.together([rows_of(site, seed, Split.TEST, num_features=num_features) for site in sites])
