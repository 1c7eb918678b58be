"""The bench of quantizers, on a small random checkpoint and our own methods: its plumbing, not its figures."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the bench is no part of the package

from bench.compress.__main__ import measure
from bench.compress.cases import Cases, Closed, Question
from bench.compress.methods import METHODS, Artefact, Method, PeerError, Source
from bench.compress.readers import GraphReader, WeightsReader
from bench.compress.table import markdown, picture

from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.weights import read_weights
from smallhold.compress.calibration import CalibrationSet
from smallhold.learn.checkpoint import save_checkpoint
from smallhold.learn.model import SignalModel, TrunkConfig

WIDTH, VOCABULARY = 32, 64
OURS = tuple(method for method in METHODS if method.is_ours)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    torch.manual_seed(0)
    config = TrunkConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    model = SignalModel(config, 3, 2)
    for parameter in model.parameters():
        parameter.data.mul_(8)  # at the scale of initialisation every logit is nearly zero
    save_checkpoint(model, folder, {"kind": "test"})
    return Source(folder, CalibrationSet(tokens=torch.randint(0, VOCABULARY, (8, 16))))


@pytest.fixture(scope="module")
def cases(source: Source) -> Cases:
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, VOCABULARY, 12) for _ in range(40)]
    doors = [rng.normal(size=(9, WIDTH)).astype(np.float32) for _ in range(40)]
    truth = np.arange(40) % 2
    choices = np.array([5, 9])
    closed = {
        "icu-risk": Closed([Question(x, (2, 8)) for x in doors], choices, truth, hours=(12, 48), has_embeddings=True),
        "icu-risk, words": Closed([Question(x, (4, 11)) for x in ids], choices, truth, hours=(12, 48)),
        "triage": Closed([Question(x, (11,)) for x in ids], choices, truth, np.repeat(np.arange(20).astype(str), 2)),
    }
    return Cases(closed, rng.integers(0, VOCABULARY, (20, 16)), source.calibration)


def failing(_source: Source, _folder: Path) -> Artefact:
    raise PeerError("the peer is not installed")


def test_every_method_of_ours_has_a_row_and_a_failing_peer_does_not_stop_the_others(
    source: Source, cases: Cases, tmp_path: Path
):
    methods = (*OURS, Method("torchao int4", False, 4, failing))
    rows = measure(methods, source, cases, tmp_path / "out", rounds=2)
    by_name = {row["method"]: row for row in rows}
    assert [row["method"] for row in rows] == [method.name for method in methods]
    assert "not installed" in by_name["torchao int4"]["error"]
    assert by_name["ours int4"]["size_bytes"] < by_name["ours int8"]["size_bytes"] < by_name["float32"]["size_bytes"]
    for method in OURS:
        quality = by_name[method.name]["quality"]
        assert set(quality) >= {"icu-risk AUROC 48 h", "icu-risk, words AUROC 12 h", "triage macro-F1"}
        assert quality["icu-risk AUROC 48 h"]["low"] <= quality["icu-risk AUROC 48 h"]["high"]
        assert by_name[method.name]["speed"]["decode_ms"]["median"] > 0
    assert "minus" in by_name["ours int8"]["quality"]["triage accuracy"]
    assert "failed: PeerError" in markdown(rows)
    picture(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_second_call_measures_nothing_again(source: Source, cases: Cases, tmp_path: Path):
    first = measure(OURS[:2], source, cases, tmp_path, rounds=1)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert measure(OURS[:2], source, cases, tmp_path, rounds=1) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_graph_and_plain_weights_answer_alike(source: Source, cases: Cases, tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(trunk_onnx(read_weights(source.checkpoint)))
    graph, weights = GraphReader(tmp_path / "model.onnx"), WeightsReader(source.checkpoint)
    for closed in cases.closed.values():
        question = closed.questions[0]
        expected = graph.logits(question.inputs, question.at)
        np.testing.assert_allclose(weights.logits(question.inputs, question.at), expected, atol=1e-4)
