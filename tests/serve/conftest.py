from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("llguidance", reason="the server needs the extra 'serve'")
pytest.importorskip("openai", reason="the official client is in the extra 'test'")

from smallhold.decide.local import LocalBundle, open_bundle
from smallhold.serve.service import Service

from .running import GOLDEN, GOLDEN_KEYS, HOSPITAL, HOSPITAL_KEYS, RunningServer, start


@pytest.fixture(scope="session")
def hospital() -> LocalBundle:
    """A trained base with four tasks: 8 bits, 8,264 tokens, context 1,024."""
    return open_bundle(HOSPITAL, trusted_keys=HOSPITAL_KEYS)


@pytest.fixture(scope="session")
def golden() -> LocalBundle:
    """Random weights: float32, one token a byte, context 64."""
    return open_bundle(GOLDEN, trusted_keys=GOLDEN_KEYS)


@pytest.fixture
def service(hospital: LocalBundle) -> Service:
    return Service(hospital, cached_prompts=4)


@pytest.fixture
def golden_service(golden: LocalBundle) -> Service:
    return Service(golden, cached_prompts=4)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server of the hospital's bundle for all tests that leave it as it was."""
    home: Path = tmp_path_factory.mktemp("home")
    running = start(HOSPITAL, HOSPITAL_KEYS, environment={"SMALLHOLD_HOME": str(home)})
    yield running
    code, out, err = running.stop()
    assert (code, out) == (0, "")
    assert "Traceback" not in err
