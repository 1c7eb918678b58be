from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the training loop needs torch, the extra 'train'")

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from smallhold.errors import DataError, InterruptedRun, RecipeError
from smallhold.learn.loop import LoopConfig, LoopResult, train

SCRIPT = Path(__file__).with_name("killable_run.py")
CONFIG = LoopConfig(steps=120, warmup_steps=20, seed=3, use_bf16=False)


def make_model() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 1))


def loss(model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
    x = torch.from_numpy(rng.normal(size=(8, 4)).astype(np.float32))
    return ((model(x) - x.sum(dim=1, keepdim=True)) ** 2).mean()


def run(
    state_file: Path,
    config: LoopConfig = CONFIG,
    *,
    digest: str = "x",
    loss: Callable = loss,
    progress: Callable = lambda done, total, value: None,
    slice_seconds: float = 10.0,
) -> tuple[nn.Module, LoopResult]:
    model = make_model()
    result = train(
        model, loss, config, state_file, inputs_digest=digest, progress=progress, slice_seconds=slice_seconds
    )
    return model, result


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # bits depend on the number of threads


def test_a_run_learns_and_says_how(tmp_path: Path) -> None:
    calls: list[tuple[int, int, float]] = []
    model, result = run(tmp_path / "state", progress=lambda *call: calls.append(call))
    assert [done for done, _, _ in calls] == list(range(1, 121))
    assert {total for _, total, _ in calls} == {120}
    assert [step for step, _ in result.losses] == [25, 50, 75, 100, 120]
    assert result.losses[-1][1] < result.losses[0][1] * 0.8
    assert result.seconds > 0
    assert not model.training


def test_runs_of_one_seed_are_equal_and_of_another_are_not(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert same_weights(first[0], second[0])
    assert first[1].losses == second[1].losses
    other = run(tmp_path / "c", LoopConfig(steps=120, warmup_steps=20, seed=4, use_bf16=False))
    assert not same_weights(first[0], other[0])


def test_the_length_of_a_slice_does_not_change_the_result(tmp_path: Path) -> None:
    assert same_weights(run(tmp_path / "a")[0], run(tmp_path / "b", slice_seconds=0.0)[0])


class _PowerCutError(Exception):
    pass


@pytest.mark.parametrize("moments", [(60,), (1, 26, 51, 119), (24, 25, 26)])
def test_an_interrupted_run_ends_with_the_bits_of_a_whole_one(tmp_path: Path, moments: tuple[int, ...]) -> None:
    whole, expected = run(tmp_path / "whole")
    for moment in moments:

        def cut(done: int, total: int, value: float, at: int = moment) -> None:
            if done == at:
                raise _PowerCutError

        with pytest.raises(_PowerCutError):
            run(tmp_path / "state", progress=cut, slice_seconds=0.0)
    resumed, result = run(tmp_path / "state")
    assert same_weights(resumed, whole)
    assert result.losses == expected.losses
    assert not list(tmp_path.glob("*.tmp"))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    whole, expected = run(tmp_path / "state")

    def never(model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        raise AssertionError("trained again")

    again, result = run(tmp_path / "state", loss=never)
    assert same_weights(again, whole)
    assert result.losses == expected.losses


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_writes_a_slice_and_the_same_call_continues(tmp_path: Path, number: signal.Signals) -> None:
    whole, _ = run(tmp_path / "whole")
    handler = signal.getsignal(number)

    def ask(done: int, total: int, value: float) -> None:
        if done == 30:
            os.kill(os.getpid(), number)

    with pytest.raises(InterruptedRun, match="training stopped after step 50 of 120") as caught:
        run(tmp_path / "state", progress=ask, slice_seconds=1e9)
    assert caught.value.hint == "run the same command again to continue"
    assert caught.value.exit_code == 130
    assert signal.getsignal(number) is handler
    steps: list[int] = []
    resumed, _ = run(tmp_path / "state", progress=lambda done, total, value: steps.append(done))
    assert steps[0] == 51
    assert same_weights(resumed, whole)


def test_a_request_to_stop_after_the_last_step_does_not_stop_anything(tmp_path: Path) -> None:
    def ask(done: int, total: int, value: float) -> None:
        if done == 120:
            os.kill(os.getpid(), signal.SIGTERM)

    run(tmp_path / "state", progress=ask)


def test_a_second_signal_acts_as_usual(tmp_path: Path) -> None:
    def ask(done: int, total: int, value: float) -> None:
        if done in (30, 31):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state", progress=ask)


@pytest.mark.parametrize(
    ("config", "digest"),
    [(LoopConfig(steps=120, warmup_steps=20, seed=9, use_bf16=False), "x"), (CONFIG, "other data")],
)
def test_a_state_of_another_run_is_refused_and_kept(tmp_path: Path, config: LoopConfig, digest: str) -> None:
    run(tmp_path / "state")
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(DataError, match="belongs to a run with another recipe, seed or data"):
        run(tmp_path / "state", config, digest=digest)
    assert (tmp_path / "state").read_bytes() == before


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_truncated_state_says_how_to_start_afresh(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "state"
    run(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="state: truncated or malformed") as caught:
        run(path)
    assert caught.value.hint == f"delete {path} to start afresh"


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "state")
    with pytest.raises(DataError, match="truncated or malformed"):
        train(
            nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Tanh(), nn.Linear(8, 1)),
            loss,
            CONFIG,
            tmp_path / "state",
            inputs_digest="x",
            progress=lambda *_: None,
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverging_loss_is_refused(tmp_path: Path, bad: float) -> None:
    def diverge(model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        return loss(model, step, rng) * (bad if step == 40 else 1.0)

    with pytest.raises(DataError, match=f"training diverged at step 40: the loss is {bad}") as caught:
        run(tmp_path / "state", loss=diverge)
    assert caught.value.hint == "lower optimizer.learning_rate in the recipe"


def test_a_diverging_gradient_of_the_last_step_does_not_become_the_result(tmp_path: Path) -> None:
    def diverge(model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        value = loss(model, step, rng)
        return value + torch.sqrt(value * 0) if step == 119 else value  # finite, with an infinite slope

    with pytest.raises(DataError, match="training diverged at step 119: the gradient's norm is"):
        run(tmp_path / "state", loss=diverge)


def test_the_learning_rate_warms_up_and_falls_on_a_cosine() -> None:
    config = LoopConfig(steps=110, learning_rate=1.0, warmup_steps=10, final_share=0.1)
    assert config.rate_at(0) == pytest.approx(0.1)
    assert config.rate_at(9) == pytest.approx(1.0)
    assert config.rate_at(60) == pytest.approx(0.55)  # half way down
    assert config.rate_at(110) == pytest.approx(0.1)
    rates = [config.rate_at(step) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"steps": 0}, "expected at least 1 step, got 0"), ({"steps": 1, "ema_decay": 1.0}, "ema_decay: expected")],
)
def test_what_cannot_be_trained_is_refused(change: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        LoopConfig(**change)


def test_the_running_mean_of_a_short_run_is_that_of_its_definition(tmp_path: Path) -> None:
    snapshots: list[dict[str, Tensor]] = []
    model = make_model()

    def watch(done: int, total: int, value: float) -> None:
        snapshots.append({name: p.detach().clone().double() for name, p in model.named_parameters()})

    mean = {name: p.detach().clone().double() for name, p in model.named_parameters()}
    train(model, loss, CONFIG, tmp_path / "state", inputs_digest="x", progress=watch)
    for step, weights in enumerate(snapshots):
        decay = min(CONFIG.ema_decay, (1 + step) / (10 + step))
        mean = {name: decay * mean[name] + (1 - decay) * weights[name] for name in mean}
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.double(), mean[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_is_killed_at_twenty_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    steps = 1500
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(state_file: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), str(state_file), str(steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def order(server: subprocess.Popen[str], kill_after: float | None) -> int:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write("run\n")
        server.stdin.flush()
        child = int(server.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # a run that ended first is told by its exit code
                os.kill(child, signal.SIGKILL)
        return int(server.stdout.readline())

    uninterrupted, killed = start(tmp_path / "whole"), start(tmp_path / "killed")
    try:
        begun = time.monotonic()
        assert order(uninterrupted, None) == 0
        seconds = time.monotonic() - begun
        rng = np.random.default_rng(11)
        kills = 0
        # Twenty of these moments make a quarter of a run: one that is faster than the first is killed twenty times too.
        for _ in range(20):
            kills += order(killed, float(rng.uniform(0, seconds / 40))) == -signal.SIGKILL
        assert kills == 20, "the run ended before it was killed twenty times"
        assert order(killed, None) == 0
    finally:
        for server in (uninterrupted, killed):
            server.kill()
            server.communicate(timeout=10)
    whole, resumed = load_file(tmp_path / "whole"), load_file(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
