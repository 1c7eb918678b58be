"""How much of its own model a site takes beside the common one, chosen on rows that neither was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smallhold.federate.local_model import odds_of_label

#: Shares of the local model that are tried; few, because a site has few rows to choose on.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def choose_share(
    federated: NDArray[np.float64],
    local: NDArray[np.float64],
    label: NDArray[np.int64],
    *,
    shares: Sequence[float] = SHARES,
) -> float:
    """The share of the local model with the least log loss.

    Source: Mansour et al. 2020, arXiv:2002.10619, model interpolation. Logits are mixed, not parameters: that is the
    same for a linear model, and means something for every other.

    Args:
        federated: (N,) or (N, K) predictions of the common model on the site's choosing rows.
        local: The same of the site's own.
        label: (N,).
        shares: In ascending order.

    Returns:
        One of `shares`; of equal ones, and without rows, the first: the common model.
    """
    if not len(label):
        return shares[0]
    losses = [np.logaddexp(0, -odds_of_label(mix(federated, local, share), label)).mean() for share in shares]
    return shares[int(np.argmin(losses))]


def mix(federated: NDArray[np.float64], local: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Predictions with a share of the local model's."""
    return (1 - share) * federated + share * local
