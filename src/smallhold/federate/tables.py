"""Rows of a table as features: fixed scales, so that no site has to show its means, and a flag for what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from smallhold.errors import DataError
from smallhold.federate.local_model import Rows
from smallhold.sectors.data_sets import find_data_set, jsonl_files, read_jsonl

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """How the members of a row become numbers of about unit size.

    Attributes:
        numbers: Member -> (centre, scale), round numbers from the field, never from the data.
        codes: Member -> the values it may have; the first is the reference.
        unknown: Member -> a number that stands for unknown.
        has_deviations: Also say how far a number lies from its centre, whatever the side: both are worse than neither.
    """

    numbers: Mapping[str, tuple[float, float]]
    codes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    unknown: Mapping[str, float] = field(default_factory=dict)
    has_deviations: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features, in order."""
        parts = ("", " off centre", " measured") if self.has_deviations else ("", " measured")
        return (
            *(f"{name}{part}" for name in self.numbers for part in parts),
            *(f"{name} = {code}" for name, codes in self.codes.items() for code in codes[1:]),
            *(f"{name} measured" for name in self.codes),
        )

    def features(self, row: Mapping[str, Any]) -> list[float]:
        """Numbers of one row, in the order of `names`; a member that is absent or null is not measured.

        Raises:
            TypeError: a number is none.
        """
        found: list[float] = []
        for name, (centre, scale) in self.numbers.items():
            value = row.get(name)
            is_measured = value is not None and value != self.unknown.get(name)
            size = (float(value) - centre) / scale if is_measured and value is not None else 0.0
            size = max(-5.0, min(5.0, size))  # a typing error must not outweigh everything else
            found += [size, abs(size), float(is_measured)] if self.has_deviations else [size, float(is_measured)]
        found += [float(row.get(name) == code) for name, codes in self.codes.items() for code in codes[1:]]
        return found + [float(row.get(name) is not None) for name in self.codes]


def read_sites(
    name: str, data_dir: Path | None, read: Callable[[dict[str, Any]], tuple[str, Iterable[T]] | None]
) -> dict[str, list[T]]:
    """What a data set's rows come to, by site, in the order of their names.

    Args:
        name: Of the data set.
        data_dir: What the user gave as `--data`, or None.
        read: Site of a row and what the row is there; None leaves it out.

    Raises:
        DataError: the data set is missing, or `read` finds that a row is not laid out as documented.
    """
    found: dict[str, list[T]] = {}
    for path in jsonl_files(find_data_set(name, data_dir)):
        for number, row in enumerate(read_jsonl(path), start=1):
            try:
                if (known := read(row)) is not None:
                    found.setdefault(known[0], []).extend(known[1])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise DataError(f"{path}, line {number}: not a row of {name}: {error!r}") from error
    return dict(sorted(found.items()))


def rows_of(found: Iterable[tuple[list[float], int, str]]) -> Rows:
    """Rows of (features, label, group)."""
    listed = list(found)
    return Rows(
        {"features": np.array([features for features, _, _ in listed], np.float32)},
        np.array([label for _, label, _ in listed], np.int64),
        tuple(group for _, _, group in listed),
    )
