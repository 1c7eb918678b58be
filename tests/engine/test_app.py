"""An app: one executable file of engine, model and plan, which verifies itself at every start."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.engine.program import LONGEST_SECONDS, MODELS, Lines
from tests.engine_library import PROGRAM, build_engine

from smallhold.bundle.app import MAGIC
from smallhold.cli.main import main
from smallhold.device.bundle_files import write_bundle_zip

REQUEST = {"task": "triage", "text": "Red, itchy patches on both elbows for a month."}
KEYS = MODELS / "trusted_keys"


def made(bundle: Path, out: Path, *more: str) -> int:
    return main(["bundle", "app", str(bundle), "--out", str(out), "--trusted-keys", str(KEYS), *more])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build_engine()
    out = tmp_path_factory.mktemp("app") / "hospital"
    assert made(MODELS / "hospital", out) == 0
    return out


def run(app: Path, *words: str) -> subprocess.CompletedProcess[str]:
    said = json.dumps(REQUEST) + "\n"
    return subprocess.run(
        [str(app), *words], input=said, capture_output=True, text=True, timeout=LONGEST_SECONDS, cwd="/", env={}
    )


def test_an_app_needs_nothing_beside_it_and_says_what_the_program_says(app: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copy(app, moved)
    assert os.access(moved, os.X_OK)
    assert moved.stat().st_size <= 30_000_000
    done = run(moved)
    assert (done.returncode, done.stderr) == (0, "")
    with Lines(MODELS / "hospital") as program:
        assert json.loads(done.stdout)["answers"] == program.ask(**REQUEST)["answers"]
    assert run(moved, "--task", "triage").returncode == 0
    for words in ([str(MODELS / "hospital")], ["--trusted-keys", str(KEYS)], ["--host-has-verified"]):
        done = run(moved, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "of its own" in done.stderr


def test_a_bundle_in_one_file_makes_the_same_app(app: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "hospital.zip", tmp_path / "app"
    write_bundle_zip(MODELS / "hospital", archive)
    assert made(archive, out) == 0
    assert out.read_bytes() == app.read_bytes()


def test_an_app_with_a_changed_byte_does_not_start(app: Path, tmp_path: Path) -> None:
    whole, begin = app.read_bytes(), PROGRAM.stat().st_size
    rng = random.Random(1)
    changed = tmp_path / "changed"
    end = len(whole) - len(MAGIC)
    for place in [begin, end - 1, *(rng.randrange(begin, end) for _ in range(25))]:
        data = bytearray(whole)
        data[place] ^= 1 << rng.randrange(8)
        changed.write_bytes(data)
        changed.chmod(0o755)
        done = run(changed)
        assert (done.returncode, done.stdout) == (2, ""), place
        assert done.stderr.startswith("error: ")
    changed.write_bytes(whole[: begin + 1000] + whole[-32:])
    assert run(changed).returncode == 2


def test_what_is_no_genuine_bundle_becomes_no_app(
    app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "app"
    shutil.copytree(MODELS / "hospital", bundle)
    (bundle / "card.md").write_text("better")
    for words, said in (
        ([bundle], "card.md"),
        ([MODELS / "hospital", "--engine", str(tmp_path / "none")], "cannot be read"),
        ([MODELS / "hospital", "--engine", str(app)], "an app already"),
    ):
        assert made(Path(words[0]), out, *map(str, words[1:])) != 0
        assert said in capsys.readouterr().err
        assert not out.exists()
    empty = tmp_path / "nobody"
    empty.mkdir()
    assert main(["bundle", "app", str(MODELS / "hospital"), "--out", str(out), "--trusted-keys", str(empty)]) != 0
    assert "trust" in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    assert made(MODELS / "hospital", tmp_path / "folder") != 0
    assert [path.name for path in (tmp_path / "folder").iterdir()] == []
