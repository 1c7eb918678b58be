"""What every method is asked: test rows of the tasks by both doors, held-out text, and what calibration may read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smallhold.compress.calibration import CalibrationSet
from smallhold.decide.task import BOS, Task, choice_token, marker_of
from smallhold.decide.word_door import WordDoor
from smallhold.decide.words import words_of_record
from smallhold.evaluate.text_quality import texts_of
from smallhold.learn.checkpoint import load_signal_model
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.sectors.tasks import find_task
from smallhold.sectors.text_task import load_examples, split
from smallhold.teach.corpora import load_corpus
from smallhold.teach.signal_task import signal_inputs
from smallhold.teach.vocabulary import token_id

SECTOR = "hospital"
TEXT_TASKS = ("triage", "note-specialty")
#: Hours at which `icu-risk` is asked.
HOURS = (12, 48)
#: Windows of text and their tokens.
_NUM_WINDOWS, _HELDOUT_WIDTH = 1024, 64
_CALIBRATION_WINDOWS, _CALIBRATION_WIDTH = 128, 128


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One pass through a model.

    Attributes:
        inputs: (T,) int64 token ids, or (T, D) float32 embeddings of the signal door.
        at: Rows whose logits are read.
    """

    inputs: NDArray[Any]
    at: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """A closed question asked of N rows.

    Attributes:
        questions: N passes; with P rows read of each.
        choices: (K,) vocabulary rows; the positive choice of `icu-risk` is the last.
        truth: (N,) index of each row's choice.
        groups: (N,) what the bootstrap draws as a whole; None for rows.
        hours: Hours of record at the rows that are read; empty for a text.
        has_embeddings: The signal door is asked.
    """

    questions: list[Question]
    choices: NDArray[np.int64]
    truth: NDArray[np.int64]
    groups: NDArray[np.str_] | None = None
    hours: tuple[int, ...] = ()
    has_embeddings: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """Everything that is measured.

    Attributes:
        closed: Name to closed questions: text tasks, `icu-risk`, `icu-risk, words`.
        windows: (N, T) int64 held-out text, each window opened by `<bos>`.
        calibration: Of training rows, for methods that look at inputs.
    """

    closed: dict[str, Closed]
    windows: NDArray[np.int64]
    calibration: CalibrationSet


def hospital_cases(run: Path, data_dir: Path) -> Cases:
    """The test split of the hospital's tasks.

    The signal encoder is the shipped one, in 8 bits, for every method: what is compared is the trunk.

    Args:
        run: A finished run with its quantized twin.
        data_dir: Where the real data lie.

    Raises:
        DataError: the run or a data set is missing.
    """
    tokenizer = Tokenizer.from_file(str(run / "checkpoint" / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    closed: dict[str, Closed] = {}
    training: list[str] = []
    for name in TEXT_TASKS:
        examples = load_examples(find_task(name, SECTOR), data_dir)
        training += [example.text for example in split(examples, Split.TRAIN)]
        task = Task.from_bytes((run / "tasks" / f"{name}.json").read_bytes())
        closed[name] = _texts(task, split(examples, Split.TEST), tokenizer)
    task = Task.from_bytes((run / "tasks" / f"{icu_risk.NAME}.json").read_bytes())
    known = [stay for stay in icu_risk.load_stays(data_dir) if stay.died is not None]
    stays = icu_risk.split(known, Split.TEST)
    closed[icu_risk.NAME] = _signals(task, stays, tokenizer, run / "quantized")
    closed[f"{icu_risk.NAME}, words"] = _words(task, stays, tokenizer)
    heldout = [document.text for document in load_corpus(data_dir, Split.TEST)]
    train_stays = icu_risk.split(known, Split.TRAIN)
    chosen = [train_stays[i] for i in evenly(len(train_stays), _CALIBRATION_WINDOWS)]
    channels, static = signal_inputs(chosen, task.signal)
    calibration = CalibrationSet(
        tokens=torch.from_numpy(text_windows(tokenizer, training, _CALIBRATION_WINDOWS, width=_CALIBRATION_WIDTH)),
        channels=torch.from_numpy(channels.astype(np.float32)),
        static=torch.from_numpy(static),
    )
    return Cases(closed, text_windows(tokenizer, heldout, _NUM_WINDOWS, width=_HELDOUT_WIDTH), calibration)


def _texts(task: Task, examples: Sequence[Any], tokenizer: Tokenizer) -> Closed:
    if task.text is None:
        raise TypeError(f"{task.name}: expected a text task")
    choices = task.fields[0].choices
    texts = texts_of(examples, choices)
    bos, marker = token_id(tokenizer, BOS), token_id(tokenizer, marker_of(task.name))
    questions = []
    for encoding in tokenizer.encode_batch([example.text for example in examples], add_special_tokens=False):
        ids = np.array([bos, marker, *encoding.ids[: task.text.max_tokens], marker], np.int64)
        questions.append(Question(ids, (len(ids) - 1,)))
    return Closed(questions, _choice_rows(task, choices, tokenizer), texts.truth, texts.groups)


def _signals(task: Task, stays: Sequence[Stay], tokenizer: Tokenizer, shipped: Path) -> Closed:
    encoder = load_signal_model(shipped).encoder
    channels, static = signal_inputs(stays, task.signal)
    with torch.no_grad():
        embeddings = encoder(torch.from_numpy(channels.astype(np.float32)), torch.from_numpy(static)).numpy()
    questions = [Question(stay, HOURS) for stay in embeddings]  # the prefix is row 0, so hour h is row h
    return Closed(questions, _outcome_rows(task, tokenizer), _died(stays), hours=HOURS, has_embeddings=True)


def _words(task: Task, stays: Sequence[Stay], tokenizer: Tokenizer) -> Closed:
    door = WordDoor(task, {}, tokenizer.token_to_id)
    questions = []
    for stay in stays:
        ids, at = door.prefix(icu_risk.static_features(stay)), []
        cards = words_of_record(door.words, task.signal, stay.minute, stay.code, stay.value)
        for end, card in zip(door.words.card_ends, cards, strict=True):
            ids += door.spell(card)
            at += [len(ids) - 1] if end in HOURS else []
        questions.append(Question(np.array(ids, np.int64), tuple(at)))
    return Closed(questions, _outcome_rows(task, tokenizer), _died(stays), hours=HOURS)


def _outcome_rows(task: Task, tokenizer: Tokenizer) -> NDArray[np.int64]:
    asked = task.fields[0]
    return _choice_rows(task, sorted(asked.choices, key=lambda choice: choice == asked.positive), tokenizer)


def _choice_rows(task: Task, choices: Sequence[str], tokenizer: Tokenizer) -> NDArray[np.int64]:
    return np.array([token_id(tokenizer, choice_token(task.name, choice)) for choice in choices], np.int64)


def _died(stays: Sequence[Stay]) -> NDArray[np.int64]:
    return np.array([bool(stay.died) for stay in stays], np.int64)


def text_windows(tokenizer: Tokenizer, texts: Sequence[str], count: int, *, width: int) -> NDArray[np.int64]:
    """(N, T) at most `count` windows, evenly spaced over texts laid end to end; each begins with `<bos>`.

    Args:
        tokenizer: With `<bos>`.
        texts: Documents.
        count: Most windows.
        width: Tokens of a window, its mark counted.
    """
    bos = token_id(tokenizer, BOS)
    chosen = [texts[i] for i in evenly(len(texts), 4 * count)]
    stream = np.concatenate([[bos, *one.ids] for one in tokenizer.encode_batch(chosen, add_special_tokens=False)])
    whole = len(stream) // (width - 1)
    rows = stream[: whole * (width - 1)].reshape(whole, width - 1)[evenly(whole, count)]
    return np.concatenate([np.full((len(rows), 1), bos), rows], axis=1).astype(np.int64)


def evenly(size: int, count: int) -> list[int]:
    """At most `count` indices below `size`, evenly spaced."""
    found: list[int] = np.unique(np.linspace(0, size - 1, min(size, count)).astype(int)).tolist() if size else []
    return found
