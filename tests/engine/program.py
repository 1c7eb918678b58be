"""The engine's program as a running process."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.engine_library import PROGRAM

from smallhold.records import canonical_json

MODELS = Path(__file__).resolve().parents[2] / "models"
LONGEST_SECONDS = 60


def replace_file(bundle: Path, name: str, data: bytes) -> None:
    """Change a file and what the manifest says of it: who signs nonsense, or a host that has verified nothing."""
    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (bundle / "manifest.json").write_bytes(canonical_json(manifest))


class Lines:
    """A program that answers JSON lines until it is left."""

    def __init__(self, bundle: Path, *words: str) -> None:
        command = [str(PROGRAM), str(bundle), "--host-has-verified", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate(timeout=LONGEST_SECONDS)

    def ask(self, **request: Any) -> dict[str, Any]:
        return self.ask_line(json.dumps(request).encode())

    def ask_line(self, line: bytes) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer.endswith(b"\n"), f"the program ended: {self.process.wait(timeout=LONGEST_SECONDS)}"
        found = json.loads(answer)
        assert isinstance(found, dict)
        return found

    def finish(self) -> int:
        """End of the input: the exit code."""
        self.process.communicate(timeout=LONGEST_SECONDS)
        return self.process.returncode
