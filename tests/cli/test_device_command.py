import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smallhold.cli import device
from smallhold.device.home import Home
from smallhold.device.install import install
from smallhold.device.manifest import FileEntry, Manifest
from smallhold.device.trust import sign_manifest
from smallhold.errors import BundleError, InstallError
from smallhold.records import sha256_hex


def run(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--home", type=Path, default=None)
    device.configure(parser)
    return device.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def home(tmp_path, capsys):
    assert run("init", "--home", tmp_path / "home") == 0
    capsys.readouterr()
    return Home(tmp_path / "home")


@pytest.fixture
def bundle_of(tmp_path, home):
    """bundle_of(version) writes a bundle without a model, signed by the home's own publisher."""

    def write(version):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "card.md").write_bytes(b"# Card")
        manifest = Manifest(
            name="icu-risk",
            version=version,
            created="2025-01-01T00:00:00Z",
            expires=None,
            minimum_runtime="0.0.0",
            base_digest="0" * 64,
            context_length=8,
            tasks=("icu-risk",),
            is_simulated=True,
            training_data=("simulated_ward",),
            files={"card.md": FileEntry(sha256_hex(b"# Card"), 6, "card", None)},
        )
        (folder / "manifest.json").write_bytes(manifest.to_bytes())
        (folder / "manifest.dsse.json").write_bytes(sign_manifest(manifest.to_bytes(), home.publisher_key()))
        return folder

    return write


def test_init_prints_the_home_and_the_next_command(tmp_path, capsys):
    assert run("init", "--json", "--home", tmp_path / "x") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["home"] == str(tmp_path / "x")
    assert err == "next: smallhold device install BUNDLE\n"


def test_the_home_may_be_named_before_the_action_too(tmp_path, capsys):
    assert run("--json", "--home", tmp_path / "y", "init") == 0
    assert json.loads(capsys.readouterr().out)["home"] == str(tmp_path / "y")


def test_status_of_a_new_home_and_of_one_with_two_bundles(home, bundle_of, capsys):
    assert run("status", "--home", home.path) == 0
    assert "empty" in capsys.readouterr().out
    for version in ("1.0.0", "1.1.0"):
        install(home, bundle_of(version), now=datetime(2025, 6, 1, tzinfo=UTC), check=lambda _: None)
    assert run("status", "--home", home.path) == 0
    out, err = capsys.readouterr()
    assert "slot b    active  icu-risk 1.1.0 (icu-risk, simulated data)" in out
    assert "slot a            icu-risk 1.0.0" in out
    assert "next: smallhold device rollback" in err
    assert run("status", "--json", "--home", home.path) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["active"], shown["highest_version"], shown["slots"]["a"]["bundle"]["version"]) == (
        "b",
        "1.1.0",
        "1.0.0",
    )


def test_a_bundle_that_cannot_decide_is_not_installed(home, bundle_of):
    # Genuine and whole, but there is no model in it: the real check of this device refuses it.
    with pytest.raises(InstallError, match="genuine but failed its check"):
        run("install", bundle_of("1.0.0"), "--home", home.path)
    with pytest.raises(InstallError, match="nothing to roll back to"):
        run("rollback", "--home", home.path)
    with pytest.raises(BundleError, match="no bundle at"):
        run("install", home.path / "absent", "--home", home.path)


def test_wrong_usage_exits_with_two(home):
    for words in ((), ("install",), ("fly",)):
        with pytest.raises(SystemExit) as caught:
            run(*words)
        assert caught.value.code == 2
