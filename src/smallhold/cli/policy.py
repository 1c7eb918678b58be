"""`smallhold policy`: what a profile allows where, on which clauses, and whether it is safe to load."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from smallhold.cli.output import next_commands, note, print_json

if TYPE_CHECKING:
    from smallhold.assist.policy import Outcome, Profile
    from smallhold.assist.profile import Source
    from smallhold.records import ActionClass

EXAMPLE = "smallhold policy show eu && smallhold policy check eu us"

#: Column -> how it differs from a situation in which nothing is wrong: valid order, sure, fresh, consent given.
_SITUATIONS: dict[str, dict[str, Any]] = {
    "all well": {},
    "cleared": {"device_class": "closed_loop_cleared"},
    "no order": {"standing_order": "none"},
    "unsure": {"confidence": "low"},
    "degraded": {"is_degraded": True},
    "stale": {"is_stale": True},
    "journal failed": {"has_journal_failed": True},
    "consent unknown": {"consent": "unknown"},
    "withheld": {"consent": "withheld"},
}
_WELL: dict[str, Any] = {"standing_order": "valid", "confidence": "high", "consent": "given"}
_WORDS = {"auto": "auto", "notify_with_veto": "veto", "confirm_one": "one", "confirm_two": "two", "forbid": "-"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add(actions, "list", "name the shipped profiles")
    showing = _add(actions, "show", "effects for each action class, duties, clauses and drafts of a profile")
    showing.add_argument("profile", metavar="PROFILE", help="a shipped name, or a TOML file")
    showing.add_argument("--cedar", action="store_true", help="the effects as Cedar policies instead")
    checking = _add(actions, "check", "load profiles as a device would; exit 1 when one is refused")
    checking.add_argument("profile", nargs="+", metavar="PROFILE", help="shipped names, or TOML files")
    checking.add_argument("--allow-drafts", action="store_true", help="accept permits on clauses that nobody has read")
    for action in (showing, checking):
        action.add_argument("--source", choices=("continuous", "discrete"), help="what the readings come from")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    match args.action:
        case "list":
            return _list(args.json)
        case "show":
            return _show(args)
        case _:
            return _check(args)


def _list(as_json: bool) -> int:
    from smallhold.assist.profile import read_layers, shipped_profiles

    layers = {name: read_layers(name)[-1] for name in shipped_profiles()}
    if as_json:
        print_json({name: {"version": layer.version, "extends": layer.extends} for name, layer in layers.items()})
    else:
        for name, layer in layers.items():
            print(f"{name:18}  {layer.version}  {'' if layer.extends is None else f'extends {layer.extends}'}".rstrip())
    next_commands("smallhold policy show eu")
    return 0


def _show(args: argparse.Namespace) -> int:
    from smallhold.assist.cedar import to_cedar
    from smallhold.assist.policy import load_profile

    # To look at a profile is not to use it: drafts are shown, and any source will do.
    refused, source = _sources(args.profile, args.source)
    profile = load_profile(args.profile, allow_draft_permissions=True, source=source)
    if args.cedar:
        print(to_cedar(profile))
    elif args.json:
        print_json(_to_json(profile, refused))
    else:
        _print(profile, refused)
    return 0


def _sources(name: str, wanted: Source | None) -> tuple[list[Source], Source | None]:
    from smallhold.assist.profile import SOURCES, read_layers

    refused = sorted({source for layer in read_layers(name) for source in layer.refuses_sources})
    return refused, wanted or next((source for source in SOURCES if source not in refused), None)


def _outcome(profile: Profile, action: ActionClass, changes: dict[str, Any]) -> Outcome:
    from smallhold.assist.context import Context
    from smallhold.assist.policy import Outcome, decide
    from smallhold.records import Priority, Provenance

    context = Context(action=action, priority=Priority.MEDIUM, **{**_WELL, **changes})
    verdict = decide(profile, context, Provenance(trace_id="0" * 32))
    return Outcome(verdict.effect, verdict.clauses, verdict.obligations)


def _print(profile: Profile, refused: list[Source]) -> None:
    from smallhold.records import ActionClass

    print(f"{profile.name} {profile.version}, digest {profile.digest[:16]}")
    print(f"{profile.note}\n")
    print("effect  " + "  ".join(_SITUATIONS))
    for action in ActionClass:
        words = (_WORDS[_outcome(profile, action, changes).effect] for changes in _SITUATIONS.values())
        cells = (f"{word:{len(name)}}" for word, name in zip(words, _SITUATIONS, strict=True))
        print(f"{action:6}  {'  '.join(cells)}".rstrip())
    print('auto; one, two = people who confirm; veto = told, and may stop it; "-" = forbidden')
    print("cleared = as a closed loop; every other column is all well but for its name\n")
    for action in ActionClass:
        print(f"{action} duties: {', '.join(_outcome(profile, action, {}).obligations) or 'none'}")
    print()
    for clause in profile.clauses.values():
        print(f"{'draft' if clause.is_draft else 'read':5}  {clause.id}: {clause.source}")
    if refused:
        print(f"\nrefuses sources: {', '.join(refused)}")
    if profile.draft_permissions:
        print(f"\npermits on drafts alone, refused unless allowed by name: {', '.join(profile.draft_permissions)}")


def _to_json(profile: Profile, refused: list[Source]) -> dict[str, Any]:
    from smallhold.records import ActionClass

    return {
        "name": profile.name,
        "version": profile.version,
        "digest": profile.digest,
        "note": profile.note,
        "extends": [layer.name for layer in profile.layers[:-1]],
        "effects": {
            action: {name: _outcome(profile, action, changes).effect for name, changes in _SITUATIONS.items()}
            for action in ActionClass
        },
        "obligations": {action: _outcome(profile, action, {}).obligations for action in ActionClass},
        "clauses": {
            clause.id: {
                "source": clause.source,
                "summary": clause.summary,
                "status": "draft" if clause.is_draft else "read",
            }
            for clause in profile.clauses.values()
        },
        "refuses_sources": refused,
        "draft_permissions": profile.draft_permissions,
    }


def _check(args: argparse.Namespace) -> int:
    from smallhold.assist.policy import load_profile
    from smallhold.errors import SmallholdError

    results: list[dict[str, Any]] = []
    for name in args.profile:
        try:
            profile = load_profile(name, allow_draft_permissions=args.allow_drafts, source=args.source)
        except SmallholdError as error:
            results.append({"profile": name, "is_safe": False, "error": str(error), "hint": error.hint})
            continue
        drafts = sum(clause.is_draft for clause in profile.clauses.values())
        found = {"version": profile.version, "digest": profile.digest, "situations": len(profile.cells)}
        results.append(
            {"profile": name, "is_safe": True, **found, "clauses": len(profile.clauses), "drafts": drafts}
            | {"draft_permissions": profile.draft_permissions}
        )
    if args.json:
        print_json(results)
    for result in results:
        if not result["is_safe"]:
            note(f"error: {result['error']}")
            if result["hint"]:
                note(f"hint: {result['hint']}")
        elif not args.json:
            print(
                f"safe: {result['profile']} {result['version']}, {result['situations']} situations, "
                f"{result['clauses']} clauses, {result['drafts']} of them drafts, digest {result['digest'][:16]}"
            )
    return 0 if all(result["is_safe"] for result in results) else 1


def _add(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary.capitalize())
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")
    return parser
