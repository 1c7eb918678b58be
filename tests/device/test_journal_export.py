import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.journal import Journal
from smallhold.device.journal_export import Disclosure, export_for_inspector, verify_folder
from smallhold.device.journal_verify import ProblemKind, verify
from smallhold.errors import InputError, JournalError

NOW = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path, key) -> Path:
    made, now = tmp_path / "journal.db", [0]
    with Journal.open(made, key=key, clock=lambda: now[0]) as journal:
        for number in range(90):
            now[0] = number * 1000
            patient = f"patient-{number % 3}"
            text = json.dumps({"of": patient, "n": number}, separators=(",", ":"))
            journal.append("step", text.encode(), patient=None if number % 10 == 0 else patient)
        journal.append("bytes", b"\xff\x00", patient="patient-1")
        journal.erase(4, "asked")
        journal.erase_patient("patient-2", "asked")
    return made


def payloads(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "payloads.jsonl").read_bytes().splitlines()]


def test_a_whole_export_proves_itself_without_the_device(path, key, tmp_path) -> None:
    out = tmp_path / "out"
    counts = export_for_inspector(path, out, key, now=NOW)
    report, used = verify_folder(out)
    assert report.is_intact and used.public_bytes_raw() == key.public_key().public_bytes_raw()
    whole = verify(path, key.public_key())
    assert (report.entries, report.erased, report.checkpoint) == (93, whole.erased, whole.checkpoint)
    # 27 of patient 2's 30 were sealed, and one other was erased alone; erasures themselves are shown as they are.
    assert (counts.entries, counts.disclosed, counts.withheld, counts.erased) == (93, 63, 0, 28)
    shown = payloads(out)
    assert len(shown) == 63 and shown[0]["payload"] == {"of": "patient-0", "n": 0}
    assert shown[-1]["payload_base64"] == "/wA="
    cover = (out / "README.md").read_text()
    assert "63 (everybody, the beginning to the end)" in cover and "medical device" in cover
    assert all(file.stat().st_mode & 0o077 == 0 for file in out.iterdir() if file.name != "device.pem")


def test_a_part_is_shown_and_the_rest_is_only_withheld(path, key, tmp_path) -> None:
    out = tmp_path / "out"
    shown = Disclosure(patient="patient-1", from_ms=30_000, to_ms=60_000)
    counts = export_for_inspector(path, out, key, disclosure=shown, now=NOW)
    report, _ = verify_folder(out, key.public_key())
    assert report.is_intact and report.withheld == counts.withheld == 63 - 9
    assert {item["payload"]["of"] for item in payloads(out)} == {"patient-1"} and len(payloads(out)) == 9
    assert all(30_000 <= item["t_ms"] < 60_000 for item in payloads(out))
    data = b"".join(file.read_bytes() for file in out.iterdir())
    assert b"patient-0" not in data and b"1970-01-01 00:00:30" in data
    # What is shown later is that very thing: both exports chain the same digests.
    whole = tmp_path / "whole"
    export_for_inspector(path, whole, key, now=NOW)
    digests = [
        [
            json.loads(line)["entry"]["payload_digest"]
            for line in (folder / "journal.jsonl").read_bytes().splitlines()[1:]
        ]
        for folder in (out, whole)
    ]
    assert digests[0] == digests[1]


def redo_sums(out: Path) -> None:
    names = [line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()]
    lines = [f"{hashlib.sha256((out / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (out / "SHA256SUMS").write_text("".join(lines))


def test_what_is_altered_is_found_even_with_new_digests(path, key, tmp_path) -> None:
    out = tmp_path / "out"
    export_for_inspector(path, out, key, now=NOW)
    saved = {file: file.read_bytes() for file in out.iterdir()}

    def alter(name: str, old: bytes, new: bytes) -> None:
        for file, data in saved.items():
            file.write_bytes(data)
        assert old in saved[out / name]
        (out / name).write_bytes(saved[out / name].replace(old, new, 1))

    alter("payloads.jsonl", b'"n":7', b'"n":8')
    with pytest.raises(JournalError, match=r"payloads.jsonl was altered"):
        verify_folder(out)
    redo_sums(out)
    with pytest.raises(JournalError, match="the payload of entry 7 is not the chained one"):
        verify_folder(out)
    alter("payloads.jsonl", saved[out / "payloads.jsonl"].splitlines(keepends=True)[-1], b"")
    redo_sums(out)
    with pytest.raises(JournalError, match="the payload of entry 90 is not the chained one"):
        verify_folder(out)
    alter("data-keys.json", b'":"', b'":"00')
    redo_sums(out)
    with pytest.raises(JournalError):
        verify_folder(out)
    alter("journal.jsonl", b'"kind":"step"', b'"kind":"stop"')
    redo_sums(out)
    assert verify_folder(out)[0].problem.kind is ProblemKind.ALTERED_ENTRY
    alter("README.md", b"Journal", b"Another")
    with pytest.raises(JournalError, match=r"README.md was altered"):
        verify_folder(out)
    (out / "README.md").unlink()
    with pytest.raises(JournalError, match="not a whole export"):
        verify_folder(out)


def test_another_devices_export_is_found_with_a_trusted_key(path, key, tmp_path) -> None:
    export_for_inspector(path, tmp_path / "out", key, now=NOW)
    report, _ = verify_folder(tmp_path / "out", Ed25519PrivateKey.generate().public_key())
    assert report.problem.kind is ProblemKind.BAD_SIGNATURE


def test_an_export_is_never_overwritten_or_half_there(path, key, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export_for_inspector(path, tmp_path / "out", key, now=NOW)
    with pytest.raises(JournalError, match="cannot be unwrapped"):
        export_for_inspector(path, tmp_path / "new", Ed25519PrivateKey.generate(), now=NOW)
    with pytest.raises(InputError, match="cannot be written"):
        export_for_inspector(path, tmp_path / "absent" / "new", key, now=NOW)
    assert sorted(file.name for file in tmp_path.iterdir() if "journal.db" not in file.name) == ["out"]
