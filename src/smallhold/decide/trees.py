"""Gradient-boosted trees as plain arrays: the simple baseline, evaluated with numpy alone.

The arrays are written by `teach/trees.py` and shipped in a bundle under `baseline/`. There is one ensemble for each
of several hours; a prediction uses the ensemble of its hour.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import DataError, ShapeError

_MEMBERS = ("hours", "base", "root", "tree_hour", "feature", "threshold", "left", "right", "value", "num_features")


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Several ensembles in one table of nodes.

    Attributes:
        hours: (E,) hours with an ensemble, ascending.
        base: (E,) log-odds that each ensemble starts from.
        root: (K,) index of each tree's first node.
        tree_hour: (K,) position in `hours` that each tree belongs to.
        feature: (N,) feature tested, -1 at a leaf.
        threshold: (N,) go left when x <= threshold.
        left: (N,) index of the left child.
        right: (N,) index of the right child.
        value: (N,) log-odds added at a leaf.
        num_features: (1,) length of a feature vector.
    """

    hours: NDArray[np.int32]
    base: NDArray[np.float64]
    root: NDArray[np.int32]
    tree_hour: NDArray[np.int32]
    feature: NDArray[np.int16]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]
    num_features: NDArray[np.int32]

    def logit(self, features: NDArray[np.float32], hour: int) -> NDArray[np.float64]:
        """Log-odds of the positive choice.

        Args:
            features: (B, F): the channels of the bin that ends at `hour`, then the static features.
            hour: One of `hours`.

        Returns:
            (B,) float64.

        Raises:
            ShapeError: features are not (B, F), or there is no ensemble for that hour.
        """
        if features.ndim != 2 or features.shape[1] != int(self.num_features[0]):
            raise ShapeError(f"features: expected (B, {int(self.num_features[0])}), got {features.shape}")
        if hour not in self.hours:
            raise ShapeError(f"hour: expected one of {self.hours.tolist()}, got {hour}")
        which = int(np.flatnonzero(self.hours == hour)[0])
        roots = self.root[self.tree_hour == which]
        node = np.broadcast_to(roots, (len(features), len(roots)))
        rows = np.arange(len(features))[:, None]
        while True:
            tested = self.feature[node]
            inner = tested >= 0
            if not inner.any():
                logit: NDArray[np.float64] = self.base[which] + self.value[node].sum(axis=1, dtype=np.float64)
                return logit
            goes_left = features[rows, np.maximum(tested, 0)] <= self.threshold[node]
            node = np.where(inner, np.where(goes_left, self.left[node], self.right[node]), node)

    def to_bytes(self) -> bytes:
        """Uncompressed `.npz`; equal trees give equal bytes."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name in _MEMBERS:
                data = io.BytesIO()
                np.save(data, getattr(self, name), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue())  # ZipInfo's date is constant
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Trees:
        """Read what `to_bytes` wrote; nothing is unpickled.

        Raises:
            DataError: malformed, or a member is missing.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                trees = cls(**{name: stored[name] for name in _MEMBERS})
            # Children stand behind their parent: every walk ends.
            inner = np.flatnonzero(trees.feature >= 0)
            children = np.stack([trees.left[inner], trees.right[inner]])
            if (children <= inner).any() or (children >= len(trees.feature)).any():
                raise DataError("baseline trees: malformed file: a node's child does not stand behind it")
            return trees
        except (KeyError, ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"baseline trees: malformed file: {error}") from error
