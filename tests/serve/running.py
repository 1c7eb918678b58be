"""Real servers in processes of their own, and bundles for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree

import httpx
from openai import OpenAI

from smallhold.device.bundle_files import open_bundle_files
from smallhold.device.manifest import ENVELOPE_NAME, MANIFEST_NAME, FileEntry
from smallhold.device.trust import generate_private_key, save_public_key, sign_manifest, unsafe_read_manifest
from smallhold.records import sha256_hex

ROOT = Path(__file__).parents[2]
GOLDEN, GOLDEN_KEYS = ROOT / "conformance/v1/bundle", ROOT / "conformance/v1/trusted_keys"
HOSPITAL, HOSPITAL_KEYS = ROOT / "models/hospital", ROOT / "models/trusted_keys"
LONGEST_SECONDS = 120.0
#: About a thousand passes of the model: seconds, where a completion of few tokens takes milliseconds.
LONG = {"model": "hospital", "prompt": "The", "max_tokens": 1000, "logit_bias": {"2": -100}}


@dataclass
class RunningServer:
    """A `smallhold serve` process that has said where it listens."""

    process: subprocess.Popen[str]
    url: str
    api_key: str | None = None

    def client(self, **options: object) -> OpenAI:
        return OpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.api_key or "none",
            max_retries=0,
            timeout=LONGEST_SECONDS,
            **options,  # type: ignore[arg-type]
        )

    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=LONGEST_SECONDS, trust_env=False)

    def metric(self, name: str) -> float:
        with self.http() as http:
            lines = http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def wait_for_metric(self, name: str, least: float) -> None:
        deadline = time.monotonic() + LONGEST_SECONDS
        while self.metric(name) < least:
            assert time.monotonic() < deadline, f"{name} never reached {least}"
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code, and what it wrote after the first line."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=LONGEST_SECONDS)
        return self.process.returncode, out, err


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "smallhold.cli.main", "serve", *map(str, words)]


def start(
    bundle: Path, keys: Path, *words: object, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> RunningServer:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    process = subprocess.Popen(
        command(bundle, "--trusted-keys", keys, "--port", 0, "--json", *words),
        env=variables,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    alarm = threading.Timer(LONGEST_SECONDS, process.kill)  # a server that never speaks ends the wait for its line
    alarm.start()
    assert process.stdout is not None
    line = process.stdout.readline()
    alarm.cancel()
    assert line, process.communicate()[1]
    return RunningServer(process, json.loads(line)["url"], variables.get("SMALLHOLD_API_KEY"))


def bundle_with(source: Path, folder: Path, files: Mapping[str, bytes]) -> tuple[Path, Path]:
    """A copy of a bundle with files added or replaced, signed by a new key; the bundle and the folder of that key."""
    bundle, keys = folder / "bundle", folder / "keys"
    copytree(source, bundle)
    manifest = unsafe_read_manifest(open_bundle_files(bundle))
    entries = dict(manifest.files)
    for name, data in files.items():
        (bundle / name).write_bytes(data)
        entries[name] = FileEntry(sha256_hex(data), len(data), entries[name].role if name in entries else "tokenizer")
    key = generate_private_key()
    keys.mkdir()
    save_public_key(key.public_key(), keys / "publisher.pem")
    data = replace(manifest, files=entries).to_bytes()
    (bundle / MANIFEST_NAME).write_bytes(data)
    (bundle / ENVELOPE_NAME).write_bytes(sign_manifest(data, key))
    return bundle, keys
