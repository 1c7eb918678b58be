"""A round whose updates the server adds without being able to read them: three turns of request and answer.

::

    key     the key holder's public key, in its name and under its signature
    input   every site's update, encrypted for the key holder
    open    the encrypted sum, decrypted by the key holder

The cipher is that of `privacy.encrypt`. The key holder, one of the sites, makes the pair for the job and keeps the
secret half in its folder. It sees sums, the server ciphertexts and the sum; both together see every update, and so
does a server that hands the key holder one ciphertext for a sum, once a round. Secure sums trust nobody that far, in
five turns: this is for sites that cannot be asked so often. The server's side resumes as in `secure_rounds`; a site
that was restarted answers as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from smallhold.device.durable_file import write_durably
from smallhold.errors import EncryptionError, SecureSumError, UpdateRefused
from smallhold.federate.job import FederatedJob
from smallhold.federate.layout import Layout
from smallhold.federate.members import Members
from smallhold.federate.messages import SecureRequest
from smallhold.federate.secure_rounds import ENCRYPTED_TURNS, encode_input, fixed_point_of, sum_config
from smallhold.federate.secure_site import SecureSite, Train
from smallhold.privacy.encrypt import (
    EncryptedSum,
    EncryptionConfig,
    EncryptionKeys,
    check_available,
    decrypt_sum,
    encrypt_levels,
    make_keys,
)
from smallhold.privacy.fixed_point import FixedPoint
from smallhold.privacy.randomness import Int64
from smallhold.privacy.secure_sum import SecureSumConfig
from smallhold.privacy.secure_sum.envelope import (
    SERVER,
    Kind,
    join_parts,
    join_set,
    seal,
    split_parts,
    split_set,
    unseal,
)

SECRET_KEY, PUBLIC_KEY = "encryption.key", "encryption.pub"
_INPUT = "encrypted-input.safetensors"
_KINDS = dict(zip(ENCRYPTED_TURNS, (Kind.ADVERTISE, Kind.INPUT, Kind.OPENED), strict=True))
_LEVEL = np.dtype("<i8")


def encryption_of(fixed: FixedPoint) -> EncryptionConfig:
    """How levels ride in ciphertexts."""
    return EncryptionConfig(bits=fixed.bits, num_sites=fixed.num_sites)


class EncryptedSumServer:
    """The server's side of one round; see `secure_rounds.HiddenSum`.

    Args:
        config: Equal to everybody else's.
        members: Keys.
        holder: The site that decrypts.
        fixed: How numbers are whole.
    """

    is_opened_by_one: ClassVar[bool] = True

    def __init__(self, config: SecureSumConfig, members: Members, holder: str, fixed: FixedPoint) -> None:
        self._config, self._context, self._key = config, config.context(), members.key
        self._holder, self._encryption, self._half = holder, encryption_of(fixed), 2 ** (fixed.bits - 1)
        self._turn = ENCRYPTED_TURNS[0]
        self._received: dict[str, bytes] = {}
        self._survivors: frozenset[str] = frozenset()
        self._total: Int64

    @property
    def waiting_for(self) -> frozenset[str]:
        """Sites that may still answer in this turn."""
        asked = frozenset(self._config.members if self._turn == "input" else (self._holder,))
        return asked - self._received.keys()

    @property
    def survivors(self) -> frozenset[str]:
        """Sites whose updates are in the sum; empty before the turn `input` is closed."""
        return self._survivors

    def receive(self, message: bytes) -> str:
        """Take one message of this turn; gives its sender.

        Raises:
            SecureSumError: forged, replayed, malformed, or of nobody who is asked.
        """
        sender, body = unseal(message, kind=_KINDS[self._turn], context=self._context, keys=self._config.members)
        if sender in self._received:
            raise SecureSumError(f"{sender!r} has answered in the turn {self._turn} already: replayed")
        if sender not in self.waiting_for:
            raise SecureSumError(f"{sender!r} is not asked in the turn {self._turn}")
        try:
            match self._turn:
                case "key":
                    self._sum = EncryptedSum(body, self._encryption)
                    self._received[sender] = message
                case "input":
                    self._sum.add(body, expected_length=self._config.length)
                    self._received[sender] = b""
                case _:
                    self._total = self._levels(body)
                    self._received[sender] = b""
        except EncryptionError as error:
            raise SecureSumError(f"{sender!r}: {error}") from error
        return sender

    def close_turn(self) -> bytes | Int64:
        """End the turn: what the next one says to all, or the sum.

        Raises:
            SecureSumError: too few sites.
        """
        least = self._config.threshold if self._turn == "input" else 1
        if len(self._received) < least:
            raise SecureSumError(
                f"too few answers in the turn {self._turn}: expected {least}, got {len(self._received)}"
            )
        if self._turn == "open":
            return self._total
        if self._turn == "key":
            said = self._received[self._holder]
        else:
            self._survivors = frozenset(self._received)
            body = join_parts([join_set(self._survivors, sorted(self._config.members)), self._sum.to_bytes()])
            said = seal(Kind.SURVIVORS, body, context=self._context, sender=SERVER, key=self._key)
        self._turn = ENCRYPTED_TURNS[ENCRYPTED_TURNS.index(self._turn) + 1]
        self._received = {}
        return said

    def _levels(self, body: bytes) -> Int64:
        if len(body) != self._config.length * _LEVEL.itemsize:
            raise SecureSumError(f"a sum of {len(body)} bytes, expected {self._config.length} whole numbers")
        levels = np.frombuffer(body, _LEVEL).astype(np.int64)
        if levels.min() < -self._half or levels.max() >= self._half:
            raise SecureSumError("a sum that no updates within their bound add up to")
        return levels


class EncryptedSite(SecureSite):
    """One site in the encrypted sums of a job. What it said is on its disk: a restart changes nothing.

    Args:
        name: Of the site.
        job: What is carried out.
        layout: Of the model.
        members: Keys.
        folder: Of the site's state; the key holder's secret key lies in it.
        train: See `secure_site.Train`.

    Raises:
        MissingExtraError: TenSEAL is absent.
    """

    lasting: ClassVar[Mapping[str, str]] = {"input": _INPUT, **SecureSite.lasting}

    def __init__(
        self, name: str, job: FederatedJob, layout: Layout, members: Members, folder: Path, train: Train
    ) -> None:
        super().__init__(name, job, layout, members, folder, train)
        check_available()
        self._holder = job.upload.key_holder

    def _attend(self, asked: SecureRequest) -> None:
        """Join an attempt in whichever turn: nothing of it lives in this process alone."""
        if self._session != (asked.round, asked.attempt, asked.base):
            self._join(asked)

    def _answer(self, asked: SecureRequest) -> bytes:
        if asked.turn not in _KINDS or (asked.turn != "input" and self._name != self._holder):
            raise UpdateRefused("malformed", f"turn {asked.turn!r} asks nothing of {self._name}")
        job, size = self._job, self._layout.size
        config = sum_config(job, size, self._members, asked.round, asked.base, asked.attempt)
        context = config.context()
        match asked.turn:
            case "key":
                body = self._keys().public
            case "input":
                holder = {self._holder: self._members.sites[self._holder]}
                _, public = unseal(asked.said(), kind=Kind.ADVERTISE, context=context, keys=holder)
                levels = encode_input(job, *self._delta(asked))
                body = encrypt_levels(levels, public, encryption_of(fixed_point_of(job)))
            case _:
                body = self._open(asked.said(), config, context)
        return seal(_KINDS[asked.turn], body, context=context, sender=self._name, key=self._members.key)

    def _open(self, said: bytes, config: SecureSumConfig, context: bytes) -> bytes:
        """The sum in the clear, of as many sites as a round needs."""
        _, body = unseal(said, kind=Kind.SURVIVORS, context=context, keys={SERVER: self._members.server})
        parts = split_parts(body)
        if len(parts) != 2:
            raise SecureSumError(f"malformed message: expected survivors and their sum, got {len(parts)} parts")
        survivors = split_set(parts[0], sorted(config.members))
        levels, summands = decrypt_sum(parts[1], self._keys(), encryption_of(fixed_point_of(self._job)))
        if summands != len(survivors) or summands < config.threshold or len(levels) != config.length:
            raise SecureSumError(
                f"the server asks to open a sum of {summands} sites, {len(survivors)} named, {len(levels)} numbers; "
                f"expected at least {config.threshold} sites and {config.length} numbers"
            )
        return levels.astype(_LEVEL).tobytes()

    def _keys(self) -> EncryptionKeys:
        """The job's pair, made when first asked for."""
        secret, public = self._folder / SECRET_KEY, self._folder / PUBLIC_KEY
        if not secret.exists():
            keys = make_keys()
            write_durably(public, [keys.public])
            write_durably(secret, [keys.secret])
        return EncryptionKeys(public.read_bytes(), secret.read_bytes())
