"""The receipt of a global model: how it came about, signed by the server, checked without it.

One for each closed round, made of the journal and the ledger alone: the job and its code, who took part and with how
many rows, whose consent was withdrawn, what the updates passed through, and what has been spent of which privacy. Each
names the one before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smallhold.device.build_info import this_build
from smallhold.device.durable_file import write_durably
from smallhold.device.envelope import check_signatures, key_id, open_envelope, sign_payload
from smallhold.device.trust import generate_private_key, load_private_key, save_private_key, save_public_key
from smallhold.errors import SignatureError
from smallhold.federate.job import FederatedJob
from smallhold.federate.journal import Entry
from smallhold.federate.layout import Layout
from smallhold.privacy.ledger import LedgerState
from smallhold.records import canonical_json, sha256_hex

PAYLOAD_TYPE = "application/vnd.smallhold.federation-receipt+json"
SCHEMA = "smallhold.federation-receipt/1"
_OF_SUM = ("attempt", "num_examples")
FOLDER, KEY, PUBLIC_KEY = "receipts", "receipt.key", "receipt.pem"


def facts_of(entries: Sequence[Entry], number: int) -> dict[str, Any]:
    """What the journal says of the model that came out of round `number`; a receipt that says otherwise is false."""
    closed = next(entry for entry in entries if entry.kind == "round_closed" and entry.body["round"] == number)
    updates = counted_updates(entries, closed.body)
    members = ("site", "digest", "num_examples", "withdrawn", "encoding", "bytes")
    secure = {"sum": {name: closed.body[name] for name in _OF_SUM}} if "attempt" in closed.body else {}
    return {
        "round": number,
        "model": closed.body["model"],
        "file": closed.body["file"],
        "updates": [{name: body[name] for name in members} for body in sorted(updates, key=lambda b: b["site"])],
        "refused": [
            {"site": entry.body["site"], "reason": entry.body["reason"]}
            for entry in entries
            if entry.kind == "refused" and entry.body["round"] == number
        ],
        "journal": {"seq": closed.seq, "hash": closed.hash},
        "t_ms": closed.t_ms,
        **secure,
    }


def counted_updates(entries: Sequence[Entry], closed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What went into a model: bodies of the journal.

    Of a round that hides updates, the masked or encrypted vectors; how many examples a site learnt from, or left out,
    nobody has seen.

    Args:
        entries: Of the journal.
        closed: Body of the round's `round_closed`.
    """
    number = closed["round"]
    if "attempt" not in closed:
        return [entry.body for entry in entries if entry.kind == "update" and entry.body["round"] == number]
    now = {"round": number, "attempt": closed["attempt"], "turn": "input"}
    is_encrypted = any(entry.kind == "message" and entry.body["turn"] == "key" for entry in entries)
    hidden = {"num_examples": None, "withdrawn": None, "encoding": ["encrypted-sum" if is_encrypted else "secure-sum"]}
    return [
        entry.body | hidden
        for entry in entries
        if entry.kind == "message" and now.items() <= entry.body.items() and entry.body["site"] in closed["sites"]
    ]


def write_receipt(
    folder: Path, job: FederatedJob, layout: Layout, entries: Sequence[Entry], number: int, ledger: LedgerState | None
) -> None:
    """Sign and write the receipt of one closed round; one that is there already stays.

    Args:
        folder: Of the server's state.
        job: As it was carried out.
        layout: Of the model; names what is frozen.
        entries: Of the round journal.
        number: Of the round.
        ledger: Of the sites' privacy, None where the job promises none.
    """
    path = folder / FOLDER / f"{number}.dsse.json"
    if path.exists():
        return
    before = folder / FOLDER / f"{number - 1}.dsse.json"
    receipt = {
        "schema": SCHEMA,
        "job": {"digest": job.digest, **asdict(job)},
        "layout": layout.digest,
        "frozen": layout.frozen,
        **facts_of(entries, number),
        "privacy": _privacy(job, ledger, number),
        "build": this_build(""),
        "previous": sha256_hex(before.read_bytes()) if before.exists() else "",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, [sign_payload(canonical_json(receipt), PAYLOAD_TYPE, _key(folder))], mode=0o644)


def read_receipt(data: bytes, key: Ed25519PublicKey, *, name: str) -> dict[str, Any]:
    """A receipt whose signature holds.

    Raises:
        SignatureError: not a receipt, altered, or signed by somebody else.
    """
    payload, signatures = open_envelope(data, PAYLOAD_TYPE, name=name)
    check_signatures(
        payload,
        PAYLOAD_TYPE,
        signatures,
        {key_id(key): key},
        what=name,
        trusted_by="whoever verifies",
        hint="give the public key of the job's server: receipt.pem in its folder, handed over by another way",
    )
    try:
        receipt: dict[str, Any] = json.loads(payload)
        if receipt["schema"] != SCHEMA:
            raise ValueError(f"schema {receipt['schema']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise SignatureError(f"{name}: not a receipt of this version: {error}") from error
    return receipt


def _privacy(job: FederatedJob, ledger: LedgerState | None, number: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if ledger is not None:
        paid = [spend for spend in ledger.spends if spend.release.startswith(f"{job.digest}/{number}/")]
        for unit, budget in ledger.budgets.items():
            told[unit] = {
                "epsilon": paid[-1].epsilon[unit] if paid else None,
                "delta": budget.delta,
                "budget": budget.epsilon,
                "ledger": asdict(ledger.head),
            }
    if job.record_privacy.epsilon:
        # Kept by each site in a ledger of its own: the server knows what was promised, not what was spent.
        told["record"] = {"promised": asdict(job.record_privacy)}
    if job.upload.secure and job.statistics.epsilon:  # as well
        told["patient"] = {"promised": {"epsilon": job.statistics.epsilon, "delta": job.statistics.delta}}
    return told


def _key(folder: Path) -> Ed25519PrivateKey:
    path = folder / KEY
    if not path.exists():
        key = generate_private_key()
        save_private_key(key, path)
    key = load_private_key(path)
    if not (folder / PUBLIC_KEY).exists():
        save_public_key(key.public_key(), folder / PUBLIC_KEY)
    return key
