"""A larger model as teacher of a smaller one: a finished run of the same sector, asked the same questions.

Source: knowledge distillation, Hinton et al. 2015, arXiv:1503.02531, for closed decisions: the student sees the
teacher's probabilities of the choices, and nothing else of it, so shapes and vocabularies may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smallhold.decide.task import BOS, Task, choice_token, marker_of
from smallhold.errors import DataError, RecipeError
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER
from smallhold.learn.checkpoint import load_signal_model
from smallhold.learn.model import SignalModel
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.teach.lessons import pad
from smallhold.teach.signal_task import load_part, save_part
from smallhold.teach.signal_training import SignalData, SyntheticSet, recombine
from smallhold.teach.vocabulary import PAD, token_id

_BLOCK = 64


def digest_of_run(run: Path, checkpoint: Path | None = None) -> str:
    """SHA-256 of all that a run's answers depend on: weights of both doors, vocabulary and tasks.

    Args:
        run: Folder of a finished run.
        checkpoint: Other weights of the run; None for the trained ones.

    Raises:
        DataError: the weights are missing.
    """
    trained = run / CHECKPOINT_FOLDER
    folder = checkpoint or trained
    if not (folder / "model.safetensors").is_file():
        raise DataError(f"teacher {run}: model.safetensors is missing", hint="run the training command again")
    files = [*folder.glob("*.safetensors"), *trained.glob("tokenizer.json"), *(run / "tasks").glob("*.json")]
    return sha256_hex(canonical_json({file.name: sha256_hex(file.read_bytes()) for file in files}))


@dataclass(frozen=True)  # without slots, which would leave no place for what is read once
class ModelTeacher:
    """A finished run that answers.

    Attributes:
        run: Folder of the run.
        weight: Share of the target that is the teacher's answer, 0 to 1; the rest is what the student would have been
            taught without it.
        temperature: Logits of text choices are divided by it. A teacher has seen these texts, and is surer of them
            than of others.
        checkpoint: Other weights of the run, for example its quantized twin; None for the trained ones.
        keep: Folder that keeps answers, each under a digest of what was asked; None keeps none. Asking takes minutes,
            and students of one search ask the same.
    """

    run: Path
    weight: float = 0.7
    temperature: float = 2.0
    checkpoint: Path | None = None
    keep: Path | None = None

    def __post_init__(self) -> None:
        """Refuse an impossible mixture."""
        if not 0 < self.weight <= 1 or not self.temperature > 0:
            raise RecipeError(f"teacher: expected a weight in (0, 1] and a temperature above 0, got {self}")

    @property
    def _folder(self) -> Path:
        return self.checkpoint or self.run / CHECKPOINT_FOLDER

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what it says and of how it is listened to."""
        return sha256_hex(f"{self._answers} {self.weight} {self.temperature}".encode())

    @cached_property
    def _answers(self) -> str:
        return digest_of_run(self.run, self.checkpoint)

    @cached_property
    def model(self) -> SignalModel:
        """In evaluation mode.

        Raises:
            DataError: the checkpoint is missing or malformed.
        """
        return load_signal_model(self._folder)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The teacher's own vocabulary.

        Raises:
            DataError: missing or malformed.
        """
        path = self.run / CHECKPOINT_FOLDER / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises its own untyped exceptions
            raise DataError(f"{path}: missing or malformed: {error}") from error
        tokenizer.encode_special_tokens = True
        return tokenizer

    def task(self, name: str) -> Task:
        """A task that it was taught.

        Raises:
            DataError: it was not.
        """
        path = self.run / "tasks" / f"{name}.json"
        if not path.is_file():
            raise DataError(f"teacher {self.run}: was never taught the task {name}")
        return Task.from_bytes(path.read_bytes())

    def mortality(self, channels: NDArray[np.float16], static: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, T) probability of the positive choice of `icu-risk` after every bin.

        Args:
            channels: (N, T, C).
            static: (N, S).
        """
        asked = self.task(icu_risk.NAME).fields[0]
        order = sorted(asked.choices, key=lambda choice: choice == asked.positive)  # the positive one last
        rows = torch.tensor([token_id(self.tokenizer, choice_token(icu_risk.NAME, choice)) for choice in order])
        said = np.empty(channels.shape[:2], dtype=np.float32)
        for start in range(0, len(channels), _BLOCK):
            part = slice(start, start + _BLOCK)
            with torch.no_grad():
                logits = self.model.choice_logits(
                    torch.from_numpy(channels[part].astype(np.float32)), torch.from_numpy(static[part]), rows
                )
            said[part] = torch.sigmoid(logits[..., 1] - logits[..., 0]).numpy()
        return said

    def texts(self, name: str, texts: Sequence[str], choices: Sequence[str]) -> NDArray[np.float32]:
        """(N, K) probability of each choice, read by the trunk.

        Args:
            name: Task.
            texts: N texts.
            choices: In the order of the student's task.

        Raises:
            DataError: the teacher was never taught the task, or other choices.
        """
        task = self.task(name)
        if task.text is None or set(task.fields[0].choices) != set(choices):
            raise DataError(f"teacher {self.run}: its task {name} has other choices")
        most = task.text.max_tokens
        logits = self._kept(
            lambda: [canonical_json([name, most, list(choices), list(texts)])],
            lambda: self._choice_logits(name, texts, choices, most),
        )
        said: NDArray[np.float32] = torch.softmax(torch.from_numpy(logits) / self.temperature, dim=-1).numpy()
        return said

    def _choice_logits(
        self, name: str, texts: Sequence[str], choices: Sequence[str], max_tokens: int
    ) -> NDArray[np.float32]:
        """(N, K) logits behind the marker that closes each text."""
        rows = torch.tensor([token_id(self.tokenizer, choice_token(name, choice)) for choice in choices])
        bos, marker, filler = (token_id(self.tokenizer, word) for word in (BOS, marker_of(name), PAD))
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ids = [[bos, marker, *encoding.ids[:max_tokens], marker] for encoding in encodings]
        order = np.argsort([len(row) for row in ids], kind="stable")  # little padding
        said = np.empty((len(ids), len(choices)), dtype=np.float32)
        for start in range(0, len(order), _BLOCK):
            part = order[start : start + _BLOCK]
            batch = [ids[i] for i in part]
            with torch.no_grad():
                hidden = self.model.trunk.hidden(self.model.trunk.embed(torch.from_numpy(pad(batch, filler))))
            read = hidden[torch.arange(len(batch)), torch.tensor([len(row) - 1 for row in batch])]
            said[part] = self.model.trunk.choice_logits(read, rows).detach().numpy()
        return said

    def mixed(self, target: NDArray[np.float32], said: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the student is taught: its own target and the teacher's answer, by `weight`."""
        mixture: NDArray[np.float32] = (1 - self.weight) * target + np.float32(self.weight) * said
        return mixture.astype(np.float32)

    def teach_stays(self, data: SignalData) -> SignalData:
        """The same patients, real and recombined, with the teacher's answers mixed in."""
        synthetic = []
        for item in data.synthetic:
            said = self._answers_about(data, item)
            synthetic.append(replace(item, target=self.mixed(item.target, said)))
        target = self.mixed(data.target, self._answers_about(data, None))
        return replace(data, target=target, synthetic=tuple(synthetic))

    def _answers_about(self, data: SignalData, item: SyntheticSet | None) -> NDArray[np.float32]:
        """(N, T) answers about real or recombined patients."""
        asked: list[NDArray[Any]] = [data.channels, data.static]
        asked += [] if item is None else [item.donor, item.is_swapped]
        return self._kept(lambda: (part.tobytes() for part in asked), lambda: self._ask(data, item))

    def _kept(
        self, asked: Callable[[], Iterable[bytes]], ask: Callable[[], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """What was answered to the same question before, or is now.

        Args:
            asked: The question's parts, called where answers are kept: patients are many bytes.
            ask: Answers it.
        """
        if self.keep is None:
            return ask()
        key = sha256_hex("".join([self._answers, *map(sha256_hex, asked())]).encode())
        path = self.keep / f"{key[:24]}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_part(path, said=ask())
        said: NDArray[np.float32] = load_part(path)["said"]
        return said

    def _ask(self, data: SignalData, item: SyntheticSet | None) -> NDArray[np.float32]:
        if item is None:
            return self.mortality(data.channels, data.static)
        everyone = np.arange(len(data.static))
        parts = [
            self.mortality(recombine(data.channels, item.donor, item.is_swapped, rows), data.static[rows])
            for rows in np.array_split(everyone, -(-len(everyone) // 512))
        ]
        return np.concatenate(parts)
