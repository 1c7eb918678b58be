"""What hiding an update costs: bytes and CPU time of secure sums and of encryption.

.venv/bin/python bench/privacy.py            one million parameters, fifty sites, ten ciphertexts (a minute)
.venv/bin/python bench/privacy.py --quick    a tenth of that
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.privacy.encrypt import EncryptedSum, EncryptionConfig, decrypt_sum, encrypt_levels, make_keys
from smallhold.privacy.fixed_point import FixedPoint
from smallhold.privacy.packing import packed_size
from smallhold.privacy.secure_sum import SecureSumConfig, SecureSumServer, SecureSumSite


class Clock:
    """CPU seconds of this process, by party."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, party: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call, and put the time down to a party."""
        start = time.process_time()
        result = call(*arguments)
        self.seconds[party] = self.seconds.get(party, 0.0) + time.process_time() - start
        return result


def measure_secure_sum(
    num_parameters: int, *, num_sites: int = 50, dropped: int = 15, bits: int = 20
) -> dict[str, float]:
    """Fifty sites; fifteen leave after the shares were exchanged; quantizing is counted, local training is not."""
    keys = {f"site-{place:02d}": Ed25519PrivateKey.generate() for place in range(num_sites)}
    server_key = Ed25519PrivateKey.generate()
    config = SecureSumConfig(
        session="bench",
        members={site: key.public_key().public_bytes_raw() for site, key in keys.items()},
        server_key=server_key.public_key().public_bytes_raw(),
        length=num_parameters,
        bits=bits,
        threshold=2 * num_sites // 3 + 1,
    )
    fixed = FixedPoint(bits=bits, value_range=1.0, num_sites=num_sites)
    clock, sent, received = Clock(), dict.fromkeys(keys, 0), dict.fromkeys(keys, 0)
    server = clock.run("server", lambda: SecureSumServer(config, key=server_key))
    sites = {site: clock.run(site, lambda s=site: SecureSumSite(config, site=s, key=keys[s])) for site in keys}

    def step(alive: list[str], answer: Callable[[str], bytes], close: Callable[[], Any]) -> Any:
        for site in alive:
            message = clock.run(site, answer, site)
            sent[site] += len(message)
            clock.run("server", server.receive, message)
        print(".", end="", file=sys.stderr, flush=True)
        return clock.run("server", close)

    everybody = sorted(keys)
    roster = step(everybody, lambda site: sites[site].advertise(), server.close_advertising)
    inboxes = step(everybody, lambda site: sites[site].share_keys(roster), server.close_sharing)
    alive = everybody[dropped:]
    random, expected = np.random.default_rng(0), np.zeros(num_parameters, dtype=np.int64)

    def send(site: str) -> bytes:
        return sites[site].mask(inboxes[site], fixed.to_field(fixed.quantize(updates[site])))

    updates: dict[str, Any] = {}
    for site in alive:  # one update in memory at a time
        updates = {site: random.uniform(-1, 1, num_parameters).astype(np.float32)}
        expected += fixed.quantize(updates[site])
        message = clock.run(site, send, site)
        sent[site] += len(message)
        clock.run("server", server.receive, message)
    survivors = clock.run("server", server.close_inputs)
    confirmations = step(alive, lambda site: sites[site].confirm(survivors), server.close_confirmations)
    total = step(alive, lambda site: sites[site].open_shares(confirmations), server.close)
    if not np.array_equal(fixed.from_field(total), expected):
        raise SystemExit("secure sum: not the sum of the updates")
    for site in alive:
        received[site] = len(roster) + len(inboxes[site]) + len(survivors) + len(confirmations)
    print(file=sys.stderr)
    packed = packed_size(num_parameters, bits)
    millions = num_parameters / 1e6
    return {
        "secagg_bytes": statistics.median(sent[site] for site in alive) / packed,
        "secagg_bytes_both_ways": statistics.median(sent[site] + received[site] for site in alive) / packed,
        "secagg_cpu_s_per_million": statistics.median(clock.seconds[site] for site in alive) / millions,
        "secagg_server_cpu_s_per_million": clock.seconds["server"] / num_sites / millions,
    }


def measure_encryption(num_parameters: int, *, num_sites: int = 10, bits: int = 14) -> dict[str, float]:
    """Ten sites under one key; bytes as a multiple of float32."""
    keys, config = make_keys(), EncryptionConfig(bits=bits, num_sites=num_sites)
    fixed = FixedPoint(bits=bits, value_range=1.0, num_sites=num_sites)
    random, expected = np.random.default_rng(0), np.zeros(num_parameters, dtype=np.int64)
    clock, size = Clock(), 0
    total = EncryptedSum(keys.public, config)
    for _ in range(num_sites):
        levels = fixed.quantize(random.uniform(-1, 1, num_parameters))
        expected += levels
        encrypted = clock.run("encrypt", encrypt_levels, levels, keys.public, config)
        size = len(encrypted)
        clock.run("add", total.add, encrypted)
        print(".", end="", file=sys.stderr, flush=True)
    opened, _ = clock.run("decrypt", decrypt_sum, total.to_bytes(), keys, config)
    if not np.array_equal(opened, expected):
        raise SystemExit("encryption: not the sum of the updates")
    print(file=sys.stderr)
    return {
        "he_bytes": size / (4 * num_parameters),
        "he_encrypt_cpu_s": clock.seconds["encrypt"] / num_sites,
        "he_add_cpu_s": clock.seconds["add"] / num_sites,
        "he_decrypt_cpu_s": clock.seconds["decrypt"],
        "he_levels": float(2 * fixed.max_level + 1),
    }


def main() -> None:
    """Print one JSON object of plain numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the parameters")
    num_parameters = 100_000 if parser.parse_args().quick else 1_000_000
    result = {**measure_secure_sum(num_parameters), **measure_encryption(num_parameters)}
    print(json.dumps({name: round(value, 4) for name, value in result.items()}, indent=2))


if __name__ == "__main__":
    main()
