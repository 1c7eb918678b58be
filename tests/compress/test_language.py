"""A plain language model made smaller, from its recipe to a checkpoint that others read."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="compression needs torch, the extra 'train'")

import torch

from smallhold.compress.language import LanguageSummary, run_language
from smallhold.errors import DataError, InterruptedRun, RecipeError
from smallhold.evaluate.language import load_language_model

from .language_world import compress, make_world, recipe_of, recipe_text, silent, write_model, write_texts

SHORT = {"0.0128": "0.0005"}  # two steps


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def cached(world: Path) -> LanguageSummary:
    return compress(world, world / "cached")


def test_a_pruned_model_heals_from_the_cache_alone(world: Path, cached: LanguageSummary) -> None:
    bits = cached.bits_per_byte
    assert bits["pruned"] > bits["teacher"] + 0.02, "pruning must cost something, or this test shows nothing"
    assert bits["healed"] < bits["pruned"] - 0.5 * (bits["pruned"] - bits["teacher"])
    assert abs(bits["rounded"] - bits["healed"]) < 0.01
    assert cached.parameters < cached.teacher_parameters
    assert len(cached.kept_layers) == 2
    assert 0 < cached.cache_bytes <= 32 * cached.distinct_tokens
    assert set(cached.seconds) == {"cache", "healing"}
    stored = json.loads((world / "cached" / "language.json").read_text())
    assert stored["bits_per_byte"] == bits


def test_cached_targets_teach_what_a_live_teacher_does(world: Path, cached: LanguageSummary) -> None:
    live = compress(world, world / "live", {"cached": "live"})
    gain = live.bits_per_byte["pruned"] - live.bits_per_byte["healed"]
    assert gain > 0.5 * (live.bits_per_byte["pruned"] - live.bits_per_byte["teacher"])
    assert live.bits_per_byte["pruned"] == cached.bits_per_byte["pruned"]
    assert abs(cached.bits_per_byte["healed"] - live.bits_per_byte["healed"]) < 0.1 * gain
    assert live.cache_bytes == 0


def test_a_teacher_is_worth_having_in_a_smaller_vocabulary(world: Path, tmp_path: Path) -> None:
    """Asked to read the student's pieces it would be lost: so taught, this student ends at 3.6 bits."""
    trimmed = {"[healing]": "vocab_size = 290\n[healing]"}
    healed = {
        targets: compress(world, tmp_path / targets, {**trimmed, "cached": targets}).bits_per_byte["healed"]
        for targets in ("cached", "live", "text")
    }
    assert healed["cached"] < 1.05 * healed["text"]
    assert healed["live"] == pytest.approx(healed["cached"], rel=0.02)


def test_a_run_that_was_stopped_twice_ends_with_the_same_weights(world: Path, cached: LanguageSummary) -> None:
    recipe, out = recipe_of(world), world / "stopped"

    def stop_at(stage: str, when: int) -> Callable[[str, int, int], None]:
        def progress(caption: str, done: int, total: int) -> None:
            if caption.startswith(stage) and done == when:
                signal.raise_signal(signal.SIGINT)

        return progress

    with pytest.raises(KeyboardInterrupt):
        run_language(recipe, None, out, progress=stop_at("asking", 1), threads=1)
    assert (out / "cache" / "shard-00000.bin").exists()
    assert not (out / "cache" / "shard-00001.bin").exists()
    with pytest.raises(InterruptedRun, match="step 25 of 50"):
        run_language(recipe, None, out, progress=stop_at("healing", 10), threads=1)
    summary = run_language(recipe, None, out, progress=silent, threads=1)
    for name in ("checkpoint/model.safetensors", "quantized/quantized.safetensors", "cache/shard-00001.bin"):
        assert (out / name).read_bytes() == (world / "cached" / name).read_bytes(), name
    assert summary.bits_per_byte == cached.bits_per_byte
    assert summary.loss == cached.loss


def test_the_same_shape_and_next_to_no_healing_is_the_teacher(world: Path) -> None:
    changes = {"num_hidden_layers = 2": "", "intermediate_size = 32": "", "5e-3": "1e-12", **SHORT}
    summary = compress(world, world / "same", changes)
    assert summary.bits_per_byte["pruned"] == summary.bits_per_byte["teacher"]
    assert summary.bits_per_byte["healed"] == pytest.approx(summary.bits_per_byte["teacher"], abs=1e-6)
    assert summary.parameters == summary.teacher_parameters


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(
            {"model_type": "qwen2", "attention_bias": True, "tie_word_embeddings": False}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"model_type": "mistral", "sliding_window": 16, "layer_types": ("sliding_attention",) * 3},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["llama", "qwen2", "mistral"],
)
def test_the_result_loads_in_transformers_and_bundles(
    changes: dict, world: Path, tmp_path: Path, smallhold: Callable
) -> None:
    transformers = pytest.importorskip("transformers", reason="checkpoints are compared with transformers")
    write_model(tmp_path / "teacher", hidden_size=64, **changes)
    marks = tmp_path / "teacher" / "tokenizer_config.json"  # as some write them, with ids of the whole vocabulary
    more = {
        "eos_token": {"content": "<eos>"},
        "chat_template": "{{ x }}",
        "added_tokens_decoder": {"9": {"content": "y"}},
    }
    marks.write_text(json.dumps(json.loads(marks.read_text()) | more))
    write_texts(tmp_path / "texts.jsonl")
    shape_and_layers = "vocab_size = 280\nhidden_size = 32\n[healing]\nhidden_weight = 0.5"
    compress(tmp_path, tmp_path / "run", {"cached": "live", "[healing]": shape_and_layers, **SHORT})
    folder = tmp_path / "run" / "checkpoint"
    ours = load_language_model(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "nurse reads quiet ward"
    ids = ours.tokenizer.encode(text).ids
    assert tokenizer(text)["input_ids"] == ids
    assert max(ids) < 280
    assert tokenizer.eos_token_id == theirs.config.eos_token_id == ours.tokenizer.token_to_id("<eos>")
    assert tokenizer.chat_template == "{{ x }}"
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits
        torch.testing.assert_close(ours.trunk(ours.trunk.embed(torch.tensor([ids]))), expected, atol=1e-3, rtol=0)
    assert "bits per byte" in (folder / "README.md").read_text().lower()
    assert (folder / "LICENSE").read_text() == "Do as you like.\n"
    out = tmp_path / "tiny.bundle"
    done = smallhold("bundle", "build", "--from", folder, "--name", "tiny", "--unsigned", "--out", out)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "changes",
    [
        {"cached": "on_policy", "[healing]": "vocab_size = 280\n[healing]\ncontinuation = 6\non_policy_share = 1.0"},
        {"[healing]": "[healing]\ndivergence = 'reverse_kl'\ntemperature = 2.0\noptimizer = 'muon'"},
        {
            "calibration": "rounding = {bits = 4, method = 'qat'}\ncalibration",
            "[healing]": "[healing]\nfrom_scratch = true",
        },
    ],
    ids=["on policy", "reverse", "qat"],
)  # fmt: skip
def test_every_way_of_healing_and_rounding_runs(changes: dict[str, str], world: Path, tmp_path: Path) -> None:
    summary = compress(world, tmp_path / "run", {**changes, **SHORT})
    bits = summary.bits_per_byte
    assert all(0 < value < 20 for value in bits.values()), bits
    if "qat" in str(changes):
        assert bits["healed"] > bits["pruned"], "the weights were thrown away"
        assert bits["rounded"] != bits["healed"]


@pytest.mark.parametrize("what", ["teacher", "corpus", "recipe"])
def test_a_folder_is_not_shared_with_another_run(what: str, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.jsonl", 40)
    write_model(tmp_path / "teacher")
    compress(tmp_path, tmp_path / "run", SHORT)
    changes = dict(SHORT)
    match what:
        case "teacher":
            write_model(tmp_path / "teacher", rms_norm_eps=1e-4)
        case "corpus":
            write_texts(tmp_path / "texts.jsonl", 41)
        case _:
            changes["5e-3"] = "4e-3"
    with pytest.raises(DataError, match="holds a run with another recipe, other data"):
        compress(tmp_path, tmp_path / "run", changes)


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(world: Path, tmp_path: Path, smallhold: Callable) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(recipe_text(world))
    before = sorted(world.rglob("*"))
    done = smallhold("compress", recipe, "--dry-run", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "50 steps over 12,800 tokens" in done.out
    plan = json.loads(smallhold("compress", recipe, "--dry-run", "--json").out)
    assert plan["cache_bytes"] <= 32 * plan["tokens"]
    assert sorted(world.rglob("*")) == before
    assert list(tmp_path.iterdir()) == [recipe]


def test_the_plan_counts_what_comes_out(
    world: Path, cached: LanguageSummary, tmp_path: Path, smallhold: Callable
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(recipe_text(world))
    plan = json.loads(smallhold("compress", recipe, "--dry-run", "--json").out)
    assert (plan["parameters"], plan["teacher_parameters"]) == (cached.parameters, cached.teacher_parameters)
    assert (plan["cache_bytes"], plan["tokens"]) == (cached.cache_bytes, cached.tokens)


def test_the_command_runs_offline_and_names_the_next(
    world: Path, tmp_path: Path, smallhold: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError(f"network: {arguments}")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    recipe = tmp_path / "r.toml"
    recipe.write_text(recipe_text(world, SHORT))
    done = smallhold("compress", recipe, "--out", tmp_path / "run", "--threads", "1")
    assert done.code == 0, done.err
    assert "bits per byte of held-out texts: teacher 0." in done.out
    assert f"next: smallhold bundle build --from {tmp_path}/run/checkpoint --bits 8 --name tiny" in done.err
    built = smallhold("bundle", "build", tmp_path / "run", "--out", tmp_path / "bundle")
    assert built.code != 0
    assert f"hint: smallhold bundle build --from {tmp_path}/run/checkpoint --name NAME" in built.err


def test_twins_are_made_again_and_gptq_ships_its_own(world: Path, tmp_path: Path, smallhold: Callable) -> None:
    recipe = tmp_path / "r.toml"
    method = {"calibration": "rounding = {bits = 4, method = 'gptq'}\ncalibration", **SHORT}
    recipe.write_text(recipe_text(world, method))
    done = smallhold("compress", recipe, "--out", tmp_path / "run", "--threads", "1")
    assert f"--from {tmp_path}/run/quantized-4 --bits 4" in done.err
    assert (tmp_path / "run" / "quantized-4" / "LICENSE").exists()
    again = smallhold("compress", tmp_path / "run", "--bits", "8")
    assert f"next: smallhold bundle build --from {tmp_path}/run/checkpoint --bits 8 --name NAME" in again.err


@pytest.mark.parametrize("words", [("--max-bytes", "4MB"), ("--pictures",)])
def test_what_is_for_sectors_is_refused(
    words: tuple[str, ...], world: Path, tmp_path: Path, smallhold: Callable
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(recipe_text(world))
    done = smallhold("compress", recipe, *words)
    assert done.code == 1
    assert f"{words[0]}: is for the recipe of a sector" in done.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers = 2": "num_hidden_layers = 4"}, "at most the teacher's 3, got 4"),
        ({"intermediate_size = 32": "intermediate_size = 33"}, "multiple of 32"),
        ({"window = 32": "window = 65"}, "corpus.window: expected at most the teacher's 64, got 65"),
        (
            {"[shape]": "[shape]\nnum_attention_heads = 4\nnum_key_value_heads = 1"},
            "4 heads cannot form 1 equal groups",
        ),
        ({"[healing]": "vocab_size = 100\n[healing]"}, "no room for"),
        ({"/teacher": "/nowhere"}, "there is no such directory"),
        ({"/texts.jsonl": "/nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"[healing]": "[healing]\nbytes_per_token = 2"}, "2 bytes a token hold"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    changes: dict[str, str], message: str, world: Path, tmp_path: Path
) -> None:
    with pytest.raises((DataError, RecipeError), match=message):
        compress(world, tmp_path / "run", changes)
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_that_cannot_be_trimmed_is_kept_or_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import Unigram

    write_texts(tmp_path / "texts.jsonl", 40)
    write_model(tmp_path / "teacher")
    pieces = [("<unk>", 0.0), ("<bos>", 0.0), *((chr(i), -3.0) for i in range(97, 123)), ("▁", -2.0)]
    tokenizer = Tokenizer(Unigram(pieces, 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    (tmp_path / "teacher" / "tokenizer.json").write_text(tokenizer.to_str())
    with pytest.raises(RecipeError, match="Unigram; others cannot be trimmed"):
        compress(tmp_path, tmp_path / "run", {"[healing]": "vocab_size = 290\n[healing]", **SHORT})
    assert compress(tmp_path, tmp_path / "run", SHORT).vocab_size == 300
