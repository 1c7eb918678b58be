"""Open a bundle and ask it: the Python API of the device.

::

    bundle = smallhold.open("icu-risk.bundle")
    session = bundle.task("icu-risk").session(static)
    session.observe("HR", 118.0)
    session.close_bin()
    decision = session.decide()

The stable prefix and every closed bin stay in the key-value cache; a decision reads logits and leaves it unchanged.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smallhold.decide.bounded_string import StringField, StringPlan, plan_string
from smallhold.decide.deletion import Trial
from smallhold.decide.plan import Answer, Field, FieldPlan, answer_field, calibrate_logits, plan_field, validate_answer
from smallhold.decide.signal import SignalState
from smallhold.decide.signal_encoder import SignalEncoder
from smallhold.decide.task import END_MARKS, Task, choice_token
from smallhold.decide.text_task import LocalTextTask
from smallhold.decide.trees import Trees
from smallhold.decide.word_door import WordDoor, WordSession
from smallhold.device.backends import Backend, Session
from smallhold.device.bundle_files import BundleFiles, open_bundle_files
from smallhold.device.home import Home
from smallhold.device.manifest import Manifest
from smallhold.device.trust import load_trusted_keys, unsafe_read_manifest, verify_bundle
from smallhold.errors import (
    BackendError,
    BundleError,
    CapacityError,
    DecisionError,
    InputError,
    IntegrityError,
    ShapeError,
    UnknownTaskError,
)
from smallhold.records import sha256_hex

FloatArray = NDArray[np.float32]
BackendName = Literal["onnx_runtime", "engine", "reference"]

#: Where each runtime finds the trunk inside a bundle.
TRUNK_FILES: dict[str, str] = {
    "onnx_runtime": "onnx/trunk.onnx",
    "engine": "gguf/trunk.gguf",
    "reference": "gguf/trunk.gguf",
}


def open_bundle(
    path: str | Path,
    *,
    backend: BackendName = "onnx_runtime",
    trusted_keys: Path | None = None,
    now: datetime | None = None,
    unsafe_skip_verification: bool = False,
) -> LocalBundle:
    """Verify a bundle and load its trunk.

    Args:
        path: A bundle directory, or the same as an uncompressed ZIP.
        backend: `onnx_runtime`, `engine` (our library, from `engine/`), or `reference` (numpy, slow, the oracle).
        trusted_keys: Folder of public keys; default: the `trust` folder of the home directory.
        now: Moment that expiry is judged by; default: the wall clock.
        unsafe_skip_verification: Load without checking signature, digests or expiry. For bundles that this very
            program has just written; never for one that came from elsewhere.

    Raises:
        BundleError: the bundle is not genuine; the subclass says how.
        BackendError: the runtime cannot load the trunk.
    """
    files = open_bundle_files(Path(path))
    if unsafe_skip_verification:
        manifest = unsafe_read_manifest(files)
    else:
        keys = load_trusted_keys(trusted_keys or Home.default().trust)
        manifest = verify_bundle(files, keys, now=now or datetime.now(UTC))
    return LocalBundle(files, manifest, backend)


class LocalBundle:
    """A verified bundle with its trunk in memory."""

    def __init__(self, files: BundleFiles, manifest: Manifest, backend: BackendName) -> None:
        self.files, self.manifest = files, manifest
        if backend not in TRUNK_FILES:
            raise InputError(f"backend: expected one of {', '.join(TRUNK_FILES)}, got {backend!r}")
        if TRUNK_FILES[backend] not in manifest.files:
            raise BundleError(f"bundle {manifest.name}: has no file for the runtime {backend}: {TRUNK_FILES[backend]}")
        self.backend = _load_backend(backend, self.read(TRUNK_FILES[backend]))
        try:
            self.tokenizer = Tokenizer.from_str(self.read("tokenizer.json").decode())
        except BundleError:
            raise
        except Exception as error:  # the library raises its own untyped exceptions
            raise BackendError(f"bundle {manifest.name}: tokenizer.json cannot be read: {error}") from error
        # A text that spells a special token, `<triage:acne>`, is text and must not become that token.
        self.tokenizer.encode_special_tokens = True

    def read(self, name: str) -> bytes:
        """A file of the bundle, checked again: it may have been changed since the bundle was verified.

        Raises:
            IntegrityError: the manifest does not list the file, or it no longer has its digest.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise IntegrityError(f"bundle {self.manifest.name}: {name} is not among its files")
        data = self.files.read(name, limit=entry.bytes + 1)
        if sha256_hex(data) != entry.sha256:
            raise IntegrityError(f"bundle {self.manifest.name}: {name} was altered after the bundle was opened")
        return data

    def task(self, name: str) -> LocalTask | LocalTextTask:
        """A task by name, whichever door it has.

        Raises:
            UnknownTaskError: the bundle has no such task.
        """
        if name not in self.manifest.tasks:
            if not self.manifest.tasks:
                raise UnknownTaskError(
                    f"bundle {self.manifest.name}: has no task, so it decides nothing: it is a model alone",
                    hint="smallhold serve BUNDLE",
                )
            raise UnknownTaskError(
                f"bundle {self.manifest.name}: no task {name!r}, only {', '.join(self.manifest.tasks)}"
            )
        task = Task.from_bytes(self.read(f"tasks/{name}.json"))
        if task.name != name:
            raise BundleError(f"bundle {self.manifest.name}: tasks/{name}.json holds the task {task.name!r}")
        return LocalTask(self, task) if task.text is None else LocalTextTask(self, task)

    def signal_task(self, name: str) -> LocalTask:
        """A task that reads signals.

        Raises:
            UnknownTaskError: the bundle has no such task.
            InputError: the task reads text.
        """
        local = self.task(name)
        if not isinstance(local, LocalTask):
            raise InputError(
                f"task {name}: reads text, not readings", hint=f"smallhold decide BUNDLE --task {name} --text TEXT"
            )
        return local

    def text_task(self, name: str) -> LocalTextTask:
        """A task that reads text.

        Raises:
            UnknownTaskError: the bundle has no such task.
            InputError: the task reads signals.
        """
        local = self.task(name)
        if not isinstance(local, LocalTextTask):
            raise InputError(f"task {name}: reads readings, not text")
        return local

    def plan(self, task: Task, field: Field) -> FieldPlan:
        """How a field is read: by one special token a choice, `<task:choice>`, or else by spelling the choices out.

        Raises:
            RecipeError: see `plan_field`.
        """
        found = {choice: self.tokenizer.token_to_id(choice_token(task.name, choice)) for choice in field.choices}
        special = {choice: [token] for choice, token in found.items() if token is not None}
        if len(special) == len(found):
            return plan_field(field, special.__getitem__)
        return plan_field(field, self._spell, self._end_mark())

    def string_plan(self, field: StringField) -> StringPlan:
        """How a string is written.

        Raises:
            RecipeError: see `plan_string`.
        """
        special = set(self._special_tokens().values())
        tokens = self.tokenizer.get_vocab(with_added_tokens=True)
        vocabulary = {name: i for name, i in tokens.items() if i not in special and i < self.backend.vocab_size}
        return plan_string(field, vocabulary, self._spell, self._end_mark())

    def _spell(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _special_tokens(self) -> dict[str, int]:
        added = self.tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    def _end_mark(self) -> int | None:
        marks = self._special_tokens()
        return next((marks[mark] for mark in END_MARKS if mark in marks), None)


class LocalTask:
    """A task ready to open sessions, one for each patient."""

    def __init__(self, bundle: LocalBundle, task: Task) -> None:
        self.bundle, self.task = bundle, task
        self.encoder = SignalEncoder(bundle.read(task.encoder))
        if self.encoder.num_channels != task.signal.num_channels:
            raise BackendError(
                f"task {task.name}: the encoder takes {self.encoder.num_channels} channels, the task has "
                f"{task.signal.num_channels}"
            )
        self.plans: dict[str, FieldPlan] = {field.name: bundle.plan(task, field) for field in task.fields}
        # One position for the prefix; checked here, so that no session meets the end of the context half way.
        needed = 1 + task.num_bins + max(plan.longest for plan in self.plans.values())
        if bundle.backend.context_length < needed:
            raise BackendError(
                f"task {task.name}: {task.num_bins} bins need a context of {needed} positions, the trunk has "
                f"{bundle.backend.context_length}"
            )

    def trees(self) -> Trees | None:
        """The baseline trees, when the bundle ships them."""
        return None if self.task.baseline is None else Trees.from_bytes(self.bundle.read(self.task.baseline))

    def session(self, static: Sequence[float] | Mapping[str, float] | FloatArray) -> TaskSession:
        """Start a patient.

        Args:
            static: The static features, in the task's order or by name.

        Raises:
            ShapeError: a feature is missing, unknown or not finite.
        """
        names = self.task.signal.static
        if isinstance(static, Mapping):
            if set(static) != set(names):
                raise ShapeError(f"static features: expected {list(names)}, got {sorted(static)}")
            static = [static[name] for name in names]
        values = np.asarray(static, dtype=np.float32)
        if values.shape != (len(names),) or not np.isfinite(values).all():
            raise ShapeError(f"static features: expected {len(names)} finite numbers {list(names)}, got {values}")
        return TaskSession(self, values)

    def word_session(self, static: FloatArray) -> WordSession:
        """Start a patient in observation words, for runtimes that take token ids alone.

        Args:
            static: (S,) static features in the task's order.

        Raises:
            RecipeError: the task has no such door.
        """
        return WordSession(self.word_door(), self.bundle.backend.session(), static)

    def word_door(self) -> WordDoor:
        """The door of observation words.

        Raises:
            RecipeError: the task has none.
        """
        return WordDoor(self.task, self.plans, self.bundle.tokenizer.token_to_id)

    def logits(self, channels: FloatArray, static: FloatArray, bins: Sequence[int]) -> dict[str, FloatArray]:
        """Deciding logits of a whole record at several bins; for evaluation.

        In one pass where one token decides each field, and bin by bin where that takes more.

        Args:
            channels: (T, C).
            static: (S,).
            bins: Numbers of bins closed, 1 to T.

        Returns:
            Field name to (len(bins), K), equal to what `TaskSession` reads bin by bin.
        """
        session = self.bundle.backend.session()
        inputs = np.concatenate([self.encoder.prefix(static), self.encoder.bins(channels[: max(bins)])])
        # Row b: prefix at 0, bin b at b.
        return {name: plan.logits_along(session, inputs, list(bins)) for name, plan in self.plans.items()}


@dataclass(frozen=True, slots=True)
class Decision:
    """What a session answers.

    Attributes:
        task: Name of the task.
        bins: Bins closed when it was asked.
        answers: Field name to answer.
        latency_ms: Wall time of the scoring.
    """

    task: str
    bins: int
    answers: dict[str, Answer]
    latency_ms: float


class TaskSession:
    """One patient: running summaries, and the trunk's cache."""

    def __init__(self, local: LocalTask, static: FloatArray) -> None:
        self._local = local
        self._signal = SignalState(local.task.signal)
        self._channels: list[FloatArray] = []
        # Every reading, 12 bytes each: which bin, which parameter, what value; for asking what another one would do.
        self._read_bins, self._read_codes, self._read_values = array("H"), array("H"), array("d")
        self._pending: FloatArray | None = None
        self._trunk: Session = local.bundle.backend.session()
        self._trunk.append(local.encoder.prefix(static))
        self.static = static

    @property
    def task(self) -> Task:
        """What is asked."""
        return self._local.task

    @property
    def bins(self) -> int:
        """Bins closed so far."""
        return len(self._channels)

    @property
    def state_bytes(self) -> int:
        """Memory of this session that grows with the number of patients: cache, summaries and kept bins."""
        kept = 12 * len(self._read_values)
        return self._trunk.kv_bytes + self._signal.num_bytes + sum(c.nbytes for c in self._channels) + kept

    def observe(self, code: str, value: float) -> None:
        """Add one reading, already in the canonical unit, to the open bin.

        Raises:
            InputError: unknown parameter or a value that is not finite.
        """
        self._signal.observe(code, value)
        self._read_bins.append(self._signal.bins_closed)
        self._read_codes.append(self._local.task.signal.parameters.index(code))
        self._read_values.append(value)

    def close_bin(self) -> None:
        """End the bin: append its signal token.

        Raises:
            CapacityError: the task answers no later bin; the session is unchanged.
        """
        if self.bins >= self._local.task.num_bins:
            raise CapacityError(
                f"task {self._local.task.name} answers for {self._local.task.num_bins} bins of "
                f"{self._local.task.signal.bin_minutes} minutes",
                hint="start a new session",
            )
        # Kept until the trunk has taken it: a call that failed is made again, and a bin is closed once.
        if self._pending is None:
            self._pending = self._signal.close_bin()
        self._trunk.append(self._local.encoder.bins(self._pending[None]))
        self._channels.append(self._pending)
        self._pending = None

    def decide(self) -> Decision:
        """Answer every field from what was closed so far; changes nothing.

        Raises:
            DecisionError: no bin was closed yet, or the runtime gave something that is no answer.
        """
        if not self.bins:
            raise DecisionError(f"task {self._local.task.name}: close a bin before deciding")
        begun = time.perf_counter()
        answers = {field.name: self._answer(field.name) for field in self._local.task.fields}
        for field in self._local.task.fields:
            answer = answers[field.name]
            validate_answer(field, answer.probabilities, answer.choice, self._group(field))
        return Decision(self._local.task.name, self.bins, answers, (time.perf_counter() - begun) * 1e3)

    def effects(self, field: str) -> dict[str, float]:
        """What each measured parameter does to the positive choice, by deletion.

        The newest bin is appended again with one parameter's channels cleared, the logits are read, and the bin is put
        back. Earlier bins keep what they hold of the parameter.

        Returns:
            Parameter to log-odds that the decision loses without it; only parameters that were ever measured.

        Raises:
            DecisionError: no bin was closed yet, or the field's choices have a common beginning.
            RecipeError: the task has no such field.
        """
        local = self._local
        whole = self.trial(field).margin
        last = self._channels[-1]
        rows = local.plans[field].deciding
        per = len(last) // len(local.task.signal.parameters)
        measured = [i for i in range(len(local.task.signal.parameters)) if last[(i + 1) * per - 1] > 0]
        without = np.repeat(last[None], len(measured), axis=0)
        for row, i in enumerate(measured):
            without[row, i * per : (i + 1) * per] = 0
        tokens = local.encoder.bins(without)
        end = self._trunk.length
        trial = self._trunk.fork()
        trial.rewind(end - 1)
        found = {}
        for row, i in enumerate(measured):
            logits = trial.score(tokens[row : row + 1], [0], rows)[0]
            found[local.task.signal.parameters[i]] = whole - self._margin(field, logits)
        return found

    def readings(self, code: str) -> list[tuple[int, float]]:
        """(bin, value) of every reading of a parameter in the closed bins, in order of arrival."""
        i = self._local.task.signal.parameters.index(code)
        rows = zip(self._read_bins, self._read_codes, self._read_values, strict=True)
        return [(at, value) for at, parameter, value in rows if parameter == i and at < self.bins]

    def trial(self, field: str, channels: FloatArray | None = None, *, first: int = 0) -> Trial:
        """The answer to this record, or to another one of a patient with the same static features; changes nothing.

        Args:
            field: Of the task.
            channels: (T, C) with T of 1 and more; None for the bins closed so far.
            first: Bins before it are those of this record, and are not computed again.

        Raises:
            DecisionError: no bin was closed yet, or the field's choices have a common beginning.
            RecipeError: the task has no such field.
        """
        local = self._local
        asked, plan = local.task.field(field), local.plans[field]
        if not plan.is_direct:
            raise DecisionError(f"field {field}: choices with a common beginning cannot be explained by deletion yet")
        if not self.bins:
            raise DecisionError(f"task {local.task.name}: close a bin before asking for effects")
        if channels is None:
            logits = self._trunk.score([], [-1], plan.deciding)[0]
        else:
            trial = self._trunk.fork()
            trial.rewind(1 + first)
            logits = trial.score(local.encoder.bins(channels[first:]), [len(channels) - first - 1], plan.deciding)[0]
        probability = calibrate_logits(asked, logits)[asked.choices.index(asked.positive)]
        return Trial(self._margin(field, logits), float(probability))

    def channels(self) -> FloatArray:
        """(T, C) of the bins closed so far: what the model saw."""
        return np.array(self._channels, dtype=np.float32).reshape(self.bins, self._local.task.signal.num_channels)

    def _answer(self, name: str) -> Answer:
        plan, field = self._local.plans[name], self._local.task.field(name)
        return answer_field(field, plan.logits(self._trunk), self._group(field))

    def _group(self, field: Field) -> str | None:
        """Group of the field's promise that is in force now."""
        return None if field.conformal is None else field.conformal.group_at(self.bins)

    def _margin(self, name: str, logits: FloatArray) -> float:
        """Log-odds of the positive choice, of deciding logits (K,); before isotonic steps, which would hide effects."""
        field = self._local.task.field(name)
        asked = logits.astype(np.float64) / field.temperature
        asked += np.array(field.bias or 0.0)
        positive = field.choices.index(field.positive)
        others = np.delete(asked, positive)
        return float(asked[positive] - others.max() - np.log(np.exp(others - others.max()).sum()))


def check_bundle(path: Path) -> None:
    """Load a bundle and make one decision of every task: the health check before a device switches to it.

    The caller has verified the files. Every value comes from the middle of the task's own scale.

    Raises:
        SmallholdError: it could not; the message says why.
    """
    bundle = open_bundle(path, unsafe_skip_verification=True)
    for name in bundle.manifest.tasks:
        local = bundle.task(name)
        if isinstance(local, LocalTextTask):
            local.decide(local.task.question or name)
            continue
        session = local.session([0.0] * len(local.task.signal.static))
        for parameter, grid in zip(local.task.signal.parameters, local.task.signal.grids, strict=True):
            session.observe(parameter, grid.values[len(grid.values) // 2])
        session.close_bin()
        session.decide()


def _load_backend(name: BackendName, data: bytes) -> Backend:
    if name == "reference":
        from smallhold.device.backends.reference import ReferenceBackend

        return ReferenceBackend(data)
    if name == "engine":
        from smallhold.device.backends.engine import EngineBackend

        return EngineBackend(data)
    from smallhold.device.backends.onnx_runtime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(data)
