"""`smallhold order`: sign, check, list and revoke standing orders, stop and resume every release, see a closed loop."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.options import home_of
from smallhold.cli.output import next_commands, note, print_json
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.assist.orders import Shelf, StandingOrder

EXAMPLE = "smallhold order demo glucose --profile eu && smallhold order list"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    signing = _add(actions, "sign", "sign an order, or add a second person's signature to one that is signed")
    signing.add_argument("file", type=Path, metavar="FILE", help="an order in TOML or JSON, or a signed one")
    signing.add_argument("--key", type=Path, required=True, metavar="PEM", help="the signer's private key")
    signing.add_argument("--out", type=Path, metavar="FILE", help="write it there; default: the home's orders/")
    checking = _add(actions, "check", "say what an order allows, and whether enough trusted people have signed it")
    checking.add_argument("file", type=Path, metavar="FILE", help="an order in TOML or JSON, or a signed one")
    _add(actions, "list", "orders of this home, revocations, what cannot be used and why; exit 1 if there is such")
    revoking = _add(actions, "revoke", "take an order back for good")
    revoking.add_argument("order", metavar="DIGEST", help="the order's digest, or how it begins")
    revoking.add_argument("--reason", required=True, metavar="TEXT", help="for people")
    revoking.add_argument("--key", type=Path, required=True, metavar="PEM", help="private key of a trusted signer")
    showing = _add(actions, "demo", "a closed loop on SIMULATED patients, by the real way of a dose; nothing clinical")
    showing.add_argument("kind", choices=("glucose", "pressure"), help="insulin, or a vasopressor and fluids")
    showing.add_argument("--profile", default="eu", metavar="NAME", help="policy: a shipped name or a file; default eu")
    showing.add_argument("--allow-drafts", action="store_true", help="accept permits on clauses that nobody has read")
    showing.add_argument("--seed", type=int, default=0, metavar="N", help="another seed gives other patients")
    showing.add_argument("--patients", type=int, default=1000, metavar="N", help="of the arms with many; default 1000")
    _add(actions, "stop", "stop every release from now on; works whatever else is down")
    _add(actions, "resume", "let releases go on")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    actions = {
        "demo": _demo,
        "sign": _sign,
        "check": _check,
        "list": _list,
        "revoke": _revoke,
        "stop": _stop,
        "resume": _resume,
    }
    return actions[args.action](args)


def _sign(args: argparse.Namespace) -> int:
    from smallhold.assist.orders import add_signature, read_order, sign_order
    from smallhold.assist.orders.signing import unsafe_read_order
    from smallhold.device.durable_file import write_durably
    from smallhold.device.trust import load_private_key

    key = load_private_key(args.key)
    data = _read(args.file)
    is_signed = _is_envelope(data)
    envelope = add_signature(data, key) if is_signed else sign_order(read_order(args.file), [key])
    order, signers = unsafe_read_order(envelope)
    out = args.out or home_of(args).orders / f"{order.name}-{order.digest[:16]}.json"
    try:
        out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(out, [envelope])
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}") from error
    if args.json:
        print_json({"file": str(out), "digest": order.digest, "signers": signers})
    else:
        print(out)
        print(f"signatures: {len(signers)} of {order.required_signatures} required")
    missing = len(signers) < order.required_signatures
    next_commands(f"smallhold order {'sign' if missing else 'check'} {out}{' --key THEIR_KEY' if missing else ''}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from smallhold.assist.orders import read_order, read_shelf, verify_order
    from smallhold.assist.orders.shelf import TRUST
    from smallhold.device.trust import load_trusted_keys
    from smallhold.device.wall_clock import wall_ms

    data = _read(args.file)
    if not _is_envelope(data):
        order = read_order(args.file)
        _print_order(order, args.json, signers=None)
        note("it is not signed: nobody can use it yet")
        next_commands(f"smallhold order sign {args.file} --key KEY")
        return 0
    home = home_of(args)
    signed = verify_order(data, load_trusted_keys(home.orders / TRUST))
    _print_order(signed.order, args.json, signers=signed.signers)
    state = _state(signed.digest, signed.order, read_shelf(home.orders), wall_ms())
    if state != "valid":
        note(f"it covers nothing now: {state}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from smallhold.assist.orders import is_stopped, read_shelf
    from smallhold.device.wall_clock import wall_ms

    home = home_of(args)
    shelf, now_ms, is_held = read_shelf(home.orders), wall_ms(), is_stopped(home.path)

    rows: list[dict[str, Any]] = [
        {
            "digest": digest,
            "state": _state(digest, signed.order, shelf, now_ms),
            "name": signed.order.name,
            "drug": signed.order.drug,
            "for": signed.order.patient or f"ward {signed.order.ward}",
            "expires": _time(signed.order.expires_ms),
            "signatures": len(signed.signers),
        }
        for digest, signed in shelf.orders.items()
    ]
    if args.json:
        print_json(
            {"orders": rows, "revoked": dict(shelf.revoked), "problems": dict(shelf.problems)} | {"is_stopped": is_held}
        )
    else:
        for row in rows:
            what = f"{row['name']}: {row['drug']} for {row['for']}, to {row['expires']}"
            print(f"{row['digest'][:16]}  {row['state']:7}  {what}")
        if not rows:
            print("no order that can be used")
        print(f"releases: {'STOPPED' if is_held else 'allowed'}")
    for name, problem in shelf.problems.items():
        note(f"not used: {name}: {problem}")
    return 1 if shelf.problems else 0


def _revoke(args: argparse.Namespace) -> int:
    from smallhold.assist.orders import put_revocation, read_shelf, sign_revocation, verify_revocation
    from smallhold.assist.orders.shelf import TRUST
    from smallhold.device.trust import load_private_key, load_trusted_keys
    from smallhold.device.wall_clock import wall_ms

    home = home_of(args)
    key = load_private_key(args.key)
    found = [digest for digest in read_shelf(home.orders).orders if digest.startswith(args.order)]
    if not found and len(args.order) == 64:
        found = [args.order]  # an order that is not here yet may be taken back before it comes
    if len(found) != 1:
        raise InputError(
            f"order {args.order!r}: expected the beginning of one order's digest, got {len(found)} that fit",
            hint="smallhold order list",
        )
    envelope = sign_revocation(found[0], args.reason, wall_ms(), key)
    # One that this home cannot believe would block every order here.
    verify_revocation(envelope, load_trusted_keys(home.orders / TRUST))
    path = put_revocation(home.orders, found[0], envelope)
    if args.json:
        print_json({"order": found[0], "file": str(path)})
    else:
        print(f"revoked: {found[0][:16]}")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from smallhold.assist.orders.demonstration import demonstrate
    from smallhold.assist.policy import load_profile

    if args.patients < 1 or args.seed < 0:
        raise InputError(f"--patients and --seed: expected 1 or more and 0 or more, got {args.patients}, {args.seed}")
    profile = load_profile(args.profile, allow_draft_permissions=args.allow_drafts, source="continuous")
    arms = demonstrate(args.kind, profile, seed=args.seed, num_patients=args.patients)
    if args.json:
        print_json({"is_simulated": True, "profile": profile.name, "arms": [asdict(arm) for arm in arms]})
        return 0
    print(f"SIMULATED {args.kind}, seed {args.seed}, profile {profile.name}: nobody was treated, it shows no benefit")
    keys = ("automatic", "asked", "confirmed", "forbidden", "refused")
    print(f"{'patients':>8}  {'arm':28}  in range  below   above   doses  {'  '.join(keys)}")
    for arm in arms:
        shares = f"{arm.in_range:8.1%}  {arm.below:5.1%}  {arm.above:6.1%}"
        counts = "  ".join(f"{arm.counts.get(key, 0):{len(key)}}" for key in keys) if arm.counts else ""
        print(f"{arm.num_patients:8}  {arm.name:28}  {shares}  {arm.doses:6}  {counts}".rstrip())
    for arm in arms:
        for reason, count in sorted(arm.reasons.items(), key=lambda item: -item[1])[:3]:
            print(f"{arm.name}: {count} refused: {reason}")
    next_commands(f"smallhold policy show {args.profile}")
    return 0


def _stop(args: argparse.Namespace) -> int:
    from smallhold.assist.orders import stop

    home = home_of(args).path
    stop(home)
    if args.json:
        print_json({"is_stopped": True, "home": str(home)})
    else:
        print(f"STOPPED: no release from {home}")
    next_commands("smallhold order resume")
    return 0


def _resume(args: argparse.Namespace) -> int:
    from smallhold.assist.orders import is_stopped, resume

    home = home_of(args).path
    was_stopped = resume(home)
    if is_stopped(home):
        raise InputError(f"home {home} cannot be looked into, which counts as stopped", hint="smallhold device init")
    if args.json:
        print_json({"is_stopped": False, "was_stopped": was_stopped, "home": str(home)})
    else:
        print("resumed" if was_stopped else "nothing was stopped")
    return 0


def _state(digest: str, order: StandingOrder, shelf: Shelf, now_ms: int) -> str:
    if shelf.unreadable_revocation is not None:
        return "blocked"
    if digest in shelf.revoked:
        return "revoked"
    return "waits" if now_ms < order.not_before_ms else "expired" if now_ms >= order.expires_ms else "valid"


def _print_order(order: StandingOrder, as_json: bool, *, signers: tuple[str, ...] | None) -> None:
    from smallhold.assist.orders import format_amount

    if as_json:
        print_json({"digest": order.digest, "signers": signers, "order": asdict(order)})
        return
    unit = order.unit
    print(f"{order.name}: {order.drug} for {order.patient or f'every patient of ward {order.ward}'}")
    print(f"digest     {order.digest}")
    print(f"valid      {_time(order.not_before_ms)} to {_time(order.expires_ms)}")
    print(f"one dose   at most {format_amount(order.dose_max)} {unit}, {order.interval_ms // 1000} s apart")
    print(f"rate       at most {format_amount(order.rate_max)} {unit} within {order.rate_window_ms // 1000} s")
    print(f"in all     at most {format_amount(order.total_max)} {unit} and {order.count_max} doses a patient")
    for bound in order.bounds:
        low = "" if bound.minimum is None else f" from {_signed(bound.minimum)}"
        high = "" if bound.maximum is None else f" to {_signed(bound.maximum)}"
        print(f"only if    {bound.code}{low}{high} {bound.unit}, at most {bound.max_age_ms // 1000} s old")
    print(f"never with {', '.join((*order.allergies, *order.interacting_drugs)) or 'nothing beside the table'}")
    names = "nobody" if signers is None else ", ".join(signer[:16] for signer in signers)
    print(f"signed by  {names}; {order.required_signatures} required")


def _signed(micro: int) -> str:
    from smallhold.assist.orders import format_amount

    return f"{'-' if micro < 0 else ''}{format_amount(abs(micro))}"


def _time(t_ms: int) -> str:
    return datetime.fromtimestamp(t_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_envelope(data: bytes) -> bool:
    return data.lstrip().startswith(b"{") and b'"payloadType"' in data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _add(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary.capitalize())
    # Accepted after the action as well as before it; SUPPRESS keeps what was given before.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")
    parser.add_argument("--home", type=Path, metavar="DIR", default=argparse.SUPPRESS, help="the device's home")
    return parser
