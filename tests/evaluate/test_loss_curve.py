from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from smallhold.errors import InputError, MissingExtraError
from smallhold.evaluate.loss_curve import loss_curve

TRAINING = [(step * 1e6, 9.0 / step**0.2) for step in range(1, 40)]
VALIDATION = {"English": [(1e6, 2.5), (2e7, 1.6), (3.9e7, 1.4)], "Russian": [(1e6, 1.9), (3.9e7, 1.1)]}


def test_the_same_curve_is_the_same_bytes_also_in_a_new_process(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, the extra 'report'")
    code = (
        "import sys; from pathlib import Path; from smallhold.evaluate.loss_curve import loss_curve\n"
        f"for path in sys.argv[1:]: loss_curve({TRAINING!r}, Path(path), validation={VALIDATION!r})"
    )
    paths = [tmp_path / f"theirs.{kind}" for kind in ("svg", "png")]
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)
    changed = {**VALIDATION, "Russian": [(1e6, 1.9), (3.9e7, 1.3)]}
    for path in paths:
        ours = path.with_stem("ours")
        loss_curve(TRAINING, ours, validation=VALIDATION)
        assert ours.read_bytes() == path.read_bytes()
        loss_curve(TRAINING, ours, validation=changed)
        assert ours.read_bytes() != path.read_bytes()


def test_the_drawing_stands_alone_on_white(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, the extra 'report'")
    loss_curve(TRAINING, tmp_path / "curve.svg", validation=VALIDATION, title="Base model")
    text = (tmp_path / "curve.svg").read_text()
    ElementTree.fromstring(text)
    assert "#ffffff" in text
    assert "dc:date" not in text
    assert "http://www.w3.org" in text
    assert not [part for part in text.split('href="')[1:] if not part.startswith("#")]  # nothing from elsewhere
    for label in ("Base model", "training: 4.325 at the end", "English: 1.400 at the end", "Russian: 1.100 at the end"):
        assert f"<!-- {label} -->" in text


def test_a_run_without_validation_has_one_panel(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, the extra 'report'")
    loss_curve(TRAINING, tmp_path / "one.svg")
    loss_curve(TRAINING, tmp_path / "two.svg", validation=VALIDATION)
    one, two = ((tmp_path / name).read_text() for name in ("one.svg", "two.svg"))
    assert ('id="axes_2"' in one, 'id="axes_2"' in two) == (False, True)
    assert "<!-- loss, nats per token -->" in one
    assert "<!-- tokens trained on, millions -->" in one


def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"written as \.svg or \.png, got \.pdf"):
        loss_curve(TRAINING, tmp_path / "curve.pdf")
    for training, validation in (([], None), (TRAINING, {"English": []})):
        with pytest.raises(InputError, match="at least one point for each curve"):
            loss_curve(training, tmp_path / "curve.svg", validation=validation)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(MissingExtraError) as caught:
        loss_curve(TRAINING, tmp_path / "curve.svg")
    assert caught.value.hint == "pip install 'smallhold[report]'"
