"""The engine as WebAssembly in Node."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from conformance.models import Model
from conformance.target import DRIVERS, WRAPPER, Request, Target, build_engine, find, of_driver, of_program, run
from conformance.targets.one_file import one_file

TRIPLE = "wasm32-unknown-unknown"
POSITIONS = {"scalar": 500}


def targets() -> list[Target]:
    """One target a family of the module."""
    node = find("node", "nodejs")
    module = build_engine(TRIPLE) / "smallhold_engine.wasm"
    driver = (node, DRIVERS / "node.mjs", WRAPPER.as_uri(), module)

    def logits_words(family: str, model: Model) -> Sequence[str | Path]:
        return *driver, "logits", family, model.gguf

    def decide(family: str, bundle: Path, keys: Path, requests: Sequence[Request]) -> list[Request]:
        with one_file(bundle, keys) as (packed, pem):
            return of_program(lambda *_: (*driver, "decide", family, packed, pem), deadline_seconds=300)(
                bundle, keys, requests
            )

    return [
        Target(
            name=f"engine, wasm in Node, {family}",
            logits=of_driver(partial(logits_words, family), deadline_seconds=600),
            decide=partial(decide, family),
            positions=POSITIONS.get(family, 10_000),
            is_exact_in_pieces=True,
        )
        for family in run(driver, deadline_seconds=60).split()
    ]
