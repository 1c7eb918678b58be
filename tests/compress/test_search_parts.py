"""Budget, candidates, halving: pure, so that a search can be read and replayed."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.cli.main import main
from smallhold.compress.budget import Budget
from smallhold.compress.bundle_size import Door, count_parameters, model_bytes
from smallhold.compress.candidates import Candidate, candidates, ladder, shortlist
from smallhold.compress.halving import Record, Rung, bisect, halve, rungs
from smallhold.compress.search import _corrected
from smallhold.compress.shrink_recipe import ShapeChoice
from smallhold.compress.student_quality import Gain
from smallhold.errors import DataError, RecipeError
from smallhold.evaluate.bootstrap import Interval
from smallhold.evaluate.graph_cost import _joules
from smallhold.learn.checkpoint import load_signal_model
from smallhold.learn.model import SignalModel
from smallhold.learn.trunk_config import TrunkConfig

TEACHER = TrunkConfig(
    vocab_size=8264,
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=8,
    num_attention_heads=6,
    num_key_value_heads=2,
)


def test_a_budget_counts_only_what_it_limits() -> None:
    budget = Budget(max_bytes=1000, max_ms_p95=2.0)
    assert budget.excess({"bytes": 500, "p95_ms": 3.0, "resident_bytes": 1e12}) == 1.5
    assert budget.broken({"bytes": 1001, "p95_ms": 1.0}) == ["bytes 1,001 of at most 1,000"]
    assert Budget().excess({}) == 0 and Budget().broken({}) == []
    wants = Budget(max_bytes=1000, min_quality=0.9)
    assert wants.excess({"bytes": 500}) == 0.5 and wants.excess({"bytes": 500}, 0.45) == 2.0
    assert wants.excess({"bytes": 500}, -0.1) == float("inf")


def test_a_limit_that_the_device_does_not_measure_is_refused() -> None:
    with pytest.raises(RecipeError, match="joules"):
        Budget(max_joules=0.1).require_known({"bytes": 1.0, "p95_ms": 1.0})


@pytest.mark.parametrize(
    "wrong", [{"max_bytes": -1}, {"max_ms_p95": -0.1}, {"max_ms_p95": float("nan")}, {"min_quality": 1.5}]
)
def test_impossible_budgets_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="budget"):
        Budget(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-bytes", "0"], "--max-bytes: expected more than 0, got 0"),
        (["--max-ms-p95", "nan"], "--max-ms-p95: expected more than 0, got nan"),
        (["--min-quality", "-1"], "--min-quality: expected more than 0"),
        (["--device", "device.json"], "--device: a search needs a limit"),
        (["--bits", "4"], "--bits: is for a run that is there"),
    ],
)
def test_limits_that_limit_nothing_start_nothing(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compress", "hospital-small", *words]) == 1
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["1e400MB", "nanMB", "4mb", ""])
def test_what_is_no_number_of_bytes_is_wrong_usage(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compress", "hospital-small", "--max-bytes", size])
    assert ended.value.code == 2 and "expected bytes such as 4000000 or 4MB" in capsys.readouterr().err


def test_every_candidate_is_a_shape_that_runtimes_run() -> None:
    found = candidates(TEACHER, least_vocab=1000)
    assert len(found) == len(set(found)) > 1000
    assert Candidate(8, 192, 512, 6, 2, 8264, 8) in found
    for candidate in found:
        config = candidate.shape().of(TEACHER)
        assert config.head_dim == TEACHER.head_dim
        assert config.hidden_size % 32 == config.intermediate_size % 32 == 0
        assert config.num_attention_heads // config.num_key_value_heads <= 3
        assert 1000 <= config.vocab_size <= 8264


def test_heads_that_form_no_equal_groups_are_refused_before_anything_is_read() -> None:
    assert ShapeChoice(num_key_value_heads=1).of(TEACHER).num_attention_heads == 3
    with pytest.raises(RecipeError, match="6 heads cannot form 1 equal groups of at most 3"):
        ShapeChoice(num_attention_heads=6, num_key_value_heads=1).of(TEACHER)
    with pytest.raises(RecipeError, match="3 heads cannot form 2 equal groups"):
        ShapeChoice(num_attention_heads=3, num_key_value_heads=2).of(TEACHER)


def test_a_run_is_only_quantized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(tmp_path), "--pictures"]) == 1
    assert "--pictures: is for recipes" in capsys.readouterr().err


def test_what_only_the_profile_counts_corrects_nothing() -> None:
    small, large = (Candidate(layers, 64, 64, 2, 1, 1000, 8) for layers in (1, 2))
    foretold = {small: {"p95_ms": 1.0, "joules": 2.0}, large: {"p95_ms": 2.0, "joules": 4.0}}
    corrected = _corrected(foretold, {small: {"p95_ms": 1.5}})
    assert corrected == {small: {"p95_ms": 1.5}, large: {"p95_ms": 3.0, "joules": 4.0}}


def test_the_shortlist_sends_the_largest_of_every_depth_and_encoding() -> None:
    found = candidates(TEACHER, least_vocab=1000)
    size = {c: c.layers * c.hidden * c.mlp + c.vocab * c.hidden for c in found}
    cost = {c: {"p95_ms": 1.0} for c in found}
    chosen = shortlist(found, cost, size, count=12)
    kinds = {(c.layers, c.bits) for c in found}
    assert len(chosen) == len(set(chosen)) == 12
    assert {(c.layers, c.bits) for c in chosen[: len(kinds)]} == kinds or len(kinds) > 12
    for c in chosen[: min(12, len(kinds))]:
        assert size[c] == max(size[other] for other in found if (other.layers, other.bits) == (c.layers, c.bits))
    assert shortlist(found, cost, size, count=12) == chosen
    assert shortlist([], {}, {}, count=3) == []


@given(st.integers(1, 60), st.integers(2, 4))
def test_rungs_shrink_and_effort_grows(count: int, eta: int) -> None:
    levels = rungs(count, eta=eta)
    assert levels[0].number == count and levels[-1] == Rung(1, 1.0)
    for first, second in pairwise(levels):
        assert first.number > second.number and first.effort <= second.effort


def test_halving_finds_the_best_where_quality_does_not_change() -> None:
    items = list(range(9))
    spent = []

    def quality(item: int, effort: float) -> float:
        spent.append(effort)
        return -abs(item - 6.2)

    outcome = halve(items, rungs(9), name=str, quality=quality)
    assert outcome.ranking[:3] == (6, 7, 5) and sorted(outcome.ranking) == items
    assert sum(spent) == pytest.approx(3.0)


def test_ties_keep_their_order() -> None:
    outcome = halve(["a", "b", "c"], rungs(3), name=str, quality=lambda item, effort: 1.0)
    assert outcome.ranking == ("a", "b", "c")


def test_a_record_measures_once_and_survives(tmp_path: Path) -> None:
    path, calls = tmp_path / "record.json", []

    def measure() -> dict[str, float]:
        calls.append(1)
        return {"quality": 0.5}

    record = Record.open(path)
    assert record.get("a", measure) == record.get("a", measure) == {"quality": 0.5}
    assert Record.open(path).get("a", measure) == {"quality": 0.5} and len(calls) == 1

    def killed() -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record.get("b", killed)
    assert json.loads(path.read_text()) == {"a": {"quality": 0.5}}


def test_two_searches_in_one_folder_lose_nothing(tmp_path: Path) -> None:
    one, other = (Record.open(tmp_path / "record.json") for _ in range(2))
    one.get("a", lambda: {"quality": 0.5})
    other.get("b", lambda: {"quality": 0.6})
    assert set(Record.open(tmp_path / "record.json").values) == {"a", "b"}


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 3}', '{"a": {"q": "x"}}'])
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"record\.json"):
        Record.open(path)


def test_nothing_to_halve_is_refused() -> None:
    with pytest.raises(RecipeError, match="halving"):
        rungs(0)


@pytest.mark.parametrize("label", [(8, 192, 512, 6, 2, 8264), (3, 96, 160, 2, 1, 1500), (1, 32, 32, 1, 1, 1000)])
def test_parameters_are_counted_as_torch_counts_them(label: tuple[int, ...]) -> None:
    config = Candidate(*label, bits=8).shape().of(TEACHER)  # type: ignore[misc]
    model = SignalModel(config, 37 * 8, 11)
    assert count_parameters(config, Door.of(model)) == sum(p.numel() for p in model.parameters())
    assert Door.of(model) == Door(37 * 8, 11)


def test_bytes_of_the_committed_bundle_are_foretold_within_two_percent() -> None:
    root = Path(__file__).resolve().parents[2]
    model = load_signal_model(root / "models" / "base")
    bundle = root / "models" / "hospital"
    config = replace(model.trunk.config, vocab_size=8264)  # and the words of its tasks
    parts = ("onnx/trunk.onnx", "gguf/trunk.gguf", "gguf/icu-risk.encoder.gguf", "tokenizer.json")
    there = sum((bundle / part).stat().st_size for part in parts)
    assert abs(model_bytes(config, Door.of(model), 8) / there - 1) < 0.02


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 50))
def test_bisection_finds_the_smallest_that_is_good_enough(sizes: list[int], least: int) -> None:
    items, asked = sorted(sizes), list[int]()

    def quality(item: int) -> float:
        asked.append(item)
        return float(item)

    found = bisect(items, quality, least=least)
    assert len(asked) == len(found) <= len(items).bit_length()
    good = [item for item in items if item >= least]
    assert not good or found[0] == good[0]


def test_a_ladder_climbs_from_small_to_large_in_even_shapes() -> None:
    found = candidates(TEACHER, least_vocab=1000)
    size = {c: float(c.layers * c.hidden * c.mlp + c.vocab * c.hidden) for c in found}
    steps = ladder(found, size, TEACHER, count=9)
    assert 7 <= len(steps) <= 9 and [size[c] for c in steps] == sorted(size[c] for c in steps)
    assert all(c.unevenness(TEACHER) < 4 for c in steps[1:]) and steps[-1].unevenness(TEACHER) < 2
    assert ladder(found[:1], size, TEACHER, count=9) == found[:1]


def test_unsure_gains_weigh_little() -> None:
    teacher = Gain({"sure": Interval(0.2, 0.1, 0.3), "unsure": Interval(0.01, -0.09, 0.11)})
    student = Gain({"sure": Interval(0.1, 0.0, 0.2), "unsure": Interval(0.03, -0.07, 0.13)})
    assert student.share_of(teacher) == pytest.approx((1 * 0.5 + 0.01 * 3.0) / 1.01)
    with pytest.raises(DataError, match="not better"):
        student.share_of(Gain({"unsure": Interval(-0.01, -0.1, 0.1)}))


def test_energy_counters_may_wrap() -> None:
    assert _joules({"a": (90, 100), "b": (5, 100)}, {"a": (10, 100), "b": (7, 100)}) == 22e-6
    assert _joules({}, {}) is None and _joules({"a": (1, 9)}, {}) is None
