from __future__ import annotations

import random
from pathlib import Path

import pytest
from bench.fuzz_feeds import SOURCES, TARGETS, fuzz, mutate


@pytest.mark.parametrize("source", SOURCES)
def test_two_seconds_of_mutants_break_nothing(source: str, tmp_path: Path) -> None:
    report = fuzz(source, 2.0, 1, tmp_path)
    assert report.failure == ""
    assert report.inputs > 200
    assert len(report.classes) >= 8  # it reaches more than the first refusal
    assert any(outcome.startswith("taken") for outcome in report.classes)


def test_the_same_seed_gives_the_same_mutants() -> None:
    target = TARGETS["mqtt"]()
    first, second = random.Random(3), random.Random(3)
    assert [mutate(first, target.seeds) for _ in range(50)] == [mutate(second, target.seeds) for _ in range(50)]


def test_what_breaks_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smallhold.assist.sources.mqtt import MqttSource

    def broken(self: MqttSource, message: object) -> None:
        raise KeyError("broken on purpose")

    monkeypatch.setattr(MqttSource, "receive", broken)
    report = fuzz("mqtt", 2.0, 1, tmp_path)
    assert "KeyError" in report.failure
    assert [path.suffix for path in tmp_path.iterdir()] == [".bin"]
