"""The conformance command: what it counts, that it fails what is wrong, and a run of the runtimes that are quick."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="models are read with torch, the extra 'train'")

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the command is no part of the package

from conformance.compare import FLOAT32, ROUNDED, Tally, Tolerance, most_others
from conformance.models import Model, hospital
from conformance.prompts import CUTS, Prompt, encode, take
from conformance.target import Absent, Failed, Target, of_driver
from conformance.targets import TARGETS, python
from tests.engine_library import build_engine

from conformance import __main__ as command
from conformance import decisions, rounding, table

FEW = 120
#: A share of .999 cannot be told of fewer: one position just beyond a tie would be a failure.
ENOUGH = 1_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    return hospital(tmp_path_factory.mktemp("models"), ENOUGH)


@pytest.fixture(scope="module")
def engine() -> Target:
    build_engine()
    return python.engine()[0]


def logits_of(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_a_tally_by_hand() -> None:
    tally = Tally(Tolerance(worst=0.5, most=0.5, median=0.1, tie=0.05))
    expected = logits_of([[1, 0], [1, 0.96], [1, 0], [0, 2]])
    tally.add(logits_of([[1, 0], [1, 1.01], [0.4, 0.5], [0, 2]]), expected)
    found = tally.result()
    assert (found["positions"], found["top1_equal"], found["top1_near_ties"], found["top1_other"]) == (4, 2, 1, 1)
    assert found["widest_gap"] == pytest.approx(1.0)
    assert found["relative_worst"] == pytest.approx(np.hypot(0.6, 0.5))
    assert found["status"] == "fail"


def test_a_first_token_that_differs_is_no_near_tie_in_float32() -> None:
    rounded, exact = Tally(ROUNDED), Tally(FLOAT32)
    for tally in (rounded, exact):
        tally.add(logits_of([[1.00001, 1]]), logits_of([[1, 1.00001]]))
    assert (rounded.result()["top1_near_ties"], exact.result()["top1_near_ties"]) == (1, 0)


def test_few_positions_fail_where_the_share_is_refuted_and_many_where_it_is_not_reached() -> None:
    # The quantile of .999 of Binomial(n, .001): at 120 positions .0066 of the runs exceed one, .0003 two.
    assert [most_others(n, ROUNDED) for n in (1, 120, 1_000, 9_999)] == [1, 2, 5, 21]
    assert [most_others(n, ROUNDED) for n in (10_000, 20_000)] == [10, 20]
    assert [most_others(n, FLOAT32) for n in (120, 1_000, 10_000)] == [0, 1, 10]


@pytest.mark.parametrize(
    ("off", "status"),
    [
        ([0.7] * 300, "pass"),
        ([0.7] * 297 + [1.7] * 3, "pass"),
        ([0.7] * 296 + [1.7] * 4, "fail"),  # more than one in a hundred beyond 1.6
        ([0.7] * 299 + [3.1], "fail"),
        ([0.9] * 300, "fail"),
        ([0.7] * 49 + [1.7], "pass"),
        ([0.7] * 48 + [1.7] * 2, "fail"),
    ],
)
def test_a_distance_is_judged_in_the_units_of_its_position(off: list[float], status: str) -> None:
    expected = np.random.default_rng(0).normal(size=(len(off), 30)).astype(np.float32)
    moves = np.geomspace(1e-3, 0.1, len(off)).astype(np.float32)
    tally = Tally(ROUNDED)
    tally.add(expected * (1 + moves * np.array(off, np.float32))[:, None], expected, moves)
    found = tally.result()
    assert found["status"] == status
    assert found["top1_equal"] == len(off)  # no token changes, and a systematic error fails all the same
    assert found["distance"]["worst"] == pytest.approx(max(off), rel=1e-3)
    assert found["relative_worst"] > found["relative_median"]


def test_nothing_compared_is_no_pass_and_nonsense_is_refused() -> None:
    tally = Tally(FLOAT32)
    assert tally.result()["status"] == "fail"
    with pytest.raises(ValueError, match=r"expected \(1, 2\), got \(1, 3\)"):
        tally.add(np.zeros((1, 3), np.float32), np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="NaN or infinite"):
        tally.add(logits_of([[np.nan, 0]]), logits_of([[1, 0]]))


def test_prompts_are_cut_and_encoded_as_the_drivers_read_them() -> None:
    prompt = Prompt("x", ([7] * 70, np.ones((2, 3), np.float32)))
    pieces = prompt.in_pieces()
    assert [len(part) for part in pieces.parts] == [*np.diff([0, *(c for c in CUTS if c < 70), 70]), 1, 1]
    assert len(pieces) == len(prompt) == 72
    assert [len(p) for p in take([prompt, prompt], 100)] == [72, 28]
    assert encode([Prompt("x", ([7], np.ones((1, 2), np.float32)))]) == (
        b"\1\0\0\0" b"\2\0\0\0" b"\0\0\0\0\1\0\0\0\7\0\0\0" b"\1\0\0\0\1\0\0\0\0\0\x80\x3f\0\0\x80\x3f"
    )  # fmt: skip


@pytest.mark.slow
def test_the_runtimes_of_this_process_conform(models: list[Model], engine: Target) -> None:
    for target in (*python.reference(), *python.onnx_runtime(), engine):
        row = command.row_of(target, models, ENOUGH)
        assert row["status"] == "pass", row
        whats = [check["what"] for check in row["checks"]]
        assert {"decisions of golden v1", "decisions of hospital", *(model.name for model in models)} <= set(whats)
        assert row["below_10000_positions"].startswith(f"{ENOUGH} of")
    assert [check["differing"] for check in row["checks"] if "differing" in check] == [0, 0]


def test_a_runtime_that_is_wrong_or_breaks_off_fails(models: list[Model], engine: Target) -> None:
    def twisted(change: Callable[[np.ndarray], np.ndarray]) -> Target:
        def logits(model: Model, prompts: Sequence[Prompt]) -> Iterator[np.ndarray]:
            return (change(found) for found in engine.logits(model, prompts))

        return replace(engine, logits=logits, decide=None, is_exact_in_pieces=False)

    def broken(found: np.ndarray) -> np.ndarray:
        raise Failed("the lights went out")

    assert command.row_of(twisted(lambda found: found), models[:1], FEW)["status"] == "pass"
    row = command.row_of(twisted(lambda found: np.roll(found, 1, axis=1)), models[:1], FEW)
    assert row["status"] == "fail"
    assert row["checks"][0]["top1_other"] > 0
    row = command.row_of(twisted(broken), models[:1], FEW)
    assert (row["status"], row["reason"]) == ("fail", "the lights went out")


@pytest.mark.parametrize(
    "fault",
    [
        lambda layer: replace(layer, query=layer.query * np.float32(1.03)),
        lambda layer: replace(layer, up=layer.up * np.float32(1.03)),
        lambda layer: replace(layer, value=layer.value * (np.arange(len(layer.value)) != 7)[:, None]),
    ],
    ids=["queries 3 % too long", "a product 3 % too large", "a row of values left out"],
)
def test_a_small_fault_behind_the_rounding_fails(models: list[Model], fault: Callable[[Any], Any]) -> None:
    def logits(model: Model, prompts: Sequence[Prompt]) -> Iterator[np.ndarray]:
        yield from rounding.logits(oracle, prompts)

    oracle = rounding.RoundedOracle(models[0].gguf.read_bytes(), seed=99)
    target = Target(name="rounded", logits=logits)
    assert command.in_whole(target, models[0], ENOUGH)["status"] == "pass"
    oracle.layers[:] = [fault(layer) for layer in oracle.layers]
    assert command.in_whole(target, models[0], ENOUGH)["status"] == "fail"


def test_pieces_that_differ_by_one_bit_fail(models: list[Model], engine: Target) -> None:
    def logits(model: Model, prompts: Sequence[Prompt]) -> Iterator[np.ndarray]:
        for prompt, found in zip(prompts, engine.logits(model, prompts), strict=True):
            yield np.nextafter(found, np.inf) if len(prompt.parts) > 1 else found

    row = command.row_of(replace(engine, logits=logits, decide=None), models[:1], FEW)
    (pieces,) = [check for check in row["checks"] if "differing" in check]
    assert (row["status"], pieces["differing"]) == ("fail", FEW)


def test_answers_that_turned_over_are_counted_and_named() -> None:
    wanted = {"choice": "yes", "probabilities": {"yes": 0.9, "no": 0.1}, "prediction_set": ["yes"]}
    other = {"choice": None, "probabilities": {"yes": 0.895, "no": 0.105}, "prediction_set": ["yes", "no"]}
    case = decisions.Case("x", Path(), Path(), [{}] * 2, [None, {"f": wanted}], 0.02, 1.0)
    assert decisions.judge(case, [{}, {"answers": {"f": wanted}}])["status"] == "pass"
    told = decisions.judge(case, [{}, {"answers": {"f": other}}])
    assert (told["status"], told["equal"], told["answers"]) == ("fail", 0, 1)
    assert "request 1, f" in told["first"]
    assert decisions.judge(replace(case, least_equal=0.0), [{}, {"answers": {"f": other}}])["status"] == "pass"
    assert decisions.judge(case, [{}, {"error": {"kind": "shape", "message": "no"}}])["status"] == "fail"
    assert decisions.judge(case, [{}])["status"] == "fail"


def test_a_driver_that_ends_early_or_late_is_said(models: list[Model]) -> None:
    prompts = models[0].prompts[:1]
    short = of_driver(lambda model: [sys.executable, "-c", "import sys; sys.exit('no room')"], deadline_seconds=30)
    with pytest.raises(Failed, match=r"bytes of logits, got 0: no room"):
        list(short(models[0], prompts))
    late = of_driver(lambda model: [sys.executable, "-c", "import time; time.sleep(60)"], deadline_seconds=0.5)
    with pytest.raises(Failed, match=r"within 0 s|within 1 s"):
        list(late(models[0], prompts))


def test_what_is_absent_is_a_row_with_its_reason() -> None:
    def absent() -> list[Target]:
        raise Absent("the abacus is missing: apt-get install abacus")

    [row] = command.rows_of("abacus", absent, [], FEW)
    assert row == {"target": "abacus", "status": "untested", "reason": "the abacus is missing: apt-get install abacus"}
    assert "untested: the abacus is missing" in table.markdown({"rows": [row]})


def test_wrong_words_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, said in ((["--only", "abacus"], "none of"), (["--positions", "5"], "expected 100 to 10000, got 5")):
        with pytest.raises(SystemExit) as stopped:
            command.main([*words, "--out", str(tmp_path)])
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
    assert command.main(["--publish", "--out", str(tmp_path)]) == 1
    assert "there is no result" in capsys.readouterr().err
    row = {"target": "llama.cpp", "entry": "llama.cpp", "status": "fail", "reason": "no", "checks": []}
    (tmp_path / "result.json").write_text(json.dumps({"left_out": ["stories260K"], "rows": [row]}))
    assert command.main(["--publish", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    for part in ("llama.cpp failed", "ONNX Runtime has no row", "stories260K"):
        assert part in said
    assert command.earlier(tmp_path / "result.json") == {"llama.cpp": [row]}


def test_the_page_holds_the_table_of_the_result_that_ships() -> None:
    if not table.RESULT.exists():
        pytest.skip("conformance/result.json is missing: make conformance && python -m conformance --publish")
    result: dict[str, Any] = json.loads(table.RESULT.read_bytes())
    page = table.PAGE.read_text()
    assert page == table.on_page(page, result), "run python -m conformance --publish"
    assert not [row["target"] for row in result["rows"] if row["status"] == "fail"]
    assert {row["entry"] for row in result["rows"]} == set(TARGETS)


def test_few_positions_are_of_all_kinds(models: list[Model]) -> None:
    for positions in (30, FEW):
        asked = list(models[0].asked(positions, embeddings=True))
        assert {prompt.kind for prompt, *_ in asked} == {"words", "text", "signal"}
        assert sum(len(prompt) for prompt, *_ in asked) == positions
        for prompt, expected, moves in asked:
            assert expected.shape == (len(prompt), models[0].vocab_size)
            assert moves is not None
            assert moves.shape == (len(prompt),)
            assert ((moves > 0) & (moves < 0.3)).all()
    assert not any(prompt.has_embeddings for prompt, *_ in models[0].asked(FEW, embeddings=False))
