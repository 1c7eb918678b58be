"""A region's rules as data: reading, checking and digesting profile files.

A profile is a TOML file::

    format = 1
    name = "somewhere"
    version = "1.0.0"
    note = "engineering encoding, to be reviewed by counsel"
    extends = "base-clinical"            # optional: a shipped profile, or a file in the same folder
    refuses_sources = ["continuous"]     # optional: kinds of source on which the profile does not load

    [defaults]                           # effect per action class where no permit applies
    A0 = "auto"

    [clauses.some-id]
    source = "Where it is written"
    summary = "What it says, in our words"
    status = "read"                      # or "draft": not read in its source; it may tighten, not permit

    [[permit]]                           # weakens a default
    [[restrict]]                         # raises the effect, whatever was permitted
    [[oblige]]                           # adds duties only
    id = "rule-id"
    when = { action = ["A3", "A4"], is_stale = true }    # facts of `context`; one that is not named holds for all
    effect = "forbid"                    # permit and restrict only
    clauses = ["some-id"]
    obligations = ["log", "retain_days=184"]
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smallhold.assist.context import FACTS, FactValue
from smallhold.errors import PolicyError, RecipeError
from smallhold.records import ActionClass, Effect, canonical_json, sha256_hex

RuleKind = Literal["permit", "restrict", "oblige"]
#: `continuous`: a monitor's stream, or a model that reads a patient's course. `discrete`: readings taken one by one.
Source = Literal["continuous", "discrete"]
SOURCES: tuple[Source, ...] = ("continuous", "discrete")
_KINDS: tuple[RuleKind, ...] = ("permit", "restrict", "oblige")
_FORMAT = 1
_SHIPPED = Path(__file__).parent / "profiles"

#: Duties a rule may add. Those that take a value say how two of them combine.
OBLIGATIONS: dict[str, Literal["flag", "largest", "smallest", "intersection"]] = {
    "log": "flag",  # in the tamper-evident journal
    "explain": "flag",  # the basis is shown to whoever is asked
    "disclose_ai": "flag",  # the person is told that a machine speaks
    "label_ai_content": "flag",
    "stop_control": "flag",  # a person can stop it at any time
    "report_incident": "flag",
    "report_breach": "flag",
    "report_counts": "flag",  # counts, results and errors go to the authority
    "deidentify": "flag",  # what leaves the site names nobody
    "record_consent": "flag",
    "written_consent": "flag",
    "guardian_consent": "flag",  # for a child, a parent's
    "emergency_access": "flag",  # access controls yield, and that is logged
    "check_dose_ceiling": "flag",
    "check_interactions": "flag",
    "change_control": "flag",  # a new model passes the authorised change plan before it is installed
    "human_review": "flag",  # the person concerned can have a human look again
    "contest": "flag",  # and can contest it
    "physician_supervises": "flag",
    "physician_in_person": "flag",  # the treating physician confirms, in person
    "registered_device": "flag",  # the installation's registration as a medical device is on file
    "hazard_log": "flag",
    "impact_assessment": "flag",
    "discrete_readings_only": "flag",
    "minimum_necessary": "flag",
    "retain_days": "largest",  # at least
    "erase_within_days": "smallest",  # at most
    "residency": "intersection",
}


@dataclass(frozen=True, slots=True)
class Clause:
    """One passage of law or standard that a rule implements."""

    id: str
    source: str
    summary: str
    is_draft: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: in the situations `when` describes, this effect, because of these clauses, with these duties."""

    id: str
    kind: RuleKind
    when: Mapping[str, tuple[FactValue, ...]]
    effect: Effect
    clauses: tuple[str, ...]
    obligations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One profile file, without what it extends."""

    name: str
    version: str
    note: str
    extends: str | None
    refuses_sources: tuple[Source, ...]
    defaults: Mapping[str, Effect]
    clauses: Mapping[str, Clause]
    rules: tuple[Rule, ...]


def shipped_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with Smallhold."""
    return tuple(sorted(path.stem.replace("_", "-") for path in _SHIPPED.glob("*.toml")))


def read_layers(name_or_path: str | Path) -> tuple[Layer, ...]:
    """Read a profile and everything it extends, the most general first.

    Args:
        name_or_path: A shipped name (`eu`), or a path (a `Path`, or text that ends in `.toml`).

    Raises:
        RecipeError: absent, not TOML, or an entry is unknown, missing or impossible.
        PolicyError: a clause is unknown, defined twice or never used, or profiles extend each other in a circle.
    """
    path = _find(name_or_path, Path.cwd())
    layers: list[Layer] = []
    seen: list[Path] = []
    while True:
        if path in seen:
            raise PolicyError(f"profile {path.name} extends itself through {', '.join(p.name for p in seen)}")
        seen.append(path)
        layers.insert(0, _read_layer(path))
        parent = layers[0].extends
        if parent is None:
            break
        path = _find(parent, path.parent)
    _check_clauses(layers)
    return tuple(layers)


def digest_layers(layers: Iterable[Layer]) -> str:
    """SHA-256 over the canonical JSON of what the files say; comments and order of members do not count."""
    return sha256_hex(
        canonical_json(
            [
                {
                    "name": layer.name,
                    "version": layer.version,
                    "note": layer.note,
                    "extends": layer.extends,
                    # Only where it is said, so that profiles that do not say it keep their digest.
                    **({"refuses_sources": layer.refuses_sources} if layer.refuses_sources else {}),
                    "defaults": dict(layer.defaults),
                    "clauses": {c.id: [c.source, c.summary, c.is_draft] for c in layer.clauses.values()},
                    "rules": [
                        [r.id, r.kind, {k: list(v) for k, v in r.when.items()}, r.effect, r.clauses, r.obligations]
                        for r in layer.rules
                    ],
                }
                for layer in layers
            ]
        )
    )


def split_obligation(obligation: str) -> tuple[str, str]:
    """`retain_days=184` -> (`retain_days`, `184`); a flag has an empty value."""
    name, _, value = obligation.partition("=")
    return name, value


def _find(name_or_path: str | Path, folder: Path) -> Path:
    if isinstance(name_or_path, Path) or name_or_path.endswith(".toml"):
        path = (folder / name_or_path).resolve()
        if not path.is_file():
            raise RecipeError(
                f"profile {path} does not exist", hint=f"shipped profiles: {', '.join(shipped_profiles())}"
            )
        return path
    _known("profile", name_or_path, shipped_profiles())
    return _SHIPPED / f"{name_or_path.replace('-', '_')}.toml"


def _read_layer(path: Path) -> Layer:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"profile {path.name} cannot be read: {error}") from error
    where = f"profile {path.name}"
    allowed = ("format", "name", "version", "note", "extends", "refuses_sources", "defaults", "clauses", *_KINDS)
    _members(where, data, required=("format", "name", "version", "note"), allowed=allowed)
    if data["format"] != _FORMAT:
        raise RecipeError(f"{where}: format {data['format']!r} is not supported: expected {_FORMAT}")
    layer = Layer(
        name=_text(where, data, "name"),
        version=_text(where, data, "version"),
        note=_text(where, data, "note"),
        extends=_text(where, data, "extends") if "extends" in data else None,
        refuses_sources=_read_sources(f"{where}: refuses_sources", data.get("refuses_sources", [])),
        defaults={
            _known(f"{where}: action class", action, tuple(ActionClass)): _effect(f"{where}: defaults.{action}", effect)
            for action, effect in _table(where, data, "defaults").items()
        },
        clauses={
            clause: _read_clause(f"{where}: clauses.{clause}", clause, value)
            for clause, value in _table(where, data, "clauses").items()
        },
        rules=tuple(
            _read_rule(f"{where}: {kind}[{number}]", kind, value)
            for kind in _KINDS
            for number, value in enumerate(_list(where, data, kind))
        ),
    )
    ids = [rule.id for rule in layer.rules]
    repeated = sorted({rule for rule in ids if ids.count(rule) > 1})
    if repeated:
        raise RecipeError(f"{where}: rule ids used twice: {', '.join(repeated)}")
    return layer


def _read_sources(where: str, value: Any) -> tuple[Source, ...]:
    named = {_known(where, item, SOURCES) for item in _texts(where, value)}
    if len(named) == len(SOURCES):
        raise RecipeError(f"{where}: a profile that refuses every source can never be used")
    return tuple(source for source in SOURCES if source in named)


def _read_clause(where: str, clause: str, value: Any) -> Clause:
    _members(where, value, required=("source", "summary", "status"), allowed=("source", "summary", "status"))
    status = _known(f"{where}.status", value["status"], ("read", "draft"))
    return Clause(clause, _text(where, value, "source"), _text(where, value, "summary"), status == "draft")


def _read_rule(where: str, kind: RuleKind, value: Any) -> Rule:
    required = ("id", "when", "clauses") + (("obligations",) if kind == "oblige" else ("effect",))
    _members(where, value, required=required, allowed=("id", "when", "clauses", "effect", "obligations"))
    where = f"{where} {_text(where, value, 'id')!r}"
    if kind == "oblige" and "effect" in value:
        raise RecipeError(f"{where}: an oblige rule has no effect; use [[restrict]] to raise one")
    clauses = _texts(f"{where}.clauses", value["clauses"])
    if not clauses:
        raise RecipeError(f"{where}: a rule must cite at least one clause")
    return Rule(
        id=value["id"],
        kind=kind,
        when=_read_when(f"{where}.when", value["when"]),
        effect=_effect(f"{where}.effect", value["effect"]) if kind != "oblige" else Effect.AUTO,
        clauses=clauses,
        obligations=tuple(
            _read_obligation(where, item) for item in _texts(f"{where}.obligations", value.get("obligations", []))
        ),
    )


def _read_when(where: str, value: Any) -> dict[str, tuple[FactValue, ...]]:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected a table of facts, got {value!r}")
    when: dict[str, tuple[FactValue, ...]] = {}
    for fact, wanted in value.items():
        values = tuple(wanted) if isinstance(wanted, list) else (wanted,)
        allowed = FACTS[_known(f"{where}: fact", fact, tuple(FACTS))]
        if not values:
            raise RecipeError(f"{where}.{fact}: an empty list matches nothing; leave the fact out to match everything")
        for item in values:
            # bool before membership: in Python 1 == True.
            if isinstance(item, bool) != isinstance(allowed[0], bool) or item not in allowed:
                raise RecipeError(
                    f"{where}.{fact}: expected {_list_words(allowed)}, got {item!r}{_guess(item, allowed)}"
                )
        when[fact] = values
    return when


def _read_obligation(where: str, obligation: str) -> str:
    name, value = split_obligation(obligation)
    match OBLIGATIONS[_known(f"{where}: obligation", name, tuple(OBLIGATIONS))]:
        case "flag" if "=" in obligation:
            raise RecipeError(f"{where}: obligation {name} takes no value, got {value!r}")
        case "largest" | "smallest" if not (value.isascii() and value.isdecimal()):
            raise RecipeError(f"{where}: obligation {name} takes a whole number, for example {name}=184, got {value!r}")
        case "intersection" if not all(value.split(",")):
            raise RecipeError(f"{where}: obligation {name} takes a list, for example {name}=EEA,CH, got {value!r}")
    return obligation


def _check_clauses(layers: list[Layer]) -> None:
    known: dict[str, Clause] = {}
    for layer in layers:
        for clause in layer.clauses.values():
            if clause.id in known:
                raise PolicyError(f"profile {layer.name}: clause {clause.id!r} is already defined in what it extends")
            known[clause.id] = clause
        cited = [clause for rule in layer.rules for clause in rule.clauses]
        for rule in layer.rules:
            for cited_id in rule.clauses:
                if cited_id not in known:
                    guess = _guess(cited_id, tuple(known))
                    raise PolicyError(
                        f"profile {layer.name}: rule {rule.id!r} cites unknown clause {cited_id!r}{guess}"
                    )
        unused = sorted(set(layer.clauses) - set(cited))
        if unused:
            raise PolicyError(
                f"profile {layer.name}: clauses that no rule cites: {', '.join(unused)}",
                hint="remove them, or write the rule that implements them",
            )


def _effect(where: str, value: Any) -> Effect:
    return Effect(_known(where, value, tuple(Effect)))


def _members(where: str, value: Any, *, required: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected a table, got {value!r}")
    for key in value:
        _known(f"{where}: key", key, allowed)
    for key in required:
        if key not in value:
            raise RecipeError(f"{where}: key {key!r} is missing")


def _known(where: str, value: Any, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise RecipeError(
            f"{where}: unknown {value!r}{_guess(value, allowed)}", hint=f"expected {_list_words(allowed)}"
        )
    return value


def _guess(value: Any, allowed: Iterable[FactValue]) -> str:
    close = difflib.get_close_matches(str(value), [str(item) for item in allowed], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _list_words(items: Iterable[FactValue]) -> str:
    return ", ".join(str(item).lower() if isinstance(item, bool) else str(item) for item in items)


def _text(where: str, value: Mapping[str, Any], key: str) -> str:
    text = value[key]
    if not isinstance(text, str) or not text.strip():
        raise RecipeError(f"{where}: {key} must be a text that is not empty, got {text!r}")
    return text


def _texts(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RecipeError(f"{where}: expected a list of texts, got {value!r}")
    return tuple(value)


def _table(where: str, data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: {key} must be a table, got {value!r}")
    return value


def _list(where: str, data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key, [])
    if not isinstance(value, list):
        raise RecipeError(f"{where}: write [[{key}]] with double brackets, got {value!r}")
    return value
