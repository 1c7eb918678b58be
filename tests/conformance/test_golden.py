"""Every runtime reproduces every golden bundle of `conformance/`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine_library import build_engine

from smallhold.decide import LocalTask, check_bundle, open_bundle
from smallhold.decide.local import TRUNK_FILES
from smallhold.decide.signal import encode_stays
from smallhold.device.bundle_files import open_bundle_files, write_bundle_zip
from smallhold.device.trust import load_trusted_keys, verify_bundle
from smallhold.errors import IntegrityError, SignatureError

ROOT = Path(__file__).parents[2] / "conformance"
VERSIONS = sorted(path.name for path in ROOT.glob("v*"))
FAR_FUTURE = datetime(2100, 1, 1, tzinfo=UTC)


def read_cases(version: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / version / "cases.jsonl").read_text().splitlines()]


def tolerance_of(version: str) -> dict[str, float]:
    return json.loads((ROOT / version / "tolerance.json").read_text())


def open_task(version: str, runtime: str, path: Path | None = None) -> LocalTask:
    if runtime == "engine":
        build_engine()
    bundle = open_bundle(
        path or ROOT / version / "bundle",
        backend=runtime,  # type: ignore[arg-type]
        trusted_keys=ROOT / version / "trusted_keys",
        now=FAR_FUTURE,
    )
    return bundle.task("icu-risk")


def arrays(case: dict[str, Any], task: LocalTask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    index = {name: i for i, name in enumerate(task.task.signal.parameters)}
    minute, code, value = zip(*case["events"], strict=True)
    return np.array(minute, np.int32), np.array([index[c] for c in code], np.int16), np.array(value, np.float32)


def test_there_is_a_golden_bundle_of_this_format() -> None:
    assert "v1" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_the_signature_verifies_for_ever_and_the_bundle_says_simulated(version: str) -> None:
    files = open_bundle_files(ROOT / version / "bundle")
    keys = load_trusted_keys(ROOT / version / "trusted_keys")
    manifest = verify_bundle(files, keys, now=FAR_FUTURE, runtime_version="0.1.0")
    assert json.loads(files.read("manifest.json"))["format_version"] == int(version[1:])
    assert manifest.expires is None
    assert manifest.is_simulated
    assert manifest.training_data == ("simulated_ward",)
    assert "Not a medical device" in files.read("card.md").decode()
    assert all(case["simulated"] for case in read_cases(version))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_cases_cover_every_kind_of_answer(version: str) -> None:
    cases = read_cases(version)
    assert len(cases) >= 8
    assert {hour["choice"] for case in cases for hour in case["hours"]} == {"no", "yes", None}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("runtime", sorted(TRUNK_FILES))
@pytest.mark.parametrize("is_single_file", [False, True], ids=["directory", "zip"])
def test_every_runtime_decides_hour_by_hour_as_recorded(
    version: str, runtime: str, is_single_file: bool, tmp_path: Path
) -> None:
    path = ROOT / version / "bundle"
    if is_single_file:
        write_bundle_zip(path, tmp_path / "golden.zip")
        path = tmp_path / "golden.zip"
    task, tolerance = open_task(version, runtime, path), tolerance_of(version)[runtime]
    for case in read_cases(version)[: 2 if is_single_file else None]:
        session, at, events = task.session(case["static"]), 0, case["events"]
        recorded = {hour["hour"]: hour for hour in case["hours"]}
        for hour in range(1, task.task.num_bins + 1):
            while at < len(events) and events[at][0] <= 60 * hour:
                session.observe(events[at][1], events[at][2])
                at += 1
            session.close_bin()
            answer = session.decide().answers[case["field"]]
            if hour not in recorded:
                continue
            assert answer.choice == recorded[hour]["choice"], (case["patient"], hour)
            got = [answer.probabilities[choice] for choice in case["choices"]]
            # A probability moves by at most a quarter of what the difference of the logits over the temperature does.
            allowed = max(2 * tolerance / task.task.fields[0].temperature / 4, 1e-6)
            assert got == pytest.approx(recorded[hour]["probabilities"], abs=allowed)
        assert at == len(events)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("runtime", sorted(TRUNK_FILES))
def test_every_runtime_gives_the_recorded_logits_in_one_pass(version: str, runtime: str) -> None:
    task, tolerance = open_task(version, runtime), tolerance_of(version)[runtime]
    static_names = task.task.signal.static
    for case in read_cases(version):
        channels = encode_stays(task.task.signal, [arrays(case, task)], task.task.num_bins)[0]
        static = np.array([case["static"][name] for name in static_names], np.float32)
        hours = [hour["hour"] for hour in case["hours"]]
        logits = task.logits(channels, static, hours)[case["field"]]
        np.testing.assert_allclose(logits, [hour["logits"] for hour in case["hours"]], rtol=0, atol=tolerance)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_trees_give_the_recorded_log_odds(version: str) -> None:
    task = open_task(version, "reference")
    trees = task.trees()
    assert trees is not None
    for case in read_cases(version):
        channels = encode_stays(task.task.signal, [arrays(case, task)], task.task.num_bins)[0]
        static = np.array([case["static"][name] for name in task.task.signal.static], np.float32)
        for hour, expected in case["trees"].items():
            features = np.concatenate([channels[int(hour) - 1], static])[None]
            assert trees.logit(features, int(hour))[0] == pytest.approx(expected, abs=tolerance_of(version)["trees"])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_health_check_of_an_install_accepts_it(version: str) -> None:
    check_bundle(ROOT / version / "bundle")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_flipped_byte_of_any_file_is_refused(version: str, tmp_path: Path) -> None:
    source = open_bundle_files(ROOT / version / "bundle")
    for name in sorted(source.names()):
        for other in source.names():
            path = tmp_path / name.replace("/", "_") / other
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read(other))
        path = tmp_path / name.replace("/", "_") / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises((IntegrityError, SignatureError)):
            open_task(version, "reference", tmp_path / name.replace("/", "_"))
