"""Real graphs are measured in processes of their own; the file is read back, or refused with advice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from smallhold.cli.main import main
from smallhold.compress.device_profile import DeviceProfile, measure_device, random_graph, write_profile
from smallhold.errors import BackendError, DataError
from smallhold.evaluate.graph_cost import measure_graph
from smallhold.learn.trunk_config import TrunkConfig

SMALL = TrunkConfig(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
GRID = [(512, 32, 64, layers, 2, 2, bits) for layers in (1, 4, 8, 12) for bits in (8, 4, 32)]


@pytest.fixture(scope="module")
def profile() -> DeviceProfile:
    seen: list[int] = []
    found = measure_device(progress=lambda caption, done, total: seen.append(done), grid=GRID)
    assert seen == list(range(1, len(GRID) + 1))
    return found


def test_deeper_graphs_cost_more(profile: DeviceProfile) -> None:
    assert 0 < profile.reference["p50_ms"] <= profile.reference["p95_ms"]
    by_depth = {item.config.num_hidden_layers: item.cost["p50_ms"] for item in profile.measured if item.bits == 8}
    assert by_depth[12] > by_depth[1] > 0
    assert profile.model.predict(profile.measured[-1].config, 8, 48)["p50_ms"] > by_depth[1]


def test_the_file_is_read_back(profile: DeviceProfile, tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    write_profile(profile, path)
    assert DeviceProfile.read(path) == profile


@pytest.mark.parametrize("damage", ["absent", "cut", "format", "config", "endless", "negative", "nested", "timeless"])
def test_a_damaged_file_is_refused(profile: DeviceProfile, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "profile.json"
    value = json.loads(profile.to_bytes())
    if damage == "format":
        value["format"] = "smallhold.device-profile/9"
    if damage == "config":
        value["measured"][0]["config"]["model_type"] = "rnn"
    if damage == "endless":
        value["measured"][0]["bits"] = float("inf")
    if damage == "timeless":
        value["reference"]["p95_ms"] = 0.0
    if damage == "negative":
        value["model"]["coefficients"]["p95_ms"][0] = -1.0
    text = 100_000 * "[" if damage == "nested" else json.dumps(value)
    if damage != "absent":
        path.write_text(text[: 100 if damage == "cut" else None])
    with pytest.raises(DataError) as caught:
        DeviceProfile.read(path)
    assert str(path) in str(caught.value)
    assert "smallhold doctor --profile" in str(caught.value.hint)


def test_a_larger_graph_takes_more_memory(tmp_path: Path) -> None:
    wide = TrunkConfig(vocab_size=8192, hidden_size=256, num_attention_heads=4, num_key_value_heads=4)
    cost = {}
    for name, config in {"small": SMALL, "wide": wide}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(random_graph(config, 32))
        cost[name] = measure_graph(path, path, positions=16, decisions=20)
    weights = 4 * 8192 * 256
    assert cost["wide"]["resident_bytes"] - cost["small"]["resident_bytes"] > weights
    assert cost["wide"]["p50_ms"] > cost["small"]["p50_ms"]
    assert cost["wide"]["p95_ms"] >= cost["wide"]["p50_ms"]


def test_a_graph_beside_itself_costs_what_it_costs(tmp_path: Path) -> None:
    """Whatever else the machine does meanwhile."""
    path = tmp_path / "graph.onnx"
    path.write_bytes(random_graph(SMALL, 8))
    cost = measure_graph(path, path, positions=16, decisions=640)
    assert cost["p50_of_reference"] == pytest.approx(1, abs=0.1)
    assert cost["p95_of_reference"] == pytest.approx(1, abs=0.3)
    assert cost["p50_of_reference_low"] <= cost["p50_of_reference"] <= cost["p50_of_reference_high"]


def test_costs_are_told_at_the_speed_of_the_profile(profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is three times as slow now is so for both graphs."""
    measured = {"p50_ms": 6.0, "p95_ms": 9.0, "p50_of_reference": 2.0, "p95_of_reference": 2.5, "resident_bytes": 7}
    monkeypatch.setattr(
        "smallhold.compress.device_profile.measure_content", lambda *_, **__: measured | {"joules": None}
    )
    cost = replace(profile, reference={"p50_ms": 1.0, "p95_ms": 1.2}).measure(b"")
    assert cost == {"p50_ms": 2.0, "p95_ms": 3.0, "resident_bytes": 7.0}


def test_the_working_directory_is_no_part_of_the_measuring_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(random_graph(SMALL, 8))
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert measure_graph(path, path, positions=4, decisions=4)["p50_ms"] > 0


def test_a_profile_that_cannot_be_written_is_refused_before_the_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--profile", str(tmp_path)]) == 1
    assert "expected a file that can be written" in capsys.readouterr().err


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"no\.onnx"):
        measure_graph(path, path, positions=4, decisions=4)


@pytest.mark.slow
def test_doctor_writes_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "profile.json"
    assert main(["doctor", "--profile", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["graphs"] == len(DeviceProfile.read(path).measured)
