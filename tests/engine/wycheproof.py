"""The engine's verdict over Project Wycheproof's signatures, whose file is not ours to carry.

python -m tests.engine.wycheproof ed25519_test.json     # testvectors_v1 of github.com/C2SP/wycheproof
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.engine.verifier import running


def main(path: Path) -> int:
    """Compare every verdict; exit code 1 where one differs."""
    groups = json.loads(path.read_bytes())["testGroups"]
    asked, wrong = 0, []
    with running("signatures") as verifier:
        for group in groups:
            for test in group["tests"]:
                parts = [bytes.fromhex(text) for text in (group["publicKey"]["pk"], test["msg"], test["sig"])]
                accepted = verifier.ask(*parts)[0] == "ok"
                asked += 1
                wrong += [test["tcId"]] if accepted != (test["result"] == "valid") else []
    print(f"{asked} vectors, {len(wrong)} with another verdict {wrong}")
    return int(bool(wrong) or not asked)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
