"""The engine's tokenizer gives the ids of the library `tokenizers`, on our vocabulary and every pre-tokenizer."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from smallhold.bundle.gguf_tokenizer import tokenizer_of_gguf

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "engine"
NAMES = ("gpt-2", "smollm", "llama-bpe", "qwen2")

if shutil.which("cargo") is None:
    pytest.skip("the engine is built with cargo, which is not installed", allow_module_level=True)


class Encoder:
    """The example `encode` as a running process."""

    def __init__(self, *words: object) -> None:
        self.process = subprocess.Popen([str(w) for w in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def encode(self, text: str) -> list[int]:
        data = text.encode()
        self.process.stdin.write(struct.pack("<I", len(data)) + data)
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line.endswith(b"\n"), "the encoder has ended"
        return [int(word) for word in line.split()]

    def close(self) -> int:
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def binary() -> Path:
    command = ["cargo", "build", "--release", "--offline", "--quiet", "--example", "encode", "--message-format=json"]
    done = subprocess.run(command, cwd=ENGINE, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    messages = map(json.loads, done.stdout.splitlines())
    made = [m["executable"] for m in messages if m.get("target", {}).get("name") == "encode"]
    return Path(made[-1])


@pytest.fixture(scope="module")
def base() -> Tokenizer:
    return Tokenizer.from_file(str(ROOT / "models" / "base" / "tokenizer.json"))


@pytest.fixture(scope="module")
def metadata(base: Tokenizer) -> dict:
    """What a GGUF file says of the tokenizer, `pre` left open."""
    controls = {token.content for token in base.get_added_tokens_decoder().values()}
    tokens = [base.id_to_token(number) for number in range(base.get_vocab_size())]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in controls else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in json.loads(base.to_str())["model"]["merges"]],
    }


@pytest.fixture(scope="module")
def open_encoder(
    binary: Path, metadata: dict, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Encoder]]:
    """open_encoder("gpt-2", "text") starts one, or gives the one that runs."""
    folder, opened = tmp_path_factory.mktemp("vocabulary"), {}
    tokens = zip(metadata["tokenizer.ggml.token_type"], metadata["tokenizer.ggml.tokens"], strict=True)
    (folder / "tokens").write_text("".join(f"{kind} {token}\n" for kind, token in tokens))
    (folder / "merges").write_text("".join(f"{merge}\n" for merge in metadata["tokenizer.ggml.merges"]))

    def start(pre: str, mode: str) -> Encoder:
        if (pre, mode) not in opened:
            opened[pre, mode] = Encoder(binary, folder / "tokens", folder / "merges", pre, mode)
        return opened[pre, mode]

    yield start
    assert [encoder.close() for encoder in opened.values()] == [0] * len(opened)


@pytest.fixture(scope="module")
def library(metadata: dict) -> dict[str, Tokenizer]:
    return {pre: tokenizer_of_gguf(Path("model.gguf"), {**metadata, "tokenizer.ggml.pre": pre}) for pre in NAMES}


@pytest.fixture(scope="module")
def same(open_encoder: Callable[[str, str], Encoder], library: dict[str, Tokenizer]) -> Callable[..., None]:
    """same(text) compares both modes; qwen2's library tokenizer normalizes, the engine leaves that to its caller."""

    def compare(text: str, names: tuple[str, ...] = NAMES) -> None:
        for pre in names:
            given_text = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
            for mode in ("text", "parse"):
                library[pre].encode_special_tokens = mode == "text"
                expected = library[pre].encode(given_text, add_special_tokens=False).ids
                assert open_encoder(pre, mode).encode(given_text) == expected, (pre, mode, text[:200])

    return compare


def test_our_own_tokenizer_file_is_met_on_the_docs_and_sources(
    open_encoder: Callable[[str, str], Encoder], base: Tokenizer
) -> None:
    base.encode_special_tokens = True
    files = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py"), *(ENGINE / "src").rglob("*.rs")]
    texts = [path.read_text(encoding="utf-8") for path in sorted(files)]
    lines = [line for text in texts for line in text.splitlines(keepends=True)][:6000]
    assert len(lines) > 3000
    encoder = open_encoder("gpt-2", "text")
    for text in [*lines, *texts]:
        assert encoder.encode(text) == base.encode(text, add_special_tokens=False).ids, text[:200]


def test_our_own_tokenizer_file_is_met_where_control_tokens_are_parsed(
    open_encoder: Callable[[str, str], Encoder], base: Tokenizer
) -> None:
    base.encode_special_tokens = False
    names = [token.content for token in base.get_added_tokens_decoder().values()]
    text = "".join(f"{name} or{name}<{name[:-1]} {name}\n" for name in names)
    ids = open_encoder("gpt-2", "parse").encode(text)
    assert ids == base.encode(text, add_special_tokens=False).ids
    assert {base.token_to_id(name) for name in names} <= set(ids)
    assert not {base.token_to_id(name) for name in names} & set(open_encoder("gpt-2", "text").encode(text))


ALPHABETS = (
    st.characters(max_codepoint=0x7F),
    st.characters(min_codepoint=0x80, max_codepoint=0x24F),  # Latin
    st.characters(min_codepoint=0x400, max_codepoint=0x52F),  # Cyrillic
    st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF),  # Chinese
    st.characters(min_codepoint=0x300, max_codepoint=0x36F),  # combining marks
    st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF),  # pictures
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("\t\n\v\f\r \x85\xa0\u1680\u180e\u2000\u200b\u2028\u2029\u202f\u205f\u3000\ufeff\x1c\x1f"),
    st.sampled_from("0123456789٣४Ⅷ½²"),
    st.sampled_from("'’sStTdDmMlLvVrReEſßK"),
)
PIECES = st.one_of(
    *(st.text(alphabet, min_size=1, max_size=8) for alphabet in ALPHABETS),
    st.sampled_from(["<bos>", "<pad", "<hour:01>", "<pH:09><pH:10>", "  ", "\r\n", "\n \n", " '", "'ll", "Don't"]),
)


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(pieces=st.lists(PIECES, max_size=20))
def test_random_texts_of_many_scripts(same: Callable[..., None], pieces: list[str]) -> None:
    same("".join(pieces))


def test_every_character_is_of_the_same_class(same: Callable[..., None]) -> None:
    # Beside a letter, a digit, a sign and a space each class is cut in another way.
    points = [p for p in (*range(0x3000), *range(0x3000, sys.maxunicode, 61)) if not 0xD800 <= p < 0xE000]
    sample = [chr(point) for point in points]
    for start in range(0, len(sample), 4000):
        same("".join(f"a{c}1{c}!{c} {c}\n" for c in sample[start : start + 4000]), ("gpt-2", "llama-bpe"))


def test_very_long_words(same: Callable[..., None]) -> None:
    for word in ("a", "ab", "na", "протокол", "日本", "=", " ", "\n", "0", "e\u0301", "the", "<pad", "' "):
        same(word * (20_000 // len(word)), ("gpt-2", "llama-bpe"))
        for length in range(40, 60):  # either side of where the engine changes its way of merging
            same((word * length)[:length], ("gpt-2",))
    same("internationalization" * 50_000, ("gpt-2",))


def test_a_damaged_vocabulary_is_refused_in_words(binary: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("1 a\n1 a\n")
    (tmp_path / "merges").write_text("")
    words = [binary, tmp_path / "tokens", tmp_path / "merges", "gpt-2", "text"]
    done = subprocess.run(words, input=b"", capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.decode() == 'encode: tokenizer: token "a" is there twice, as 0 and 1\n'


def test_the_table_of_characters_is_what_its_script_writes() -> None:
    script = ENGINE / "tools" / "unicode_tables.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr or f"run {script}"
