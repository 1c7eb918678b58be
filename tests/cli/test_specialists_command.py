"""The words of specialists on the command line: what is refused, and how."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="training and evaluation need the extra 'train'")


def test_a_bundle_without_specialists_says_how_to_make_some(smallhold: Callable[..., Any], small_bundle: Any) -> None:
    done = smallhold("evaluate", small_bundle.path, "--trusted-keys", small_bundle.trusted_keys, "--specialists")
    assert done.code == 1
    assert "has no specialist, only icu-risk" in done.err and "smallhold teach train specialists" in done.err


@pytest.mark.parametrize("extra", [["--beside", "x"], ["--run", "x"], ["--split", "all"], ["--simulated"]])
def test_what_belongs_to_one_task_is_refused(
    smallhold: Callable[..., Any], small_bundle: Any, extra: list[str]
) -> None:
    done = smallhold("evaluate", small_bundle.path, "--specialists", *extra)
    assert done.code == 1 and "--specialists: " in done.err


def test_specialists_are_not_taught_by_simulated_patients(smallhold: Callable[..., Any], tmp_path: Path) -> None:
    done = smallhold("teach", "train", "specialists", "--simulated", "--out", tmp_path / "run")
    assert done.code == 1 and "on the training split of real patients" in done.err
    assert not (tmp_path / "run").exists()


def test_a_trunk_that_nobody_trusts_is_not_trained_over(
    smallhold: Callable[..., Any], small_bundle: Any, tmp_path: Path
) -> None:
    (tmp_path / "keys").mkdir()
    done = smallhold(
        "teach", "train", "specialists", "--trunk", small_bundle.path, "--trusted-keys", tmp_path / "keys", "--out",
        tmp_path / "run",
    )  # fmt: skip
    assert done.code == 1 and "error:" in done.err
    assert not (tmp_path / "run").exists()
