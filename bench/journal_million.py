"""A journal of a million entries: what writing and verifying cost, and whether every planted change is found.

    python bench/journal_million.py --entries 1000000 --positions 24

Every change is planted in a transaction of the journal's own file, looked for by the rules of `smallhold journal
verify`, and rolled back. Each kind is planted at `--positions` random places and verified from the last checkpoint some
way before it (`verify(since=...)`), and once more with a verification of the whole journal.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.journal import Checkpoint, Journal, NewEntry
from smallhold.device.journal_chain import entry_hash, sign_checkpoint
from smallhold.device.journal_check import check_chain
from smallhold.device.journal_store import count_by_traces, read_data_keys, read_rows
from smallhold.device.trust import key_id
from smallhold.records import AuditEntry

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
FORGER = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1")
TABLES = ("entries", "payloads", "checkpoints")
GROUP = 64
PATIENTS = 100
Plant = Callable[[sqlite3.Connection, int, random.Random], None]


def write(path: Path, num_entries: int, payload_bytes: int, sample: int) -> dict[str, Any]:
    """Write the journal: a sample entry by entry, in the clear and sealed, the rest in groups."""
    rng = random.Random(0)
    figures: dict[str, Any] = {}
    started = time.perf_counter()
    with Journal.open(path, key=KEY) as journal:
        written = 0
        for name in ("clear", "sealed"):
            times = []
            for _ in range(sample):
                payload = rng.randbytes(payload_bytes // 2).hex().encode()
                patient = None if name == "clear" else f"p{written % PATIENTS}"
                before = time.perf_counter()
                journal.append("step", payload, patient=patient)
                times.append(time.perf_counter() - before)
                written += 1
            times.sort()
            figures[f"append_{name}_us"] = {
                "mean": round(sum(times) / len(times) * 1e6, 1),
                **{
                    f"p{share}": round(times[min(len(times) - 1, len(times) * share // 100)] * 1e6, 1)
                    for share in (50, 99)
                },
            }
        times = []
        while written < num_entries:
            items = [
                NewEntry("step", rng.randbytes(payload_bytes // 2).hex().encode(), f"p{(written + n) % PATIENTS}")
                for n in range(min(GROUP, num_entries - written))
            ]
            before = time.perf_counter()
            journal.append_all(items)
            times.append((time.perf_counter() - before) / len(items))
            written += len(items)
        if times:
            times.sort()
            figures[f"append_in_groups_of_{GROUP}_us"] = {
                "mean": round(sum(times) / len(times) * 1e6, 1),
                "p50": round(times[len(times) // 2] * 1e6, 1),
            }
    figures["entries"] = written
    figures["write_seconds"] = round(time.perf_counter() - started, 1)
    figures["bytes_per_entry"] = round(path.stat().st_size / written, 1)
    return figures


def edit_entry(db: sqlite3.Connection, at: int, rng: random.Random) -> None:
    """Another time, the hash left as it was."""
    db.execute("UPDATE entries SET t_ms = t_ms + ? WHERE seq = ?", (rng.randrange(1, 10**6), at))


def edit_entry_and_hash(db: sqlite3.Connection, at: int, _rng: random.Random) -> None:
    """Another kind, and the hash made to fit."""
    row = db.execute("SELECT t_ms, payload_digest, prev FROM entries WHERE seq = ?", (at,)).fetchone()
    own = entry_hash(seq=at, t_ms=row[0], kind="harmless", payload_digest=row[1], prev=row[2])
    db.execute("UPDATE entries SET kind = 'harmless', hash = ? WHERE seq = ?", (own, at))


def edit_payload(db: sqlite3.Connection, at: int, rng: random.Random) -> None:
    """One bit of the stored payload."""
    (stored,) = db.execute("SELECT payload FROM payloads WHERE seq = ?", (at,)).fetchone()
    changed = bytearray(stored)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    db.execute("UPDATE payloads SET payload = ? WHERE seq = ?", (bytes(changed), at))


def swap_payloads(db: sqlite3.Connection, at: int, rng: random.Random) -> None:
    """Two payloads of one patient change places, nonces and all."""
    other = at - PATIENTS * rng.randrange(1, 4)
    for before, after in ((at, -1), (other, at), (-1, other)):
        db.execute("UPDATE payloads SET seq = ? WHERE seq = ?", (after, before))


def remove_entry(db: sqlite3.Connection, at: int, _rng: random.Random) -> None:
    """An entry, its payload and its checkpoint are gone."""
    for table in TABLES:
        db.execute(f"DELETE FROM {table} WHERE seq = ?", (at,))  # noqa: S608 - a constant


def reorder_entries(db: sqlite3.Connection, at: int, rng: random.Random) -> None:
    """Two entries change places with all that is theirs."""
    other = at - rng.randrange(1, 400)
    for table in TABLES:
        for before, after in ((at, -1), (other, at), (-1, other)):
            db.execute(f"UPDATE {table} SET seq = ? WHERE seq = ?", (after, before))  # noqa: S608 - a constant


def cut_tail(db: sqlite3.Connection, at: int, _rng: random.Random) -> None:
    """Everything from here on is gone without a trace; an outside checkpoint knows better."""
    for table in TABLES:
        db.execute(f"DELETE FROM {table} WHERE seq >= ?", (at,))  # noqa: S608 - a constant


def forge_signature(db: sqlite3.Connection, at: int, _rng: random.Random) -> None:
    """A history rewritten up to the next checkpoint, which is signed anew with another key."""
    prev = db.execute("SELECT prev FROM entries WHERE seq = ?", (at,)).fetchone()[0]
    (last,) = db.execute("SELECT min(seq) FROM checkpoints WHERE seq >= ?", (at,)).fetchone()
    rows = db.execute(
        "SELECT seq, t_ms, kind, payload_digest FROM entries WHERE seq BETWEEN ? AND ? ORDER BY seq", (at, last)
    ).fetchall()
    for seq, t_ms, kind, digest in rows:
        name = "harmless" if seq == at else kind
        own = entry_hash(seq=seq, t_ms=t_ms, kind=name, payload_digest=digest, prev=prev)
        db.execute("UPDATE entries SET kind = ?, prev = ?, hash = ? WHERE seq = ?", (name, prev, own, seq))
        entry = AuditEntry(seq=seq, t_ms=t_ms, kind=name, payload_digest=digest, prev=prev, hash=own)
        prev = own
    forged = sign_checkpoint(entry, t_ms=t_ms, key=FORGER, signer=key_id(KEY.public_key()))
    db.execute("UPDATE checkpoints SET hash = ?, signature = ? WHERE seq = ?", (forged.hash, forged.signature, last))


PLANTS: dict[str, Plant] = {
    "edited entry": edit_entry,
    "edited entry, hash made to fit": edit_entry_and_hash,
    "edited payload": edit_payload,
    "swapped payloads": swap_payloads,
    "removed entry": remove_entry,
    "reordered entries": reorder_entries,
    "cut tail": cut_tail,
    "forged signature": forge_signature,
}


def look(db: sqlite3.Connection, since: Checkpoint | None, outside: Checkpoint) -> str | None:
    """What verification finds; None when it finds nothing."""
    report = check_chain(
        read_rows(db, 0 if since is None else since.seq),
        public_key=KEY.public_key(),
        outside=outside,
        expected_entries=count_by_traces(db),
        keys={item.id for item in read_data_keys(db)},
        since=since,
    )
    return None if report.problem is None else f"{report.problem.kind.value} at {report.problem.seq}"


def plant_all(path: Path, outside: Checkpoint, *, positions: int, whole: int) -> dict[str, Any]:
    """Plant every kind of change at random places; returns kind -> planted and found."""
    rng = random.Random(1)
    found: dict[str, Any] = {}
    db = sqlite3.connect(path, isolation_level=None)
    (count,) = db.execute("SELECT count(*) FROM entries").fetchone()
    least = max(4 * PATIENTS, count // 100) + 64
    for name, plant in PLANTS.items():
        tally = found[name] = {"planted": 0, "found": 0, "found_by_whole_verification": 0, "as": {}}
        for number in range(positions):
            # A tail is cut near the end: what is looked for is the end, and the walk there takes long.
            at = rng.randrange(max(least, count - 2000) if plant is cut_tail else least, count)
            columns = "seq, hash, t_ms, key_id, signature"
            row = db.execute(
                f"SELECT {columns} FROM checkpoints WHERE seq < ? ORDER BY seq DESC LIMIT 1",  # noqa: S608 - a constant
                (at - 400,),
            ).fetchone()
            since = Checkpoint(**dict(zip(columns.split(", "), row, strict=True)))
            db.execute("BEGIN IMMEDIATE")
            plant(db, at, rng)
            problem = look(db, since, outside)
            tally["planted"] += 1
            tally["found"] += problem is not None
            kind = str(problem).split(" at ")[0]
            tally["as"][kind] = tally["as"].get(kind, 0) + 1
            if number < whole:
                tally["found_by_whole_verification"] += look(db, None, outside) is not None
            db.execute("ROLLBACK")
    db.close()
    return found


def measure(
    folder: Path, *, entries: int, positions: int, whole: int = 1, payload_bytes: int = 500, sample: int = 20_000
) -> dict[str, Any]:
    """All figures; the journal lies in `folder`."""
    path = folder / "million.db"
    figures = write(path, entries, payload_bytes, min(sample, entries // 4))
    with Journal.open(path, key=KEY) as journal:
        outside = journal.last_checkpoint()
    if outside is None:
        raise SystemExit("no checkpoint was written")
    db = sqlite3.connect(path)
    started = time.perf_counter()
    figures["untouched"] = look(db, None, outside) or "intact"
    figures["verify_seconds"] = round(time.perf_counter() - started, 1)
    db.close()
    figures["verified_per_second"] = round(figures["entries"] / max(1e-9, time.perf_counter() - started))
    figures["changes"] = plant_all(path, outside, positions=positions, whole=whole)
    figures["untouched_afterwards"] = look(sqlite3.connect(path), None, outside) or "intact"
    return figures


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--entries", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--positions", type=int, default=24, metavar="N", help="places for each kind of change")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the journal is written; default: temporary")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(json.dumps(measure(Path(folder), entries=args.entries, positions=args.positions), indent=2))


if __name__ == "__main__":
    main()
