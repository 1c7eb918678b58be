"""The training loop: torch and numpy alone, deterministic by seed, in slices that survive an interrupt.

All randomness of step n comes from a generator seeded with (seed, n). Nothing else needs to be remembered about the
past than the tensors, so that a run that was killed continues exactly where its last slice ended: interrupted and
uninterrupted runs give the same weights, bit for bit, on the same machine with the same number of threads.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, InterruptedRun, RecipeError
from smallhold.learn.muon import Muon
from smallhold.records import canonical_json, sha256_hex

#: Loss of one batch: (model, step, numpy generator of this step) -> scalar tensor.
LossFunction = Callable[[nn.Module, int, np.random.Generator], Tensor]
#: A number about the model as it is now, lower is better, for the curve: for example bits per byte on validation.
Measure = Callable[[nn.Module], float]
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """What determines the result of a run.

    Attributes:
        steps: Optimizer steps.
        learning_rate: Peak, reached after `warmup_steps`.
        schedule: `cosine` falls from the peak to `final_share` of it. `wsd` (warm-up, stable, decay; Hu et al. 2024,
            arXiv:2404.06395) stays at the peak until the last `decay_share` of the steps and then falls on a line, so
            that runs of different lengths share their beginning.
        optimizer: `adamw`, or `muon` for the matrices inside the layers with AdamW for everything else.
        weight_decay: On matrices only.
        clip_norm: Bound on the gradient's L2 norm.
        ema_decay: Decay of the running mean of the weights, which is what is saved.
        seed: Seed of batches and dropout.
        use_bf16: Matrix products in bfloat16.
    """

    steps: int
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    final_share: float = 0.05
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_share: float = 0.25
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    seed: int = 0
    use_bf16: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.steps < 1:
            raise RecipeError(f"training: expected at least 1 step, got {self.steps}")
        if not 0 <= self.ema_decay < 1:
            raise RecipeError(f"optimizer.ema_decay: expected a value in [0, 1), got {self.ema_decay}")
        for name, allowed in (("schedule", ("cosine", "wsd")), ("optimizer", ("adamw", "muon"))):
            if getattr(self, name) not in allowed:
                raise RecipeError(f"optimizer.{name}: expected one of {allowed}, got {getattr(self, name)!r}")

    @property
    def _stable_steps(self) -> int:
        """Steps before the fall of a `wsd` schedule begins."""
        return int(self.steps - self.decay_share * self.steps)

    def identity(self) -> dict[str, Any]:
        """What a slice must have in common with this run; a `wsd` run may be given another number of steps."""
        return {k: v for k, v in asdict(self).items() if k != "steps" or self.schedule != "wsd"}

    def continues(self, step: int, steps: int) -> bool:
        """Whether a slice of `step` steps out of `steps` is a beginning of this run."""
        return steps == self.steps or step <= min(self._stable_steps, replace(self, steps=steps)._stable_steps)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then the schedule."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "wsd":
            left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
            return self.learning_rate * max(self.final_share, min(1.0, left))
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = 0.5 * (1 + np.cos(np.pi * min(1.0, done)))
        return float(self.learning_rate * (self.final_share + (1 - self.final_share) * cosine))


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What a finished run reports.

    Attributes:
        losses: (step, mean loss since the entry before) in order.
        seconds: Time spent in steps, over all slices.
        measured: (step, what `measure` said) in order.
    """

    losses: list[tuple[int, float]]
    seconds: float
    measured: list[tuple[int, float]]


def train(
    model: nn.Module,
    loss: LossFunction,
    config: LoopConfig,
    state_file: Path,
    *,
    inputs_digest: str,
    progress: Progress,
    slice_seconds: float = 10.0,
    measure: Measure | None = None,
    measure_every: int = 250,
) -> LoopResult:
    """Train in place; on return the model holds the running mean of the weights.

    Args:
        model: Trained in place.
        loss: Loss of one batch.
        config: What determines the result.
        state_file: Where the slice is kept; a matching one is continued, and it stays behind as the record.
        inputs_digest: Digest of the data and everything else that the loss depends on.
        progress: Called after each step with steps done, steps in all and the running loss.
        slice_seconds: Time between two slices on disk; does not change the result.
        measure: Called on the model as it is after every `measure_every` steps and at the end; draws no randomness.
        measure_every: A multiple of 25, so that a resumed run measures at the same steps.

    Returns:
        The loss curve and the time.

    Raises:
        InterruptedRun: SIGINT or SIGTERM came; the slice was written and the same call continues.
        DataError: the state file belongs to another run or is damaged, or the training diverged.
    """
    identity = sha256_hex(canonical_json({"config": config.identity(), "inputs": inputs_digest}))
    state = _State(model, config)
    start, curve = state.load(state_file, identity) if state_file.exists() else (0, _Curve())
    if start == 0:
        state.save(state_file, identity, 0, curve)  # fail now, not after the first slice, if the disk is full
    recent: list[float] = []
    last_save, begun = time.monotonic(), time.monotonic()
    model.train()
    with _stop_requests() as is_stopped:
        for step in range(start, config.steps):
            recent.append(state.step(step, loss))
            done = step + 1
            if done % 25 == 0 or done == config.steps:
                curve.losses.append((done, float(np.mean(recent))))
                recent = []
            if measure is not None and (done % measure_every == 0 or done == config.steps):
                curve.measured.append((done, _measured(model, measure)))
            progress(done, config.steps, curve.losses[-1][1] if curve.losses else recent[-1])
            # A slice ends only where the loss curve has an entry, so that the curve too is the same after a resume.
            is_due = time.monotonic() - last_save >= slice_seconds or is_stopped()
            if not recent and (is_due or done == config.steps):
                now = time.monotonic()
                curve.seconds, begun, last_save = curve.seconds + now - begun, now, now
                state.save(state_file, identity, done, curve)
                if is_stopped() and done < config.steps:
                    raise InterruptedRun(
                        f"training stopped after step {done} of {config.steps}",
                        hint="run the same command again to continue",
                    )
    state.copy_mean_into_model()
    model.eval()
    return LoopResult(curve.losses, curve.seconds, curve.measured)


@dataclass(slots=True)
class _Curve:
    losses: list[tuple[int, float]] = field(default_factory=list)
    measured: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0


def _measured(model: nn.Module, measure: Measure) -> float:
    model.eval()
    with torch.no_grad():
        value = measure(model)
    model.train()
    return value


class _State:
    """Model, optimizers and running mean, and how they lie on disk."""

    def __init__(self, model: nn.Module, config: LoopConfig) -> None:
        self.model, self.config = model, config
        # Tied parameters appear once.
        self.parameters = dict(model.named_parameters())
        self.optimizers = _make_optimizers(self.parameters, config)
        self.mean = {name: p.detach().clone() for name, p in self.parameters.items()}

    def step(self, step: int, loss: LossFunction) -> float:
        """One optimizer step; returns the loss."""
        config = self.config
        seeds = np.random.SeedSequence([config.seed, step]).generate_state(2)
        torch.manual_seed(int(seeds[0]))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.rate_at(step)
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.use_bf16):
            value = loss(self.model, step, np.random.default_rng(int(seeds[1])))
        if not torch.isfinite(value):
            raise _diverged(step, f"the loss is {value.item()}")
        value.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.clip_norm)
        if not torch.isfinite(norm):
            raise _diverged(step, f"the gradient's norm is {norm.item()}")
        for optimizer in self.optimizers:
            optimizer.step()
        # The mean warms up with the run: early weights must not weigh on a short one.
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        for name, p in self.parameters.items():
            self.mean[name].lerp_(p.detach(), 1 - decay)
        return float(value.detach())

    def save(self, path: Path, identity: str, step: int, curve: _Curve) -> None:
        """Write the slice; the file is whole or the old one stays."""
        tensors: dict[str, Tensor] = {}
        for name, p in self.parameters.items():
            tensors[f"weight.{name}"] = p.detach()
            if self.config.ema_decay:
                tensors[f"mean.{name}"] = self.mean[name]
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(p, {}).items():
                    tensors[f"optimizer.{key}.{name}"] = value
        about = {"identity": identity, "step": step, "steps": self.config.steps, **asdict(curve)}
        path.parent.mkdir(parents=True, exist_ok=True)
        data = save({k: v.detach().contiguous() for k, v in tensors.items()}, {"about": json.dumps(about)})
        write_durably(path, [data], mode=0o644)

    def load(self, path: Path, identity: str) -> tuple[int, _Curve]:
        """Read a slice back; returns steps done and the curve."""
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
                if about["identity"] != identity or not self.config.continues(about["step"], about["steps"]):
                    raise DataError(
                        f"{path}: belongs to a run with another recipe, seed or data",
                        hint=f"choose another --out, or delete {path.parent}",
                    )
                stored: dict[str, dict[str, Tensor]] = {}
                for key in file.keys():  # noqa: SIM118 - not a dict
                    kind, _, rest = key.partition(".")
                    if kind == "optimizer":
                        entry, _, name = rest.partition(".")
                        stored.setdefault(name, {})[entry] = file.get_tensor(key)
                for name, p in self.parameters.items():
                    with torch.no_grad():
                        p.copy_(file.get_tensor(f"weight.{name}"))
                    self.mean[name].copy_(file.get_tensor(f"mean.{name}") if self.config.ema_decay else p.detach())
                    for optimizer in self.optimizers:
                        if name in stored and any(p is q for g in optimizer.param_groups for q in g["params"]):
                            optimizer.state[p] = stored[name]
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{path}: truncated or malformed: {error}", hint=f"delete {path} to start afresh"
            ) from error
        pairs = {key: [(int(s), float(v)) for s, v in about[key]] for key in ("losses", "measured")}
        return about["step"], _Curve(seconds=float(about["seconds"]), **pairs)

    def copy_mean_into_model(self) -> None:
        """Let the model hold the running mean."""
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(self.mean[name])


def _make_optimizers(parameters: Mapping[str, Tensor], config: LoopConfig) -> list[torch.optim.Optimizer]:
    matrices = {name: p for name, p in parameters.items() if p.ndim >= 2}
    others = [p for p in parameters.values() if p.ndim < 2]
    # Orthogonal updates are for maps between hidden states; the rows of a vocabulary are not one (see `learn.muon`).
    inner = [p for name, p in matrices.items() if config.optimizer == "muon" and ".layers." in name]
    outer = [p for p in matrices.values() if not any(p is q for q in inner)]
    adamw = torch.optim.AdamW(
        [{"params": outer, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    return [adamw, Muon(inner, config.learning_rate, weight_decay=config.weight_decay)] if inner else [adamw]


def _diverged(step: int, why: str) -> DataError:
    return DataError(f"training diverged at step {step}: {why}", hint="lower optimizer.learning_rate in the recipe")


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag for the time of the loop; a second signal acts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may set handlers
        return
    asked = False
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # started with nohup or the like: stay deaf to it
    }

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: asked
    finally:
        for restored, handler in before.items():
            signal.signal(restored, handler)
