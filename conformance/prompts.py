"""What every runtime is asked: positions of models, as token ids or as embeddings."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from conformance.texts import TEXTS
from smallhold.decide.local import LocalTask, LocalTextTask, open_bundle
from smallhold.decide.signal import encode_stays
from smallhold.decide.task import BOS
from smallhold.decide.words import words_of_record
from smallhold.device.backends import Inputs
from smallhold.device.backends.reference import ReferenceBackend
from smallhold.device.durable_file import write_durably
from smallhold.records import sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.simulator import simulate_ward
from smallhold.sectors.hospital.stays import Stay

#: Ends of pieces: alone, around the 32 numbers of a group, and around the 64 positions that pass the layers together.
CUTS = (1, 2, 3, 31, 32, 33, 64, 65, 97, 149, 200)
WARD_SEED = 20_261_129


@dataclass(frozen=True, slots=True)
class Prompt:
    """One sequence.

    Attributes:
        kind: Where it comes from: `words`, `text`, `signal`, `story` or `random`.
        parts: Positions one part behind the other: token ids, or embeddings (T, D).
    """

    kind: str
    parts: tuple[Inputs, ...]

    def __len__(self) -> int:
        """Positions."""
        return sum(len(part) for part in self.parts)

    @property
    def has_embeddings(self) -> bool:
        """Whether a runtime needs the door of embeddings for it."""
        return any(isinstance(part, np.ndarray) for part in self.parts)

    def in_pieces(self) -> Prompt:
        """The same positions, cut at `CUTS`."""
        parts = []
        for part in self.parts:
            ends = [0, *(cut for cut in CUTS if cut < len(part)), len(part)]
            parts += [part[start:end] for start, end in pairwise(ends)]
        return replace(self, parts=tuple(parts))


def take(prompts: Sequence[Prompt], positions: int) -> list[Prompt]:
    """The first prompts that have so many positions together, the last one cut.

    None is longer than the share of its kind, so that few positions are of all kinds too.
    """
    found: list[Prompt] = []
    left, longest = positions, -(-positions // max(1, len({prompt.kind for prompt in prompts})))
    for prompt in prompts:
        if left <= 0:
            break
        parts: list[Inputs] = []
        room = min(left, longest)
        for part in prompt.parts:
            if room > 0:
                parts.append(part[:room])
                left -= len(parts[-1])
                room -= len(parts[-1])
        found.append(replace(prompt, parts=tuple(parts)))
    return found


def encode(prompts: Sequence[Prompt]) -> bytes:
    """Prompts as the drivers read them.

    Little-endian uint32: how many prompts; of each, how many parts; of each part 0 (token ids) or 1 (embeddings), how
    many positions, and then the ids as uint32 or the embeddings as float32.
    """
    said = [struct.pack("<I", len(prompts))]
    for prompt in prompts:
        said.append(struct.pack("<I", len(prompt.parts)))
        for part in prompt.parts:
            is_embedded = isinstance(part, np.ndarray)
            said.append(struct.pack("<II", is_embedded, len(part)))
            said.append(np.asarray(part, "<f4" if is_embedded else "<u4").tobytes())
    return b"".join(said)


def hospital_prompts(bundle: Path, keys: Path, weights: bytes, cache: Path, positions: int) -> list[Prompt]:
    """Simulated patients in words and as signal tokens, and texts that the model goes on with: (positions,) in turn."""
    opened = open_bundle(bundle, backend="reference", trusted_keys=keys)
    risk = opened.signal_task(icu_risk.NAME)
    text_tasks = [task for task in map(opened.task, opened.manifest.tasks) if isinstance(task, LocalTextTask)]
    stays = simulate_ward(max(4, positions // 400), WARD_SEED, icu_risk.NUM_BINS)
    beginnings = [
        [_id(task, BOS), _id(task, task.door.marker), *opened.tokenizer.encode(text, add_special_tokens=False).ids]
        for text, task in zip(TEXTS, cycle(text_tasks), strict=False)
    ]
    count = min(len(beginnings), max(3, positions // 500))
    texts = continued(weights, beginnings[:count], 180, cache)
    kinds = (
        [Prompt("words", (_in_words(risk, stay),)) for stay in stays],
        [Prompt("text", (ids,)) for ids in texts],
        [Prompt("signal", (_as_signals(risk, stay),)) for stay in stays],
    )
    return _positions_of([*_in_turn(kinds)], positions)


def story_prompts(weights: bytes, cache: Path, positions: int) -> list[Prompt]:
    """Stories that the model tells, from its mark of a beginning on."""
    length = 400
    starts = [[1]] * (-(-positions // length))
    return _positions_of([Prompt("story", (ids,)) for ids in continued(weights, starts, length, cache)], positions)


def random_prompts(vocab_size: int, lengths: Sequence[int], seed: int) -> list[Prompt]:
    """Token ids without a meaning, for weights without one."""
    rng = np.random.default_rng(seed)
    return [Prompt("random", (rng.integers(0, vocab_size, length).tolist(),)) for length in lengths]


def continued(weights: bytes, beginnings: Sequence[list[int]], length: int, cache: Path) -> list[list[int]]:
    """Sequences of `length` tokens as the model itself, computed by the oracle, goes on at temperature 1.

    Text of the model's own distribution is what it is asked about, and nothing of it comes from anybody. Sampling takes
    a while in numpy, so that the tokens are kept by what they follow from.

    Args:
        weights: A GGUF file.
        beginnings: Token ids to start from.
        length: Of every sequence.
        cache: Folder for the tokens.
    """
    asked = json.dumps([sha256_hex(weights), beginnings, length]).encode()
    path = cache / f"continued-{sha256_hex(asked)[:16]}.json"
    if path.exists():
        found: list[list[int]] = json.loads(path.read_bytes())
        return found
    backend = ReferenceBackend(weights)
    sequences = []
    for seed, beginning in enumerate(beginnings):
        rng, ids, session = np.random.default_rng(seed), list(beginning[:length]), backend.session()
        session.append(ids)
        while len(ids) < length:
            logits = session.score([], [-1])[0].astype(np.float64)
            ids.append(int(np.argmax(logits + rng.gumbel(size=len(logits)))))
            session.append(ids[-1:])
        sequences.append(ids)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, [json.dumps(sequences).encode()], mode=0o644)
    return sequences


def _positions_of(prompts: Sequence[Prompt], positions: int) -> list[Prompt]:
    found = take(prompts, positions)
    if (made := sum(map(len, found))) != positions:
        raise ValueError(f"expected prompts of {positions} positions, made {made}: simulate more")
    return found


def _in_turn(kinds: Sequence[Sequence[Prompt]]) -> Iterator[Prompt]:
    """One of each kind after another, so that few positions too hold all of them."""
    for i in range(max(map(len, kinds))):
        for prompts in kinds:
            yield from islice(prompts, i, i + 1)


def _in_words(task: LocalTask, stay: Stay) -> list[int]:
    door = task.word_door()
    ids = door.prefix(icu_risk.static_features(stay))
    for card in words_of_record(door.words, task.task.signal, stay.minute, stay.code, stay.value):
        ids += door.spell(card)
    return ids


def _as_signals(task: LocalTask, stay: Stay) -> np.ndarray[Any, np.dtype[np.float32]]:
    channels = encode_stays(task.task.signal, [(stay.minute, stay.code, stay.value)], task.task.num_bins)[0]
    return np.concatenate([task.encoder.prefix(icu_risk.static_features(stay)), task.encoder.bins(channels)])


def _id(task: LocalTextTask, word: str) -> int:
    found = task.bundle.tokenizer.token_to_id(word)
    if found is None:
        raise ValueError(f"task {task.task.name}: the tokenizer has no token {word!r}")
    return int(found)
