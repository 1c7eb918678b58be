"""Which rows are for training, calibration, validation and test: one function for everything.

The contract is `docs/reference/split.md`. A group (patient, document, site) lies in exactly one part, on every
machine and for ever, because the part is a hash of its name and of nothing else.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum


class Split(StrEnum):
    """The four parts; `test` is read by `evaluate` alone."""

    TRAIN = "train"
    CALIBRATION = "calibration"
    VALIDATION = "validation"
    TEST = "test"


# Tenths: 0-6 train, 7 calibration, 8 validation, 9 test. Changing a digit invalidates every published figure.
_PART_OF_TENTH = (*([Split.TRAIN] * 7), Split.CALIBRATION, Split.VALIDATION, Split.TEST)


def split_of(data_set: str, group: str) -> Split:
    """Say to which part a group belongs.

    Args:
        data_set: Name of the data set, for example `physionet2012_icu`.
        group: What must not straddle two parts: a patient, document or site identifier.

    Returns:
        70 % train, 10 % calibration, 10 % validation, 10 % test, each in expectation.

    >>> split_of("simulated_ward", "sim-0-00002")
    <Split.CALIBRATION: 'calibration'>
    """
    digest = hashlib.sha256(f"{data_set}|{group}".encode()).digest()
    return _PART_OF_TENTH[int.from_bytes(digest[:8], "big") % 10]
