"""A cohort in memory: sites that drop out at chosen steps, behind the real server."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.privacy.packing import word_type
from smallhold.privacy.secure_sum import SecureSumConfig, SecureSumServer, SecureSumSite


class Cohort:
    """`num_sites` sites with random vectors; `alive` are those that still answer."""

    def __init__(self, num_sites: int, *, length: int = 40, bits: int = 20, session: str = "job 1 round 1", **changes):
        names = [f"site-{place:03d}" for place in range(num_sites)]
        self.keys = {name: Ed25519PrivateKey.generate() for name in names}
        self.server_key = Ed25519PrivateKey.generate()
        self.settings = {
            "session": session,
            "members": {name: key.public_key().public_bytes_raw() for name, key in self.keys.items()},
            "server_key": self.server_key.public_key().public_bytes_raw(),
            "length": length,
            "bits": bits,
            "threshold": 2 * num_sites // 3 + 1,
            **changes,
        }
        self.begin()

    def begin(self):
        """A new session with the same parties."""
        self.config = SecureSumConfig(**self.settings)
        self.server = SecureSumServer(self.config, key=self.server_key)
        self.sites = {name: SecureSumSite(self.config, site=name, key=key) for name, key in self.keys.items()}
        self.alive = sorted(self.keys)
        random = np.random.default_rng(1)
        size = (len(self.keys), self.config.length)
        values = random.integers(0, 2**self.config.bits, size=size, dtype=np.uint64)
        self.vectors = dict(zip(self.alive, values.astype(word_type(self.config.bits)), strict=True))
        self.sent = dict.fromkeys(self.alive, 0)

    def drop(self, names: Collection[str] | int):
        """Sites that answer no more: by name, or the first so many."""
        gone = set(self.alive[:names] if isinstance(names, int) else names)
        self.alive = [name for name in self.alive if name not in gone]

    def deliver(self, name, message):
        self.sent[name] += len(message)
        self.server.receive(message)

    def advertise(self):
        for name in self.alive:
            self.deliver(name, self.sites[name].advertise())
        self.roster = self.server.close_advertising()
        return self.roster

    def share(self):
        for name in self.alive:
            self.deliver(name, self.sites[name].share_keys(self.roster))
        self.inboxes = self.server.close_sharing()
        return self.inboxes

    def send(self):
        for name in self.alive:
            self.deliver(name, self.sites[name].mask(self.inboxes[name], self.vectors[name]))
        self.survivors = self.server.close_inputs()
        return self.survivors

    def confirm(self):
        for name in self.alive:
            self.deliver(name, self.sites[name].confirm(self.survivors))
        self.confirmations = self.server.close_confirmations()
        return self.confirmations

    def open(self):
        for name in self.alive:
            self.deliver(name, self.sites[name].open_shares(self.confirmations))
        return self.server.close()

    def expected(self, names):
        """The sum by plain arithmetic of Python."""
        modulus = 2**self.config.bits
        return [sum(int(self.vectors[name][at]) for name in names) % modulus for at in range(self.config.length)]
