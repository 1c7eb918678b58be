from pathlib import Path

from smallhold.cli.main import VERBS
from smallhold.cli.reference import main, render_reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_page_about_the_command_line_is_current(capsys):
    assert main(["--check", str(PAGE)]) == 0, capsys.readouterr().err


def test_every_verb_action_and_option_is_on_it():
    page = render_reference()
    assert all(f"## smallhold {verb}\n" in page for verb in VERBS)
    assert "### smallhold bundle verify" in page
    assert "| `--split {train,calibration,validation,test,all}` |" in page
    assert "| `--out BUNDLE` | a directory, or a file ending in .zip; default with --from: NAME.bundle |" in page


def test_a_page_that_has_drifted_is_told_and_left_alone(tmp_path, capsys):
    page = tmp_path / "cli.md"
    assert main(["--check", str(page)]) == 1
    assert main([str(page)]) == 0
    assert main(["--check", str(page)]) == 0
    page.write_text(page.read_text() + "by hand\n")
    capsys.readouterr()
    assert main(["--check", str(page)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"error: {page} does not describe the command line as it is\nhint: python -m smallhold.cli.reference {page}\n"
    )
    assert page.read_text().endswith("by hand\n")
