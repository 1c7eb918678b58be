"""A knowledge pack: counts that several sites contributed, noisy and signed, for a device to look up and to cite.

One file: a DSSE envelope around canonical JSON. It is verified like a bundle, in an order that believes nothing before
it is proven: the envelope, a trusted signature over exactly these bytes, the form, the lifetime.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.device.envelope import check_signatures, open_envelope, sign_payload
from smallhold.device.manifest import parse_time
from smallhold.errors import ExpiredError, InputError, IntegrityError, SignatureError
from smallhold.records import canonical_json, sha256_hex

PAYLOAD_TYPE = "application/vnd.smallhold.knowledge+json"
_SCHEMA = "smallhold.knowledge/1"
MAX_CELLS = 2**20
_MAX_BYTES = 64 * 2**20
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TWO_SIDED_95 = 1.96  # standard deviations; the discrete Gaussian's tails are those of the Gaussian


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One question that a table of counts asks of everybody.

    Attributes:
        name: Lower-case letters, digits, `-`, `_` and `.`.
        categories: Its answers, written likewise; at least one, each once.
    """

    name: str
    categories: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse names that could not be typed, and answers that could be mistaken."""
        for word in (self.name, *self.categories):
            if not isinstance(word, str) or not _NAME.fullmatch(word):
                raise InputError(
                    f"dimension {self.name}: expected lower-case letters, digits, -, _ and ., got {word!r}"
                )
        if not self.categories or len(set(self.categories)) != len(self.categories):
            raise InputError(f"dimension {self.name}: expected categories, each once, got {list(self.categories)}")


def check_dimensions(dimensions: Sequence[Dimension]) -> int:
    """How many cells a table has.

    Raises:
        InputError: no dimension, one is named twice, or there are more than 2^20 cells.
    """
    names = [dimension.name for dimension in dimensions]
    if not names or len(set(names)) != len(names):
        raise InputError(f"dimensions: expected at least one, each once, got {names}")
    count = math.prod(len(dimension.categories) for dimension in dimensions)
    if count > MAX_CELLS:
        raise InputError(f"dimensions: expected at most {MAX_CELLS} cells together, got {count}")
    return count


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a finding.

    Attributes:
        where: Dimension -> category, of every dimension.
        count: Noisy number of persons; None where it was below the minimum cohort.
    """

    where: Mapping[str, str]
    count: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgePack:
    """Noisy counts of persons, and what stands behind them.

    Attributes:
        name: Of the job.
        data: Data set that the sites counted in, and its part.
        created: UTC, ISO 8601 with seconds and a trailing Z.
        valid_until: The same form; from this moment on the pack is refused.
        dimensions: Of the table; the last one varies fastest.
        counts: One a cell; None where the noisy count is below `min_cohort`.
        stddev: Standard deviation of the noise in every cell.
        min_cohort: Smallest noisy count that is shown.
        max_cells: In how many cells one person was counted at most.
        sites: How many sites are in the sum.
        noise: Who added it: `server` or `sites`.
        epsilon: What the counts say about one person at one site, all cells together.
        delta: Of epsilon.
        job: Digest of the job.
        receipt: SHA-256 of the receipt that the job's server signed.
    """

    name: str
    data: str
    created: str
    valid_until: str
    dimensions: tuple[Dimension, ...]
    counts: tuple[int | None, ...]
    stddev: float
    min_cohort: int
    max_cells: int
    sites: int
    noise: str
    epsilon: float
    delta: float
    job: str
    receipt: str

    def __post_init__(self) -> None:
        """Refuse what no job could have made.

        Raises:
            InputError: a member has an impossible value; the message names it.
        """
        for name in ("name", "data"):
            if not isinstance(getattr(self, name), str) or not 1 <= len(getattr(self, name)) <= 200:
                raise InputError(f"{name}: expected 1 to 200 characters, got {getattr(self, name)!r}")
        if parse_time(self.valid_until, member="valid_until") <= parse_time(self.created, member="created"):
            raise InputError(f"valid_until: expected a time after {self.created}, got {self.valid_until}")
        for name in ("min_cohort", "max_cells", "sites"):
            if not _is_whole(getattr(self, name), least=1):
                raise InputError(f"{name}: expected 1 or more, got {getattr(self, name)!r}")
        for name in ("stddev", "epsilon", "delta"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < math.inf:
                raise InputError(f"{name}: expected a number above 0, got {value!r}")
        if self.noise not in ("server", "sites"):
            raise InputError(f"noise: expected server or sites, got {self.noise!r}")
        for name in ("job", "receipt"):
            if not isinstance(getattr(self, name), str) or not _DIGEST.fullmatch(getattr(self, name)):
                raise InputError(f"{name}: expected a SHA-256 in hexadecimal, got {getattr(self, name)!r}")
        if len(self.counts) != check_dimensions(self.dimensions):
            raise InputError(f"counts: expected {check_dimensions(self.dimensions)}, got {len(self.counts)}")
        if not all(count is None or _is_whole(count, least=self.min_cohort) for count in self.counts):
            raise InputError(f"counts: expected whole numbers, none below the minimum cohort of {self.min_cohort}")

    @classmethod
    def open(cls, path: Path, trusted_keys: Mapping[str, Ed25519PublicKey], *, now: datetime) -> Self:
        """Verify a pack and read it.

        Args:
            path: Of the file.
            trusted_keys: Key id to key, as `load_trusted_keys` gives them.
            now: The present moment, with its time zone.

        Raises:
            SignatureError: unsigned, altered, or not signed by a trusted key.
            IntegrityError: signed, but no pack of this version.
            ExpiredError: `now` is at or after `valid_until`.
            InputError: the file cannot be read, or `now` has no time zone.
        """
        if now.tzinfo is None:
            raise InputError(f"now: expected a time with its zone, got {now.isoformat()}")
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        if len(data) > _MAX_BYTES:
            raise SignatureError(f"{path}: expected at most {_MAX_BYTES} bytes")
        payload, signatures = open_envelope(data, PAYLOAD_TYPE, name=str(path))
        check_signatures(
            payload,
            PAYLOAD_TYPE,
            signatures,
            trusted_keys,
            what="knowledge pack",
            trusted_by="this device",
            hint="if you trust the signer, put its public key (*.pem) into the home's trust/ folder",
        )
        pack = cls.from_bytes(payload, name=str(path))
        if now >= parse_time(pack.valid_until):
            raise ExpiredError(
                f"{path}: valid until {pack.valid_until}, now is {now.isoformat()}",
                hint="get a newer pack, and check this machine's clock",
            )
        return pack

    @classmethod
    def from_bytes(cls, payload: bytes, *, name: str) -> Self:
        """Read a payload whose signature holds.

        Raises:
            IntegrityError: no pack of this version; the message names the member.
        """
        try:
            members = json.loads(payload)
            if not isinstance(members, dict) or members.pop("schema", None) != _SCHEMA:
                raise ValueError(f"expected the schema {_SCHEMA}")
            if members.keys() != (expected := {item.name for item in fields(cls)}):
                raise ValueError(f"expected the members {', '.join(sorted(expected))}")
            dimensions = tuple(
                Dimension(name=item["name"], categories=tuple(item["categories"])) for item in members["dimensions"]
            )
            pack = cls(**members | {"dimensions": dimensions, "counts": tuple(members["counts"])})
            if pack.to_bytes() != payload:
                raise ValueError("not in canonical form")
        except (ValueError, KeyError, TypeError, RecursionError, InputError, IntegrityError) as error:
            raise IntegrityError(f"{name}: not a knowledge pack of this version: {error}") from error
        return pack

    def to_bytes(self) -> bytes:
        """The one canonical form, which is signed."""
        return canonical_json({"schema": _SCHEMA, **asdict(self)})

    @property
    def digest(self) -> str:
        """SHA-256 of `to_bytes()`: what a decision cites."""
        return sha256_hex(self.to_bytes())

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """The file."""
        return sign_payload(self.to_bytes(), PAYLOAD_TYPE, key)

    def look_up(self, where: Mapping[str, str]) -> Finding:
        """Cells by dimension and category; all of a dimension that is not named.

        Raises:
            InputError: an unknown dimension or category; the message lists those that there are.
        """
        known = {dimension.name: dimension.categories for dimension in self.dimensions}
        for name, category in where.items():
            if name not in known:
                raise InputError(f"{self.name}: no dimension {name!r}; expected one of {', '.join(known)}")
            if category not in known[name]:
                raise InputError(f"{self.name}: no {name} {category!r}; expected one of {', '.join(known[name])}")
        answers = itertools.product(*known.values())
        found = (
            Cell(dict(zip(known, answer, strict=True)), count)
            for answer, count in zip(answers, self.counts, strict=True)
        )
        named = {name: where[name] for name in known if name in where}
        return Finding(self, named, tuple(cell for cell in found if named.items() <= cell.where.items()))


@dataclass(frozen=True, slots=True)
class Finding:
    """What a pack says to one question.

    Attributes:
        pack: Where it stands.
        where: What was asked.
        cells: All that match, in the order of the table; at least one.
    """

    pack: KnowledgePack
    where: Mapping[str, str]
    cells: tuple[Cell, ...]

    @property
    def total(self) -> int | None:
        """All cells together; None where one is withheld. A person may be in several of them."""
        counts = [cell.count for cell in self.cells if cell.count is not None]
        return sum(counts) if len(counts) == len(self.cells) else None

    @property
    def stddev(self) -> float:
        """Standard deviation of the noise in the total; each cell's noise is its own."""
        return self.pack.stddev * math.sqrt(len(self.cells))

    def interval(self, count: int) -> tuple[int, int]:
        """What one cell's count was before the noise, with 95 % confidence. It says nothing about other patients."""
        margin = math.ceil(_TWO_SIDED_95 * self.pack.stddev)
        return max(0, count - margin), count + margin

    def citation(self) -> str:
        """The finding and where it stands, in one line."""
        named = ", ".join(f"{name} {category}" for name, category in self.where.items()) or "everybody counted"
        shown = [f"{self._rest(cell)}{_noisy(cell.count, self.pack.stddev)}" for cell in self.cells if cell.count]
        hidden = len(self.cells) - len(shown)
        listed = ", ".join([*shown, *([f"{hidden} withheld"] if hidden else [])])
        if self.total is not None:
            summed = f", summed {_noisy(self.total, self.stddev)}" if len(self.cells) > 1 else ""
            listed += f" persons{summed}"
        return f"{named}, at {self.pack.sites} sites: {listed}; {self.source()}"

    def source(self) -> str:
        """The pack, as a decision names it."""
        pack = self.pack
        return (
            f"knowledge pack {pack.name}, sha256 {pack.digest}, epsilon {pack.epsilon:.3g} at delta {pack.delta:g}, "
            f"± is the noise's standard deviation, cells a person: {pack.max_cells} at most, counts below "
            f"{pack.min_cohort} are withheld"
        )

    def _rest(self, cell: Cell) -> str:
        return "".join(f"{category} " for name, category in cell.where.items() if name not in self.where)


def _noisy(count: int, stddev: float) -> str:
    return f"{count} ± {stddev:.1f}"


def _is_whole(value: object, *, least: int) -> bool:
    return type(value) is int and value >= least
