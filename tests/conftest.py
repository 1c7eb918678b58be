"""Small real models for every stage: random weights of full size in effect, so that a wrong sign or axis shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

CREATED = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)


@dataclass(frozen=True)
class SmallBundle:
    """A signed bundle made of a random model and a small simulated ward, and what it was made of."""

    path: Path
    trusted_keys: Path
    checkpoint: Path
    stays: list  # of smallhold.sectors.hospital.stays.Stay


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_checkpoint(hidden_size=32, ...) writes a checkpoint of random weights with byte tokenizer and encoder."""
    pytest.importorskip("torch", reason="checkpoints are written with torch, the extra 'train'")
    import torch

    from smallhold.learn.checkpoint import save_checkpoint
    from smallhold.learn.model import SignalModel, TrunkConfig
    from smallhold.teach.vocabulary import byte_tokenizer

    def make(*, num_channels: int = 22, num_static: int = 3, seed: int = 0, **changes: object) -> Path:
        shape = {
            "vocab_size": 259,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 64,
            **changes,
        }
        torch.manual_seed(seed)
        model = SignalModel(TrunkConfig(**shape), num_channels, num_static)  # type: ignore[arg-type]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2:  # gain 1 a matrix: attention is far from uniform, logits are far from zero
                    scale = 1.0 if "embed_tokens" in name else parameter.shape[1] ** -0.5
                    torch.nn.init.normal_(parameter, std=scale)
                else:
                    torch.nn.init.uniform_(parameter, 0.5, 1.5)
        folder = tmp_path_factory.mktemp("checkpoint")
        save_checkpoint(model.eval(), folder, {"seed": seed})
        (folder / "tokenizer.json").write_text(byte_tokenizer().to_str())
        return folder

    return make


@pytest.fixture(scope="session")
def quantize() -> Callable[[Path], Path]:
    """quantize(folder) writes the 8-bit twin of a checkpoint beside it."""

    def make(folder: Path) -> Path:
        from smallhold.compress.quantize import quantize_checkpoint

        target = folder.with_name(folder.name + "-quantized")
        if not target.exists():
            quantize_checkpoint(folder, target)
        return target

    return make


@pytest.fixture(scope="session")
def small_bundle(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path]
) -> SmallBundle:
    """A whole icu-risk bundle: 8-bit random model, trees grown on 150 simulated patients, fitted on the same ones."""
    import numpy as np

    from smallhold.bundle.assemble import BundleRequest, SignalPart, build_bundle
    from smallhold.decide.signal import encode_stays
    from smallhold.device.trust import generate_private_key, save_public_key
    from smallhold.sectors.hospital.icu_risk import static_features
    from smallhold.sectors.hospital.simulator import simulate_ward
    from smallhold.teach.signal_task import fit_signal_spec, make_task
    from smallhold.teach.trees import TreeConfig, fit_trees

    folder = tmp_path_factory.mktemp("small_bundle")
    stays = simulate_ward(150, 0, 48)
    spec = fit_signal_spec(stays)
    channels = encode_stays(spec, [(s.minute, s.code, s.value) for s in stays], 48)
    static = np.stack([static_features(stay) for stay in stays])
    died = np.array([bool(stay.died) for stay in stays])
    trees = fit_trees(channels, static, died, TreeConfig(iterations=8, leaves=6), 0, lambda done, total: None)
    (folder / "trees.npz").write_bytes(trees.to_bytes())
    checkpoint = make_checkpoint(num_channels=spec.num_channels, num_static=len(spec.static), seed=3)
    key = generate_private_key()
    (folder / "keys").mkdir()
    save_public_key(key.public_key(), folder / "keys" / "publisher.pem")
    request = BundleRequest(
        checkpoint=quantize(checkpoint),
        parts=(SignalPart(task=make_task(spec), trees=folder / "trees.npz", stays=stays),),
        name="icu-risk-small",
        version="1.0.0",
        expires=None,
        training_data=("simulated_ward",),
        licences={},
        card="# Random weights, simulated patients. Not a medical device.\n",
        max_error=0.1,
    )
    build_bundle(
        request,
        folder / "bundle",
        is_simulated=True,
        created=CREATED,
        key=key,
        progress=lambda caption, done, total: None,
    )
    return SmallBundle(folder / "bundle", folder / "keys", checkpoint, stays)


@dataclass(frozen=True)
class TextBundle:
    """A signed bundle of one signal task and one text task on one random trunk, and the texts that fitted it."""

    path: Path
    trusted_keys: Path
    examples: list  # of smallhold.sectors.text_task.TextExample


#: Choice to words that give it away.
COMPLAINTS = {
    "psoriasis": ("itchy", "scales", "elbows"),
    "pneumonia": ("cough", "sputum", "chills"),
    "migraine": ("headache", "aura", "nausea"),
}


@pytest.fixture(scope="session")
def complaints() -> list:  # of TextExample
    """120 made-up complaints of three kinds, one in ten under a wrong label."""
    import random

    from smallhold.sectors.text_task import TextExample

    rng, made = random.Random(0), []
    filler = ["since", "days", "a", "patient", "says", "that", "it", "worsens", "at", "night", "left", "side", "hurts"]
    for i in range(120):
        label = list(COMPLAINTS)[i % 3]
        words = rng.sample(filler, 6) + rng.sample(COMPLAINTS[label], 2)
        rng.shuffle(words)
        if i % 10 == 9:
            label = rng.choice(list(COMPLAINTS))
        made.append(TextExample(text=" ".join(words), label=label, group=str(i), data_set="made_up", language="en"))
    return made


@pytest.fixture(scope="session")
def text_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    make_checkpoint: Callable[..., Path],
    quantize: Callable[[Path], Path],
    small_bundle: SmallBundle,
    complaints: list,
) -> TextBundle:
    """The tasks icu-risk and triage; triage's n-grams are fitted on 60 complaints, its weights on the other 60."""
    import numpy as np
    from tokenizers import Tokenizer

    from smallhold.bundle.assemble import BundleRequest, SignalPart, TextPart, build_bundle
    from smallhold.decide.ngrams import NGramSpec
    from smallhold.decide.plan import Field
    from smallhold.decide.task import Task, TextDoor
    from smallhold.device.trust import generate_private_key, save_public_key
    from smallhold.teach.ngrams import NGramConfig, fit_ngrams
    from smallhold.teach.vocabulary import extend_vocabulary

    folder, choices = tmp_path_factory.mktemp("text_bundle"), tuple(COMPLAINTS)
    signal = Task.from_bytes((small_bundle.path / "tasks" / "icu-risk.json").read_bytes())
    checkpoint = make_checkpoint(
        num_channels=signal.signal.num_channels, num_static=len(signal.signal.static), vocab_size=263, seed=4
    )
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    extend_vocabulary(tokenizer, ["<triage>", *(f"<triage:{choice}>" for choice in choices)])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    known, fresh = complaints[:60], complaints[60:]
    ngrams = fit_ngrams(
        [item.text for item in known],
        np.array([choices.index(item.label) for item in known]),
        len(choices),
        NGramConfig(spec=NGramSpec(word_buckets=1 << 10, char_buckets=1 << 10)),
    )
    triage = Task(
        name="triage",
        sector="hospital",
        question="Which of these conditions fits the complaint best?",
        fields=(Field(name="condition", choices=choices, positive="pneumonia"),),
        condition="a complaint",
        text=TextDoor(marker="<triage>", max_tokens=48, ngrams="baseline/triage.ngrams.npz"),
    )
    key = generate_private_key()
    (folder / "keys").mkdir()
    save_public_key(key.public_key(), folder / "keys" / "publisher.pem")
    request = BundleRequest(
        checkpoint=quantize(checkpoint),
        parts=(
            SignalPart(task=signal, trees=small_bundle.path.parent / "trees.npz", stays=small_bundle.stays),
            TextPart(task=triage, ngrams=ngrams, examples=fresh),
        ),
        name="hospital-small",
        version="1.0.0",
        expires=None,
        training_data=("simulated_ward",),
        licences={},
        card="# Random weights. Not a medical device.\n",
        max_error=0.2,
    )
    build_bundle(
        request,
        folder / "bundle",
        is_simulated=True,
        created=CREATED,
        key=key,
        progress=lambda caption, done, total: None,
    )
    return TextBundle(folder / "bundle", folder / "keys", fresh)


@dataclass(frozen=True)
class Flow:
    """One tiny simulated run, all the way: what each stage left on the disk."""

    home: Path
    data: Path
    recipe: Path
    run: Path
    bundle: Path
    stays: list  # of smallhold.sectors.hospital.stays.Stay


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


TINY_RECIPE = """
[task]
sector = "hospital"
name = "icu-risk"

[teacher]
iterations = 8
leaves = 6
folds = 2

[student]
epochs = 4
batch_size = 16

[model]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 2

[optimizer]
warmup_steps = 10
ema_decay = 0.9

[bundle]
name = "icu-risk-tiny"
"""


@pytest.fixture(scope="session")
def tiny_ward() -> list:  # of Stay
    """170 simulated stays, named so that every part of the split holds patients of both outcomes."""
    from dataclasses import replace

    from smallhold.sectors.hospital.simulator import simulate_ward
    from smallhold.sectors.hospital.stays import SIMULATED_WARD
    from smallhold.sectors.splits import Split, split_of

    stays = simulate_ward(240, 1, 48)
    dead, alive = [s for s in stays if s.died], [s for s in stays if not s.died]
    wanted = {Split.TRAIN: (12, 98), Split.CALIBRATION: (12, 28), Split.VALIDATION: (1, 4), Split.TEST: (4, 11)}
    ward, number = [], 0
    for part, counts in wanted.items():
        for source, count in zip((dead, alive), counts, strict=True):
            for _ in range(count):
                while split_of(SIMULATED_WARD, f"sim-t-{number:05d}") != part:
                    number += 1
                ward.append(replace(source.pop(), record_id=f"sim-t-{number:05d}"))
                number += 1
    return ward


@pytest.fixture(scope="session")
def flow(tmp_path_factory: pytest.TempPathFactory, tiny_ward: list) -> Flow:
    """Teach, compress, bundle and sign through the command line, as a user would; nothing may change what is here."""
    pytest.importorskip("torch", reason="training needs torch, the extra 'train'")
    from smallhold.cli.main import main
    from smallhold.sectors.hospital.simulator import write_ward

    folder = tmp_path_factory.mktemp("flow")
    made = Flow(folder / "home", folder / "data", folder / "tiny.toml", folder / "run", folder / "bundle", tiny_ward)
    write_ward(tiny_ward, made.data / "simulated_ward")
    made.recipe.write_text(TINY_RECIPE)
    home, data = ["--home", str(made.home)], ["--data", str(made.data)]
    for words in (
        ["device", "init", *home],
        ["teach", "train", str(made.recipe), "--out", str(made.run), "--threads", "1", *data],
        ["compress", str(made.run)],
        ["bundle", "build", str(made.run), "--out", str(made.bundle), *home, *data],
    ):
        assert main(words) == 0, words
    return made


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one's own with the keys of `flow`; the default one for this test."""
    import shutil

    made = tmp_path / "home"
    shutil.copytree(request.getfixturevalue("flow").home, made)
    monkeypatch.setenv("SMALLHOLD_HOME", str(made))
    return made


@pytest.fixture
def smallhold(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """smallhold("device", "status", stdin="") runs a command in this process."""
    import io

    from smallhold.cli.main import main

    def call(*words: object, stdin: str | None = None) -> Done:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's way out, as `python -m` takes it
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return call


@pytest.fixture
def resigned(flow: Flow, tmp_path: Path) -> Callable[..., Path]:
    """resigned("name", files={path: bytes}, key=..., version="2.0.0") is a changed copy of the bundle, signed again."""
    import shutil
    from dataclasses import replace

    from smallhold.device.home import Home
    from smallhold.device.manifest import FileEntry, Manifest
    from smallhold.device.trust import sign_manifest
    from smallhold.records import sha256_hex

    def make(name: str, *, files: dict[str, bytes] | None = None, key: object = None, **changes: object) -> Path:
        folder = tmp_path / name
        shutil.copytree(flow.bundle, folder)
        manifest = Manifest.from_bytes((folder / "manifest.json").read_bytes())
        entries = dict(manifest.files)
        for path, data in (files or {}).items():
            (folder / path).write_bytes(data)
            entries[path] = FileEntry(sha256_hex(data), len(data), entries[path].role, entries[path].runtime)
        manifest = replace(manifest, files=entries, **changes)
        (folder / "manifest.json").write_bytes(manifest.to_bytes())
        signer = key or Home(flow.home).publisher_key()
        (folder / "manifest.dsse.json").write_bytes(sign_manifest(manifest.to_bytes(), signer))  # type: ignore[arg-type]
        return folder

    return make
