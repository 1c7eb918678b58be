"""The words that a sector lends: what its parameters and scores are called in code systems that others know."""

from __future__ import annotations

from typing import Protocol

#: (URI of the code system, code, what the system calls it or empty). Plain, so that a sector needs no class of ours.
Coding = tuple[str, str, str]


class Terms(Protocol):
    """What a sector knows about codes that others read."""

    def parameter(self, code: str) -> tuple[Coding, ...]:
        """Codes of a parameter, the sector's own first; it must have at least one, also for an unknown parameter."""

    def title(self, code: str) -> str:
        """A parameter in words."""

    def category(self, code: str) -> str:
        """FHIR's observation category: `vital-signs`, `laboratory`, or empty where none is sure."""

    def score(self, name: str) -> tuple[Coding, ...]:
        """Codes of a score's total, the project's own first."""

    def part(self, name: str, part: str) -> tuple[Coding, ...]:
        """Codes of one part of a score, the project's own first."""

    def mdc(self, code: str) -> tuple[str, str] | None:
        """IEEE 11073-10101: code and reference identifier of a parameter, None where it has none."""

    def mdc_unit(self, unit: str) -> tuple[str, str] | None:
        """IEEE 11073-10101: code and reference identifier of a UCUM unit, None where it has none."""
