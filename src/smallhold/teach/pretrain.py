"""From texts and patient streams to a base model.

A run is a folder; each stage writes its own part and can be repeated, replaced or read alone::

    run.json             what was run on what, and how it went
    tokenizer.json       the vocabulary
    tokens/              the texts and the patients as token ids
    training/            the slice that an interrupted training continues from
    checkpoint/          the trained base in Hugging Face's layout, with its signal encoder
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from smallhold.decide.signal import CHANNELS, SignalSpec
from smallhold.decide.task import BOS
from smallhold.decide.words import WordSpec, static_words, words_of_record
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER
from smallhold.learn.checkpoint import load_signal_model, read_checkpoint, save_checkpoint
from smallhold.learn.loop import train
from smallhold.learn.model import SignalModel, TrunkConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.teach.corpora import LANGUAGES, Document, load_corpus
from smallhold.teach.pretrain_recipe import CONTEXT_LENGTH, PretrainRecipe
from smallhold.teach.signal_task import fit_signal_spec, signal_inputs
from smallhold.teach.streams import BaseModel, PackedStream, PatientStream, PretrainingLoss, TokenStore
from smallhold.teach.train import claim_folder, digest_stays, library_versions, supports_bf16
from smallhold.teach.vocabulary import save_tokenizer, token_id, train_tokenizer

Progress = Callable[[str, int, int], None]
#: Channels and static features of the smallest signal door, for a model that reads text alone: it is never fed.
NO_SIGNAL = (len(CHANNELS), 1)
_VALIDATION_WINDOWS = 64


@dataclass(frozen=True, slots=True)
class PretrainSummary:
    """What a finished run says of itself; the contents of `run.json`.

    Attributes:
        recipe: The whole recipe.
        recipe_digest: Its digest.
        begun_from: What was known before: `weights` (SHA-256 of a checkpoint's trunk) and `tokens_trained`; or None.
        data_digest: Digest of every training text and reading.
        documents: Training documents of each data set.
        training_bytes: Bytes of training text of each language.
        pass_tokens: Tokens of one pass over texts and patients.
        tokens_read: Tokens read in all.
        parameters: Parameters of the trunk.
        loss: (step, loss in nats) pairs, signal steps included.
        validation: (step, bits per byte on fixed validation windows) pairs.
        seconds: Wall time of the training, over all slices.
        threads: Threads of torch in the last slice.
        versions: Versions of the libraries that shape the result.
    """

    recipe: dict[str, Any]
    recipe_digest: str
    begun_from: dict[str, Any] | None
    data_digest: str
    documents: dict[str, int]
    training_bytes: dict[str, int]
    pass_tokens: int
    tokens_read: int
    parameters: int
    loss: list[tuple[int, float]]
    validation: list[tuple[int, float]]
    seconds: float
    threads: int
    versions: dict[str, str]


def run_pretraining(
    recipe: PretrainRecipe,
    data_dir: Path | None,
    run: Path,
    *,
    progress: Progress,
    threads: int = 2,
    begin: Path | None = None,
) -> PretrainSummary:
    """Carry out a recipe on the training split; continues what an earlier call left.

    Args:
        recipe: What to do.
        data_dir: What the user gave as `--data`, or None.
        run: Folder of the run.
        progress: Called with a caption, steps done and steps in all.
        threads: Threads of torch; weights are the same bit for bit only when all slices have the same number.
        begin: Checkpoint of an earlier base whose weights, vocabulary and signal door this run goes on with; the recipe
            must describe its shape. None starts from random weights.

    Raises:
        DataError: a data set is missing, the folder holds another run, or `begin` does not fit the recipe.
        InterruptedRun: stopped on request.
    """
    torch.set_num_threads(threads)
    choice = recipe.training
    begun = None if begin is None else _read_begin(begin, recipe)
    progress("reading the texts", 0, 1)
    documents = load_corpus(data_dir, Split.TRAIN, choice.data_sets)
    held_out = load_corpus(data_dir, Split.VALIDATION, choice.data_sets)
    stays = icu_risk.split(icu_risk.load_stays(data_dir), Split.TRAIN) if choice.patients else []
    data_digest = _digest(documents, stays)
    # Not the threads: a run of hours is continued with what the machine has left, and the summary says with how many.
    identity: dict[str, Any] = {"recipe": recipe.claim, "data": data_digest, "versions": library_versions()}
    if begun is not None:
        identity["begun_from"] = begun.weights
    claim_folder(run, identity)

    signal = None
    if stays:
        signal = fit_signal_spec(stays) if begun is None else begun.signal
    words = WordSpec(signal.parameters, signal.static) if signal is not None else None
    tokenizer = _tokenizer(recipe, documents, words, run, progress) if begun is None else begun.tokenizer
    store = _tokens(tokenizer, documents, stays, words, signal, run / "tokens", progress)
    model = _make_model(recipe, tokenizer, signal)
    if begun is not None:
        model.load_state_dict(begun.model.state_dict(), strict=False)  # the head that foretells hours begins anew
    patients = PatientStream(*signal_inputs(stays, signal)) if signal is not None else None
    passes = asdict(choice.passes)
    repeats = np.array([passes[d.language] for d in documents] + [choice.patient_passes] * len(stays))
    stream = PackedStream(store, repeats, token_id(tokenizer, BOS), recipe.seed)
    loop = recipe.loop(use_bf16=supports_bf16())
    result = train(
        model,
        PretrainingLoss(
            stream,
            patients,
            batch_size=choice.batch_size,
            sequence_length=choice.sequence_length,
            signal_every=choice.signal_every,
            signal_batch_size=choice.signal_batch_size,
        ),
        loop,
        run / "training" / "state.safetensors",
        inputs_digest=sha256_hex(canonical_json(identity)),
        progress=lambda done, total, loss: progress(f"pretraining, loss {loss:.3f}", done, total),
        slice_seconds=120.0,
        measure=_validation(tokenizer, held_out, choice.sequence_length),
    )
    summary = PretrainSummary(
        recipe=asdict(recipe),
        recipe_digest=recipe.digest,
        begun_from=None if begun is None else {"weights": begun.weights, "tokens_trained": begun.tokens_trained},
        data_digest=data_digest,
        documents={name: sum(d.data_set == name for d in documents) for name in choice.data_sets}
        | ({stays[0].data_set: len(stays)} if stays else {}),
        training_bytes={lang: sum(len(d.text.encode()) for d in documents if d.language == lang) for lang in LANGUAGES},
        pass_tokens=stream.pass_length,
        tokens_read=round(choice.million_tokens * 1e6),
        parameters=sum(p.numel() for p in model.trunk.parameters()),
        loss=result.losses,
        validation=result.measured,
        seconds=result.seconds,
        threads=threads,
        versions=library_versions(),
    )
    about: dict[str, Any] = {
        "kind": "base",
        "recipe_digest": recipe.digest,
        "data_digest": data_digest,
        "data_sets": list(summary.documents),
        "tokens_trained": summary.tokens_read + (0 if begun is None else begun.tokens_trained),
        "training_context": choice.sequence_length,
    }
    if signal is not None and words is not None:
        about |= {"signal": signal.to_json(), "words": words.to_json()}
    save_checkpoint(model, run / CHECKPOINT_FOLDER, about, dtype=torch.float16)
    save_tokenizer(tokenizer, run / CHECKPOINT_FOLDER, context_length=CONTEXT_LENGTH)
    write_durably(run / "run.json", [json.dumps(asdict(summary), indent=1).encode()], mode=0o644)
    return summary


@dataclass(frozen=True, slots=True)
class _Begin:
    """An earlier base that a run goes on with."""

    model: SignalModel
    tokenizer: Tokenizer
    signal: SignalSpec | None
    tokens_trained: int
    weights: str


def _read_begin(folder: Path, recipe: PretrainRecipe) -> _Begin:
    model, about = load_signal_model(folder), read_checkpoint(folder).about
    tokenizer = _read_tokenizer(folder / "tokenizer.json", hint="expected a folder that `teach pretrain` wrote")
    shape = {name: getattr(model.trunk.config, name) for name in asdict(recipe.model)}
    if shape != asdict(recipe.model):
        raise DataError(f"{folder}: expected the recipe's shape {asdict(recipe.model)}, got {shape}")
    signal = SignalSpec.from_json(about["signal"]) if "signal" in about else None
    if recipe.training.patients and signal is None:
        raise DataError(
            f"{folder}: was pretrained without patients, and the recipe reads them",
            hint="set training.patients = false in the recipe",
        )
    weights = sha256_hex((folder / "model.safetensors").read_bytes())
    return _Begin(model, tokenizer, signal, int(about.get("tokens_trained", 0)), weights)


def _digest(documents: Sequence[Document], stays: Sequence[Stay]) -> str:
    state = hashlib.sha256()
    for document in documents:
        state.update(canonical_json([document.data_set, document.group, document.language, document.text]))
    if stays:
        state.update(digest_stays(list(stays)).encode())
    return state.hexdigest()


def _tokenizer(
    recipe: PretrainRecipe, documents: Sequence[Document], words: WordSpec | None, run: Path, progress: Progress
) -> Tokenizer:
    path = run / "tokenizer.json"
    if not path.exists():
        progress("vocabulary", 0, 1)
        sample = [text for lang in LANGUAGES for text in _sample(documents, lang, recipe.tokenizer.sample_megabytes)]
        vocabulary = words.vocabulary if words is not None else ()
        tokenizer = train_tokenizer(sample, vocab_size=recipe.tokenizer.vocab_size, words=vocabulary)
        write_durably(path, [tokenizer.to_str().encode()], mode=0o644)
        progress("vocabulary", 1, 1)
    return _read_tokenizer(path, hint=f"delete {path} to make it again")


def _read_tokenizer(path: Path, *, hint: str) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises its own untyped exceptions
        raise DataError(f"{path}: missing or malformed: {error}", hint=hint) from error


def _sample(documents: Sequence[Document], language: str, megabytes: int) -> list[str]:
    """Documents of one language, evenly spaced over the corpora, of about so many million bytes in all."""
    mine = [d.text for d in documents if d.language == language]
    share = min(1.0, megabytes * 1e6 / max(1, sum(len(text.encode()) for text in mine)))
    return [text for i, text in enumerate(mine) if int((i + 1) * share) > int(i * share)]


def _tokens(
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    stays: Sequence[Stay],
    words: WordSpec | None,
    signal: SignalSpec | None,
    folder: Path,
    progress: Progress,
) -> TokenStore:
    path = folder / "train.npz"
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as stored:
                return TokenStore(stored["ids"], stored["offset"])
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: truncated or malformed: {error}", hint=f"delete {path}") from error
    ids: list[Sequence[int]] = []
    block = 512
    for start in range(0, len(documents), block):
        batch = tokenizer.encode_batch([d.text for d in documents[start : start + block]], add_special_tokens=False)
        ids += [encoding.ids for encoding in batch]
        progress("texts to tokens", min(start + block, len(documents)), len(documents))
    if words is not None and signal is not None:
        number = {word: token_id(tokenizer, word) for word in words.vocabulary}
        ids += [[number[word] for word in stay_words(stay, words, signal)] for stay in stays]
    store = TokenStore.of(ids)
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, ids=store.ids, offset=store.offset)
    folder.mkdir(exist_ok=True)
    write_durably(path, [data.getvalue()], mode=0o644)
    return store


def stay_words(stay: Stay, words: WordSpec, signal: SignalSpec) -> list[str]:
    """A whole stay in words: what is known on admission, then its cards."""
    cards = words_of_record(words, signal, stay.minute, stay.code, stay.value)
    return [*static_words(words, icu_risk.static_features(stay)), *(word for card in cards for word in card)]


def _make_model(recipe: PretrainRecipe, tokenizer: Tokenizer, signal: SignalSpec | None) -> BaseModel:
    torch.manual_seed(recipe.seed)
    config = TrunkConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=CONTEXT_LENGTH, **asdict(recipe.model)
    )
    if signal is None:
        return BaseModel(config, *NO_SIGNAL)
    return BaseModel(config, signal.num_channels, len(signal.static))


def _validation(tokenizer: Tokenizer, documents: Sequence[Document], length: int) -> Callable[[nn.Module], float]:
    """Bits per byte on the beginnings of evenly spaced validation documents: cheap, and the same at every call."""
    bos = token_id(tokenizer, BOS)
    encodings = tokenizer.encode_batch([document.text[: 16 * length] for document in documents])
    rows = [[bos, *item.ids[:length]] for item in encodings if len(item.ids) >= length]
    if not rows:
        raise DataError(f"validation split: expected a document of {length} tokens or more, found none")
    chosen = np.unique(np.linspace(0, len(rows) - 1, _VALIDATION_WINDOWS).astype(int))
    windows = torch.tensor([rows[i] for i in chosen])
    num_bytes = sum(len(tokenizer.decode(row[1:]).encode()) for row in windows.tolist())

    def measure(model: nn.Module) -> float:
        assert isinstance(model, BaseModel)  # noqa: S101 - for the type checker
        nats = sum(float(model.token_loss(part)) * part[:, 1:].numel() for part in torch.split(windows, 16))
        return nats / math.log(2) / max(1, num_bytes)

    return measure
