"""The command line as a whole: help, usage, streams, exit codes."""

import json
import os
import re
import subprocess
import sys

import pytest

from smallhold.cli.main import VERBS, main


def ended(words, capsys):
    """Exit code, stdout and stderr of a command in this process."""
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def process(*words, stdin=subprocess.DEVNULL, **environment):
    return subprocess.run(
        [sys.executable, "-m", "smallhold.cli.main", *words],
        env={**os.environ, **environment},
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_ends_with_an_example_that_parses(verb, capsys):
    code, out, err = ended([verb, "--help"], capsys)
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: smallhold {verb} ")
    assert VERBS[verb] in out
    example = out[out.rindex("example: ") + len("example: ") :].strip()
    assert f"smallhold {verb}" in example
    for command in re.findall(r"smallhold ([^|&]+)", example.replace("\n", " ")):
        _, _, err = ended([*command.split(), "--help"], capsys)
        assert err == "", command


def test_without_arguments_the_help_is_shown_and_the_usage_was_wrong(capsys):
    code, out, _ = ended([], capsys)
    assert code == 2
    assert all(verb in out for verb in VERBS)
    assert "not a medical device" in out


def test_an_unknown_verb_lists_the_known_ones(capsys):
    code, out, err = ended(["relpay", "x"], capsys)
    assert (code, out) == (2, "")
    assert "invalid choice: 'relpay'" in err and "replay" in err


@pytest.mark.parametrize("words", [["compress"], ["bundle"], ["replay", "--patients", "many"], ["doctor", "--fly"]])
def test_wrong_usage_exits_with_two_and_leaves_stdout_empty(words, capsys):
    code, out, err = ended(words, capsys)
    assert (code, out) == (2, "")
    assert err.startswith("usage: smallhold ") and "smallhold" in err.splitlines()[-1]


def test_the_version_is_said(capsys):
    code, out, _ = ended(["--version"], capsys)
    assert code == 0 and re.fullmatch(r"smallhold \d+\.\d+\.\S+\n", out)


@pytest.mark.parametrize("words", [["data", "list"], ["teach", "list"], ["doctor"], ["device", "init"]])
@pytest.mark.parametrize("place", [1, 2])
def test_json_alone_comes_to_stdout_wherever_the_word_stands(words, place, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("SMALLHOLD_HOME", str(tmp_path / "home"))
    code, out, _ = ended([*words[:place], "--json", *words[place:]], capsys)
    assert code == 0
    json.loads(out)


def test_an_error_is_one_line_and_a_hint_without_a_traceback(tmp_path):
    done = process("bundle", "verify", str(tmp_path / "gone"))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"error: no bundle at {tmp_path / 'gone'}: expected a directory or a ZIP file, found neither\n"
    )
    done = process("teach", "train", "icu-rsk")
    assert (done.returncode, done.stdout) == (1, "")
    known = "base, base-languages, finance, hospital, hospital-small, icu-risk, label-support-intent, specialists"
    assert done.stderr == f"error: recipe 'icu-rsk': expected a .toml file or one of {known}\n"


def test_a_recipe_with_a_typo_is_refused_before_anything_is_written(tmp_path, capsys):
    (tmp_path / "r.toml").write_text('[task]\nsector = "hospital"\nname = "icu-risk"\n[bundle]\nnmae = "x"\n')
    out = tmp_path / "run"
    code, _, err = ended(["teach", "train", str(tmp_path / "r.toml"), "--out", str(out)], capsys)
    assert code == 1
    assert err == f"error: recipe {tmp_path / 'r.toml'}, bundle: unknown key 'nmae'; did you mean 'name'?\n"
    assert not out.exists()


def test_a_reader_that_goes_away_leaves_no_traceback():
    command = f"{sys.executable} -m smallhold.cli.main data list | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env={**os.environ})
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    from smallhold.cli.output import paint

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert paint("late", "red") == "\x1b[31mlate\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("late", "red") == "late"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert paint("late", "red") == "late"


def test_a_light_verb_loads_no_runtime():
    code = "import sys, smallhold.cli.main as m; m.main(['data', 'list']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    for heavy in ("'torch'", "'onnxruntime'", "'sklearn'", "'numpy'"):
        assert heavy not in done.stderr


def test_an_absent_extra_is_named_with_the_command_that_brings_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)  # what Python does when it is not installed
    for name in [name for name in sys.modules if name.startswith(("smallhold.teach", "smallhold.learn"))]:
        monkeypatch.delitem(sys.modules, name)
    code, out, err = ended(["teach", "train", "icu-risk", "--out", str(tmp_path / "run")], capsys)
    assert (code, out) == (1, "")
    assert "needs the Python module 'torch', which is not installed." in err
    assert err.endswith("hint: pip install 'smallhold[train]'\n")
