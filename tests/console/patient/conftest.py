"""The patient's page on a real server, over a ward that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import smallhold
from smallhold.decide.text_task import LocalTextTask

from .world import MODELS, World, start_world


@pytest.fixture(scope="session")
def triage() -> LocalTextTask:
    bundle = smallhold.open(MODELS / "hospital", trusted_keys=MODELS / "trusted_keys")
    return bundle.task("triage")  # type: ignore[return-value]


@pytest.fixture(scope="session")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., World]]:
    """make_world(triage=..., model_folder=...) starts a ward and a server; they end with the session."""
    with ExitStack() as stack:

        def make(**options: Any) -> World:
            return stack.enter_context(start_world(tmp_path_factory.mktemp("patient"), **options))

        yield make


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World], triage: LocalTextTask) -> World:
    return make_world(triage=triage)
