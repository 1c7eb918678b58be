import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smallhold.device.bundle_files import open_bundle_files, write_bundle_zip
from smallhold.device.home import Home
from smallhold.device.install import active_bundle, install, rollback, status
from smallhold.device.trust import load_trusted_keys, save_public_key, verify_bundle
from smallhold.errors import ExpiredError, InstallError, IntegrityError, RollbackError, SignatureError


def accept(_: Path) -> None:
    pass


@pytest.fixture
def device(home, key, now):
    """install, rollback and the version that would boot, on a device that trusts the test key."""
    save_public_key(key.public_key(), home.trust / "test.pem")

    class Device:
        slots = home.slots

        def install(self, source, check=accept, **options):
            return install(home, source, now=now, check=check, runtime_version="0.1.0", **options)

        def rollback(self, check=accept, at=now):
            return rollback(home, now=at, check=check, runtime_version="0.1.0")

        def status(self):
            return status(home)

        def booted_version(self):
            return booted_version(home)

    return Device()


def booted_version(home: Home) -> str:
    files = open_bundle_files(active_bundle(home))
    trusted = load_trusted_keys(home.trust)
    return verify_bundle(files, trusted, now=datetime(2025, 6, 1, tzinfo=UTC), runtime_version="0.1.0").version


def test_a_device_without_a_bundle_says_so(device, home, tmp_path):
    assert device.status().active is None
    with pytest.raises(InstallError, match="no bundle is installed"):
        active_bundle(home)
    with pytest.raises(InstallError, match="nothing to roll back to"):
        device.rollback()
    with pytest.raises(InstallError, match="has no slots"):
        install(Home(tmp_path / "absent"), tmp_path, now=datetime.now(UTC), check=accept)


def test_installs_alternate_between_two_slots(device, build, home):
    for version, slot in (("1.0.0", "a"), ("1.1.0", "b"), ("1.2.0", "a")):
        assert device.install(build(version, version=version)).version == version
        assert device.booted_version() == version
        assert active_bundle(home) == home.slots / slot
    shown = device.status()
    assert (shown.active, shown.can_roll_back, shown.highest_version) == ("a", True, "1.2.0")
    assert [slot.manifest.version for slot in shown.slots] == ["1.2.0", "1.1.0"]
    assert sorted(path.name for path in home.slots.iterdir()) == ["a", "b", "lock", "state.json"]


def test_a_single_file_is_unpacked(device, build, tmp_path, home):
    source = build()
    write_bundle_zip(source, tmp_path / "bundle.zip")
    device.install(tmp_path / "bundle.zip")
    for path in source.rglob("*"):
        if path.is_file():
            assert (active_bundle(home) / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_the_check_sees_the_verified_copy_and_not_the_source(device, build):
    source, seen = build(), []
    device.install(source, check=seen.append)
    assert len(seen) == 1
    assert seen[0] != source
    assert seen[0].parent == device.slots


@pytest.mark.parametrize("error", [RuntimeError("no decision"), MemoryError(), KeyError("x")])
def test_a_failed_check_leaves_the_old_bundle_active(device, build, error):
    device.install(build("old", version="1.0.0"))
    before = sorted(path.name for path in device.slots.rglob("*"))

    def refuse(_: Path) -> None:
        raise error

    with pytest.raises(InstallError, match=r"1\.1\.0 is genuine but failed its check"):
        device.install(build("new", version="1.1.0"), check=refuse)
    assert device.booted_version() == "1.0.0"
    assert device.status().highest_version == "1.0.0"
    assert sorted(path.name for path in device.slots.rglob("*")) == before


def test_an_altered_source_changes_nothing(device, build):
    device.install(build("old", version="1.0.0"))
    source = build("new", version="1.1.0")
    (source / "card.md").write_bytes(b"?")
    with pytest.raises(IntegrityError, match=r"card\.md"):
        device.install(source)
    assert device.booted_version() == "1.0.0"


def test_what_happens_to_the_source_after_the_copy_does_not_matter(device, build):
    source = build()
    device.install(source, check=lambda _: (source / "card.md").write_bytes(b"evil") and None)
    assert device.booted_version() == "1.2.3"


def test_an_older_bundle_is_refused_even_after_a_rollback(device, build):
    oldest, middle = build("0", version="0.9.0"), build("1", version="1.0.0")
    device.install(middle)
    with pytest.raises(RollbackError, match=r"0\.9\.0 is older than 1\.0\.0"):
        device.install(oldest)
    device.install(build("2", version="2.0.0"))
    assert device.rollback().version == "1.0.0"
    assert device.booted_version() == "1.0.0"
    # The high-water mark did not fall with the rollback.
    with pytest.raises(RollbackError, match=r"1\.5\.0 is older than 2\.0\.0"):
        device.install(build("15", version="1.5.0"))
    with pytest.raises(RollbackError, match=r"1\.0\.0 is older than 2\.0\.0"):
        device.install(middle)


def test_rollback_twice_returns_to_the_newer_bundle(device, build):
    device.install(build("1", version="1.0.0"))
    device.install(build("2", version="2.0.0"))
    assert [device.rollback().version, device.rollback().version] == ["1.0.0", "2.0.0"]


def test_the_newest_bundle_can_be_installed_again_after_a_rollback(device, build):
    device.install(build("1", version="1.0.0"))
    newest = build("2", version="2.0.0")
    device.install(newest)
    device.rollback()
    assert device.install(newest).version == "2.0.0"
    assert device.rollback().version == "1.0.0"


def test_installing_the_active_bundle_keeps_the_one_to_return_to(device, build):
    newest = build("2", version="2.0.0")
    device.install(build("1", version="1.0.0"))
    device.install(newest)
    device.install(newest)
    assert device.rollback().version == "1.0.0"


def test_installing_the_active_bundle_again_mends_it(device, build, home):
    source = build()
    device.install(source)
    (active_bundle(home) / "card.md").write_bytes(b"bit rot")
    device.install(source)
    assert device.booted_version() == "1.2.3"


def test_rollback_verifies_and_checks_what_it_returns_to(device, build, now):
    device.install(build("1", version="1.0.0", expires="2025-12-31T00:00:00Z"))
    device.install(build("2", version="2.0.0"))
    with pytest.raises(ExpiredError):
        device.rollback(at=now + timedelta(days=365))
    with pytest.raises(InstallError, match="failed its check"):
        device.rollback(check=lambda _: 1 / 0)
    (device.slots / "a" / "card.md").write_bytes(b"?")
    with pytest.raises(IntegrityError):
        device.rollback()
    assert device.booted_version() == "2.0.0"


def test_an_untrusted_bundle_is_refused(device, build, home):
    for path in home.trust.iterdir():
        path.unlink()
    with pytest.raises(SignatureError, match="trusted are none"):
        device.install(build())


def test_a_second_install_waits_and_gives_up_at_its_deadline(device, build):
    descriptor = os.open(device.slots / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    started = time.monotonic()
    with pytest.raises(InstallError, match=r"another install is running .* waited 0\.2 s"):
        device.install(build(), lock_timeout_seconds=0.2)
    assert 0.2 <= time.monotonic() - started < 5
    os.close(descriptor)
    device.install(build())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"active":"c"}',
        b'{"active":"a"}',
        b'{"format_version":2}',
        b'{"surprise":1}',
        b'{"active":"a","can_roll_back":true,"format_version":1,"highest_digest":"x","highest_version":"new"}',
    ],
)
def test_a_damaged_state_is_named_and_not_guessed(device, data):
    (device.slots / "state.json").write_bytes(data)
    with pytest.raises(InstallError, match=r"state\.json is damaged"):
        device.status()


def test_an_unreadable_slot_is_shown(device, build):
    device.install(build())
    (device.slots / "a" / "manifest.json").write_bytes(b"?")
    assert "canonical" in device.status().slots[0].problem or "not JSON" in device.status().slots[0].problem


_INSTALL_FOREVER = """
import sys
from datetime import datetime, UTC
from pathlib import Path
from smallhold.device.home import Home
from smallhold.device.install import install, rollback
home, sources = Home(Path(sys.argv[1])), [Path(path) for path in sys.argv[2:]]
options = dict(now=datetime(2025, 6, 1, tzinfo=UTC), check=lambda path: None, runtime_version="0.1.0")
print("ready", flush=True)
for source in sources:
    print(install(home, source, **options).version, flush=True)
    if source is not sources[0]:
        rollback(home, **options)
        rollback(home, **options)
"""


def test_a_kill_at_any_moment_leaves_a_device_that_boots(device, build, home):
    versions = [f"1.{number}.0" for number in range(80)]
    sources = [build(version, version=version) for version in versions]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    moments = random.Random(7)
    done, kills = 0, 0
    device.install(sources[0])
    while kills < 12 and done < len(sources) - 2:
        process = subprocess.Popen(
            [sys.executable, "-c", _INSTALL_FOREVER, str(home.path), *map(str, sources[done:])],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.0, 0.04))
        process.send_signal(signal.SIGKILL)
        acknowledged = process.stdout.read().split()
        process.wait(timeout=10)
        kills += 1
        # Everything that was reported is there; at most the next one or the one before (mid-rollback) runs instead.
        reached = versions.index(acknowledged[-1]) if acknowledged else done
        assert versions.index(booted_version(home)) in (reached - 1, reached, reached + 1)
        highest = device.status().highest_version
        assert highest in versions[reached : reached + 2]
        done = versions.index(highest)
    # A later install clears what the kills left behind.
    device.install(sources[-1])
    assert device.booted_version() == versions[-1]
    assert sorted(path.name for path in home.slots.iterdir()) == ["a", "b", "lock", "state.json"]


def test_a_crash_before_any_single_step_on_the_disk_leaves_a_device_that_boots(device, build, home, now, tmp_path):
    small = {"tasks/icu-risk.json": b"{}"}
    device.install(build("0", version="1.0.0", content=small))
    device.install(build("1", version="1.1.0", content=small))
    newest = build("2", version="1.2.0", content=small)
    template = tmp_path / "template"
    home.path.rename(template)
    is_done, step, seen = False, 0, set()
    while not is_done:
        shutil.rmtree(home.path, ignore_errors=True)
        shutil.copytree(template, home.path)
        is_done = not crash_at(step, lambda: device.install(newest))
        booted = device.booted_version()
        seen.add((booted, device.status().can_roll_back))
        if device.status().can_roll_back:
            assert device.rollback().version == ("1.0.0" if booted == "1.1.0" else "1.1.0")
        assert device.install(newest).version == "1.2.0"
        assert sorted(path.name for path in home.slots.iterdir()) == ["a", "b", "lock", "state.json"]
        step += 1
    assert step > 30
    # Old bundle with and without one to return to, and new bundle: nothing else was ever seen.
    assert seen == {("1.1.0", True), ("1.1.0", False), ("1.2.0", True)}


def crash_at(step, action) -> bool:
    """Run `action` in a child that dies before its step-th opening, renaming, making or removing of a file."""
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event, _):
            nonlocal count
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir"):
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        sys.addaudithook(watch)
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    _, result = os.waitpid(child, 0)
    assert result in (0, signal.SIGKILL)
    return result != 0
