"""From a base to a sector's model: every task of a recipe learnt by one trunk.

A run is a folder; each stage writes its own part and can be repeated, replaced or read alone::

    run.json             what was run on what, and how it went
    teacher/             trees.npz, and the soft labels of each hour
    ngrams/TASK.npz      the n-gram path of each text task
    training/            the slice that an interrupted training continues from
    checkpoint/          the trained model in Hugging Face's layout, with its vocabulary
    tasks/TASK.json      the tasks as trained, not calibrated yet
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smallhold.decide.local import LocalBundle
from smallhold.decide.plan import Field
from smallhold.decide.signal import SignalSpec
from smallhold.decide.task import BOS, Task, TextDoor, choice_token, marker_of
from smallhold.decide.words import NUM_BINS, WordSpec, hour_word, static_words, value_word, words_of_record
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, RecipeError, SmallholdError
from smallhold.evaluate.run_folder import CHECKPOINT_FOLDER
from smallhold.learn.checkpoint import load_signal_model, read_checkpoint, save_checkpoint
from smallhold.learn.loop import LoopResult, train
from smallhold.learn.model import SignalModel, TrunkConfig
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.stays import Stay
from smallhold.sectors.splits import Split
from smallhold.sectors.tasks import find_task
from smallhold.sectors.text_task import TextExample, TextTask, load_examples, split
from smallhold.teach.endpoint.label import LABELS, read_soft_labels
from smallhold.teach.joint_recipe import JointRecipe, SignalLessonChoice, TextLessonChoice
from smallhold.teach.lessons import Lesson, TextLesson, Timetable, WordLesson, WordTable
from smallhold.teach.model_teacher import ModelTeacher
from smallhold.teach.ngrams import fit_ngrams
from smallhold.teach.pretrain import NO_SIGNAL
from smallhold.teach.pretrain_recipe import CONTEXT_LENGTH
from smallhold.teach.shipped_model import take_shipped
from smallhold.teach.signal_task import make_task, signal_data, signal_inputs, teach_by_trees
from smallhold.teach.signal_training import SignalLoss
from smallhold.teach.train import claim_folder, digest_stays, library_versions, read_record, supports_bf16
from smallhold.teach.vocabulary import PAD, byte_tokenizer, extend_vocabulary, save_tokenizer, token_id

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class JointSummary:
    """What a finished run says of itself; the contents of `run.json`.

    Attributes:
        recipe: The whole recipe.
        recipe_digest: Its digest.
        base_digest: Digest of the base's weights.
        base_data: Data sets that the base was trained on.
        data: Data set of each task to its training examples and their digest.
        is_simulated: True when any example was simulated.
        tasks: Names of the tasks, signal tasks first.
        parameters: Parameters of trunk and signal encoder.
        steps: Steps of each kind of lesson.
        loss: (step, loss) pairs; lessons of all kinds together; none where the weights are a bundle's.
        teacher_seconds: Wall time of the trees.
        training_seconds: Wall time of the training, over all slices; 0 where the weights are a bundle's.
        threads: Threads of torch.
        versions: Versions of the libraries that shape the result.
    """

    recipe: dict[str, Any]
    recipe_digest: str
    base_digest: str
    base_data: list[str]
    data: dict[str, dict[str, Any]]
    is_simulated: bool
    tasks: list[str]
    parameters: int
    steps: dict[str, int]
    loss: list[tuple[int, float]]
    teacher_seconds: float
    training_seconds: float
    threads: int
    versions: dict[str, str]


def run_joint(
    recipe: JointRecipe,
    data_dir: Path | None,
    run: Path,
    *,
    progress: Progress,
    threads: int = 2,
    teacher: ModelTeacher | None = None,
    during: Callable[[SignalModel], AbstractContextManager[None]] | None = None,
    shipped: LocalBundle | None = None,
) -> JointSummary:
    """Carry out a recipe; continues what an earlier call left.

    Args:
        recipe: What to do.
        data_dir: What the user gave as `--data`, or None.
        run: Folder of the run.
        progress: Called with a caption, steps done and steps in all.
        threads: Threads of torch.
        teacher: A larger model whose answers are mixed into every target.
        during: What holds while the model learns, for example that its weights are read as they will be rounded.
        shipped: A bundle that this recipe made: its weights in place of the hours of training. Trees and n-grams are
            fitted again.

    Raises:
        RecipeError: the recipe names a task that is not there.
        DataError: a data set or the base is missing, the folder holds another run, the teacher lacks a task, or the
            bundle has another vocabulary or other shapes than the recipe.
        InterruptedRun: stopped on request.
    """
    torch.set_num_threads(threads)
    for choice in recipe.signal:
        if (recipe.sector, choice.task) != ("hospital", icu_risk.NAME):
            raise RecipeError(f"recipe: no signal task {choice.task!r} in sector {recipe.sector!r}")
    base = Path(recipe.base) if recipe.base else None
    if base is not None and not (base / "model.safetensors").is_file():
        raise DataError(f"base {base}: no such checkpoint", hint="smallhold teach pretrain base --out runs/base")
    base_digest = "" if base is None else sha256_hex((base / "model.safetensors").read_bytes())
    progress("reading the data", 0, 1)
    texts = [_read_texts(recipe, choice, data_dir) for choice in recipe.text]
    stays = _read_stays(recipe, data_dir) if recipe.signal else []
    data = {
        item.task.name: {
            "data_set": item.task.data_set,
            "examples": len(item.examples),
            "digest": digest_examples(item.examples),
        }
        for item in texts
    }
    labels = {choice.task: _digest_of_labels(Path(choice.teacher)) for choice in recipe.text if choice.teacher}
    for choice in recipe.signal:
        data[choice.task] = {"data_set": stays[0].data_set, "examples": len(stays), "digest": digest_stays(stays)}
    identity = {
        "recipe": replace(recipe, base="").digest,  # where the base lies does not matter: a run can be moved
        "base": base_digest,
        "data": data,
        "versions": library_versions(),
    }
    if labels:
        identity["labels"] = labels
    if teacher is not None:
        identity["teacher"] = teacher.digest
    if shipped is not None:
        identity["weights"] = shipped.manifest.base_digest
    claim_folder(run, identity)
    progress("reading the data", 1, 1)

    model, tokenizer = _extended_base(recipe, base, [item.task for item in texts])
    if shipped is not None:
        take_shipped(model, tokenizer, shipped)
    tasks: list[Task] = []
    lessons: dict[str, Lesson] = {}
    teacher_seconds = 0.0
    for choice in recipe.signal:
        task, mine, seconds = _signal_lessons(recipe, choice, base, stays, tokenizer, run, progress, teacher)
        teacher_seconds += seconds
        tasks.append(task)
        lessons |= mine
    for item, text_choice in zip(texts, recipe.text, strict=True):
        tasks.append(_text_task(item, text_choice))
        _fit_ngrams(item, text_choice, run, progress)
        if text_choice.epochs:
            lessons[item.task.name] = _text_lesson(recipe, item, text_choice, tokenizer, teacher)
    timetable = Timetable(list(lessons.values()), recipe.seed)
    result = LoopResult([], 0.0, [])
    if shipped is None:
        with nullcontext() if during is None else during(model):
            result = train(
                model,
                timetable,
                recipe.loop(timetable.steps, use_bf16=supports_bf16()),
                run / "training" / "state.safetensors",
                inputs_digest=sha256_hex(canonical_json(identity)),
                progress=lambda done, total, loss: progress(f"{recipe.sector}, loss {loss:.4f}", done, total),
                slice_seconds=60.0,
            )
    summary = JointSummary(
        recipe=asdict(recipe),
        recipe_digest=recipe.digest,
        base_digest=base_digest,
        base_data=[] if base is None else list(read_checkpoint(base).about.get("data_sets", [])),
        data=data,
        is_simulated=any(stay.is_simulated for stay in stays)
        or any(example.is_simulated for item in texts for example in item.examples),
        tasks=[task.name for task in tasks],
        parameters=sum(p.numel() for p in model.parameters()),
        steps={name: lesson.steps for name, lesson in lessons.items()},
        loss=result.losses,
        teacher_seconds=teacher_seconds,
        training_seconds=result.seconds,
        threads=threads,
        versions=library_versions(),
    )
    about = {"kind": "joint", "recipe_digest": recipe.digest, "base_digest": base_digest}
    save_checkpoint(model, run / CHECKPOINT_FOLDER, about)
    save_tokenizer(tokenizer, run / CHECKPOINT_FOLDER, context_length=CONTEXT_LENGTH)
    (run / "tasks").mkdir(exist_ok=True)
    for task in tasks:
        write_durably(run / "tasks" / f"{task.name}.json", [task.to_bytes()], mode=0o644)
    write_durably(run / "run.json", [json.dumps(asdict(summary), indent=1).encode()], mode=0o644)
    return summary


def read_joint_summary(run: Path) -> JointSummary:
    """Read `run.json`.

    Raises:
        DataError: the run is not finished, or the file is malformed.
    """
    return read_record(JointSummary, run)


def digest_examples(examples: Sequence[TextExample]) -> str:
    """One digest of texts and their labels."""
    return sha256_hex(canonical_json([[example.text, example.label] for example in examples]))


def _digest_of_labels(folder: Path) -> str:
    """Of what an endpoint said.

    Raises:
        DataError: no labels are there.
    """
    try:
        return sha256_hex((folder / LABELS).read_bytes())
    except OSError as error:
        raise DataError(f"text.teacher: {folder}: no labels: {error.strerror}", hint="smallhold teach label") from error


@dataclass(frozen=True, slots=True)
class _Texts:
    task: TextTask
    examples: list[TextExample]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) position of each label among the choices."""
        return np.array([self.task.choices.index(example.label) for example in self.examples], dtype=np.int64)


def _read_texts(recipe: JointRecipe, choice: TextLessonChoice, data_dir: Path | None) -> _Texts:
    task = find_task(choice.task, recipe.sector)
    everything = load_examples(task, data_dir)
    examples = [example for part in recipe.splits for example in split(everything, Split(part))]
    if len(examples) < 2 * len(task.choices):
        raise DataError(
            f"task {task.name}: expected at least two examples a choice, got {len(examples)} for {len(task.choices)}"
        )
    return _Texts(task, examples)


def _read_stays(recipe: JointRecipe, data_dir: Path | None) -> list[Stay]:
    known = [stay for stay in icu_risk.load_stays(data_dir) if stay.died is not None]
    stays = [stay for part in recipe.splits for stay in icu_risk.split(known, Split(part))]
    if len(stays) < 100 or len({stay.data_set for stay in stays}) != 1:
        raise DataError(f"icu-risk: expected at least 100 patients of one data set, got {len(stays)}")
    return stays


def _extended_base(recipe: JointRecipe, base: Path | None, tasks: Sequence[TextTask]) -> tuple[SignalModel, Tokenizer]:
    """The base with rows for the markers and the answers; they begin as the mean of all rows."""
    model, tokenizer = _small_model(recipe.seed) if base is None else _read_base(base)
    words = [
        word for task in tasks for word in (marker_of(task.name), *(choice_token(task.name, c) for c in task.choices))
    ]
    for choice in recipe.signal:
        words += [choice_token(choice.task, c) for c in icu_risk.SCHEMA[0].choices]
    extend_vocabulary(tokenizer, words)
    tokenizer.encode_special_tokens = True  # as on the device: a text that spells a special token is text
    torch.manual_seed(recipe.seed)
    old = model.trunk.lm_head.weight.detach()
    config = replace(model.trunk.config, vocab_size=tokenizer.get_vocab_size())
    encoder = model.encoder
    fresh = SignalModel(config, encoder.basis.in_features // 4, encoder.static.in_features)
    if not recipe.from_scratch:
        fresh.encoder.load_state_dict(encoder.state_dict())
        state = model.trunk.state_dict()
        extra = torch.randn(config.vocab_size - len(old), old.shape[1]) * 0.02
        grown = torch.cat([old, old.mean(dim=0) + extra])
        fresh.trunk.load_state_dict(state | {"model.embed_tokens.weight": grown, "lm_head.weight": grown})
    return fresh, tokenizer


def _small_model(seed: int) -> tuple[SignalModel, Tokenizer]:
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    config = TrunkConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=CONTEXT_LENGTH)
    return SignalModel(config, *NO_SIGNAL), tokenizer


def _read_base(base: Path) -> tuple[SignalModel, Tokenizer]:
    try:
        return load_signal_model(base), Tokenizer.from_file(str(base / "tokenizer.json"))
    except SmallholdError:
        raise
    except Exception as error:  # the library raises its own untyped exceptions
        raise DataError(f"{base / 'tokenizer.json'}: missing or malformed: {error}") from error


def _signal_lessons(
    recipe: JointRecipe,
    choice: SignalLessonChoice,
    base: Path | None,
    stays: list[Stay],
    tokenizer: Tokenizer,
    run: Path,
    progress: Progress,
    teacher: ModelTeacher | None,
) -> tuple[Task, dict[str, Lesson], float]:
    about = {} if base is None else read_checkpoint(base).about
    if "signal" not in about or "words" not in about:
        raise DataError(
            f"base {recipe.base or '(none)'}: was not pretrained with patients, so task {choice.task} cannot be learnt",
            hint="set training.patients in the base's recipe",
        )
    signal, words = SignalSpec.from_json(about["signal"]), WordSpec.from_json(about["words"])
    progress("reading the hours", 0, 1)
    channels, static = signal_inputs(stays, signal)
    died = np.array([bool(stay.died) for stay in stays])
    progress("reading the hours", 1, 1)
    soft, trees, seconds = teach_by_trees(choice.teacher, recipe.seed, channels, static, died, run, progress)
    hours = choice.teacher.hours
    data = signal_data(choice.training, hours, recipe.seed, stays, channels, static, died, soft, trees)
    if teacher is not None:
        progress("asking the teacher", 0, 1)
        data = teacher.teach_stays(data)
        progress("asking the teacher", 1, 1)
    rows = [token_id(tokenizer, choice_token(choice.task, c)) for c in icu_risk.SCHEMA[0].choices]
    lessons: dict[str, Lesson] = {
        choice.task: _SignalLesson(
            SignalLoss(data, choice.training, (rows[0], rows[1]), recipe.seed), choice.training.num_steps(len(stays))
        )
    }
    if choice.word_epochs:
        lessons[f"{choice.task} in words"] = WordLesson(
            table=word_table(stays, signal, words, tokenizer),
            data=data,
            choices=np.array(rows),
            filler=token_id(tokenizer, PAD),
            batch_size=choice.word_batch_size,
            steps=max(1, round(choice.word_epochs * len(stays) / choice.word_batch_size)),
            hidden_weight=choice.word_hidden,
            parameter_dropout=choice.training.parameter_dropout,
            dropout=choice.training.dropout,
            seed=recipe.seed,
        )
    return make_task(signal, words if choice.word_epochs else None), lessons, seconds


@dataclass(frozen=True, slots=True)
class _SignalLesson:
    """`SignalLoss` as a lesson."""

    loss: SignalLoss
    steps: int
    not_before: float = 0.0

    def __call__(self, model: SignalModel, number: int, rng: np.random.Generator) -> torch.Tensor:
        return self.loss(model, number, rng)


def word_table(stays: Sequence[Stay], signal: SignalSpec, words: WordSpec, tokenizer: Tokenizer) -> WordTable:
    """Stays in observation words."""
    value_id = np.array(
        [[token_id(tokenizer, value_word(name, i)) for i in range(NUM_BINS)] for name in words.parameters]
    )
    place = {int(word): (p, b) for p, row in enumerate(value_id) for b, word in enumerate(row)}
    bins = np.full((len(stays), len(words.card_ends), len(words.parameters)), -1, dtype=np.int8)
    prefix = []
    for n, stay in enumerate(stays):
        known = static_words(words, icu_risk.static_features(stay))
        prefix.append([token_id(tokenizer, BOS), *(token_id(tokenizer, word) for word in known)])
        for c, card in enumerate(words_of_record(words, signal, stay.minute, stay.code, stay.value)):
            for word in card[:-1]:
                parameter, level = place[token_id(tokenizer, word)]
                bins[n, c, parameter] = level
    hour_id = np.array([token_id(tokenizer, hour_word(end)) for end in words.card_ends])
    return WordTable(prefix, value_id, bins, hour_id, np.array(words.card_ends))


def _text_task(item: _Texts, choice: TextLessonChoice) -> Task:
    task = item.task
    return Task(
        name=task.name,
        sector=task.sector,
        question=task.question,
        fields=(Field(name=task.field_name, choices=task.choices, positive=task.choices[0]),),
        condition=task.condition,
        text=TextDoor(
            marker=marker_of(task.name),
            max_tokens=choice.max_tokens,
            ngrams=f"ngrams/{task.name}.npz",
            trunk_weight=1.0 if choice.epochs else 0.0,
            ngram_weight=1.0,
        ),
    )


def _fit_ngrams(item: _Texts, choice: TextLessonChoice, run: Path, progress: Progress) -> None:
    path = run / "ngrams" / f"{item.task.name}.npz"
    if not path.exists():
        progress(f"n-grams of {item.task.name}", 0, 1)
        texts = [example.text for example in item.examples]
        classifier = fit_ngrams(texts, item.labels, len(item.task.choices), choice.ngrams.config())
        path.parent.mkdir(exist_ok=True)
        write_durably(path, [classifier.to_bytes()], mode=0o644)
        progress(f"n-grams of {item.task.name}", 1, 1)


def _text_lesson(
    recipe: JointRecipe, item: _Texts, choice: TextLessonChoice, tokenizer: Tokenizer, teacher: ModelTeacher | None
) -> TextLesson:
    texts, name = [example.text for example in item.examples], item.task.name
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    targets = np.eye(len(item.task.choices), dtype=np.float32)[item.labels]
    if choice.teacher:
        said = read_soft_labels(Path(choice.teacher), item.task.choices)
        labelled = [i for i, text in enumerate(texts) if text in said]
        targets[labelled] = [said[texts[i]] for i in labelled]
    if teacher is not None:
        targets = teacher.mixed(targets, teacher.texts(name, texts, item.task.choices))
    return TextLesson(
        tokens=[encoding.ids[: choice.max_tokens] for encoding in encodings],
        targets=targets,
        choices=np.array([token_id(tokenizer, choice_token(name, c)) for c in item.task.choices]),
        ids=(token_id(tokenizer, BOS), token_id(tokenizer, marker_of(name)), token_id(tokenizer, PAD)),
        batch_size=choice.batch_size,
        steps=max(1, round(choice.epochs * len(item.examples) / choice.batch_size)),
        token_dropout=choice.token_dropout,
        dropout=recipe.dropout,
        seed=recipe.seed,
    )
