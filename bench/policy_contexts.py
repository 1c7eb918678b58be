"""Ten million situations through every shipped profile, judged by two more engines and by what must never happen.

1. Every situation that exists (27,648 for each profile; facts are closed, so that is all of them) is decided by the
   table, by plain Python over the rules of the file, and by Cedar. All three must agree.
2. Millions of random contexts, some with values that no fact has (wrong types, words that look alike), go through
   `decide`. A strange value must raise PolicyError; a proper one must get what plain Python says, must not reach A4
   or A5 without their conditions, and must not get a weaker effect when one fact worsens.
3. Single decisions are timed.

    python -m bench.policy_contexts [--contexts N] [--profile NAME] [--seed S] [--every K] [--out FILE]

Exit code 1 when anything is wrong. Cedar needs `pip install 'smallhold[cedar]'`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import smallhold.assist
from smallhold.assist.cedar import to_cedar
from smallhold.assist.context import FACTS, WORSENINGS, Context
from smallhold.assist.policy import Profile, decide, load_profile
from smallhold.assist.profile import shipped_profiles
from smallhold.errors import MissingExtraError, PolicyError
from smallhold.records import Effect, Provenance, effect_rank

PROFILES = Path(smallhold.assist.__file__).parent / "profiles"
PROVENANCE = Provenance(trace_id="0" * 32, simulated=True)
P99_MICROSECONDS = 100.0
_ORDER = ["auto", "notify_with_veto", "confirm_one", "confirm_two", "forbid"]
_NAMES = tuple(FACTS)
#: What a broken or hostile caller might pass. Cyrillic and full-width letters look like Latin ones. A 1 is missing: to
#: Python it equals True, and it gets what True gets.
STRANGE: tuple[Any, ...] = (
    *("А4", "A４", "A4 ", "a4", "A6", "vаlid", "valid\x00", "VALID", "hiɡh", "high\n", "given​", "nοne", "none "),
    *("", "true", "false", "True", "\ud800", "x" * 10_000, b"valid", b"A1"),
    *(None, 2, -1, 10**30, 0.5, float("nan"), float("inf"), 1j),
    *((), ("valid",), [], ["valid"], {}, {"A4"}, object(), Effect.AUTO, int, ...),
)


class SlowPolicy:
    """Independent twin: reads the TOML itself and looks at every rule for every question."""

    def __init__(self, name: str) -> None:
        self.files: list[dict[str, Any]] = []
        parent: str | None = name
        while parent is not None:
            data = tomllib.loads((PROFILES / f"{parent.replace('-', '_')}.toml").read_text(encoding="utf-8"))
            self.files.insert(0, data)
            parent = data.get("extends")

    @staticmethod
    def holds(rule: dict[str, Any], cell: dict[str, Any]) -> bool:
        """Whether a rule speaks of a situation."""
        for fact, wanted in rule["when"].items():
            if cell[fact] not in wanted if isinstance(wanted, list) else cell[fact] != wanted:
                return False
        return True

    def decide(self, cell: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Effect, clauses and obligations of one situation."""
        permitted = max((f["defaults"][cell["action"]] for f in self.files if "defaults" in f), key=_ORDER.index)
        deciding: list[dict[str, Any]] = []
        raised = "auto"
        others: list[dict[str, Any]] = []
        for data in self.files:
            permits = [rule for rule in data.get("permit", []) if self.holds(rule, cell)]
            if permits:
                deciding = permits
                permitted = max((rule["effect"] for rule in permits), key=_ORDER.index)
            for rule in data.get("restrict", []) + data.get("oblige", []):
                if self.holds(rule, cell):
                    others.append(rule)
                    raised = max(raised, rule.get("effect", "auto"), key=_ORDER.index)
        rules = deciding + others
        clauses = sorted({clause for rule in rules for clause in rule["clauses"]})
        words = {word for rule in rules for word in rule.get("obligations", [])}
        days = [int(word.split("=")[1]) for word in words if word.startswith("retain_days=")]
        words = {word for word in words if not word.startswith("retain_days=")}
        if days:
            words.add(f"retain_days={max(days)}")
        return max(permitted, raised, key=_ORDER.index), tuple(clauses), tuple(sorted(words))


class Cedar:
    """The same profile, exported and decided by Cedar; parsed once."""

    def __init__(self, profile: Profile) -> None:
        try:
            import cedarpy
        except ImportError as error:
            raise MissingExtraError("cedarpy", "cedar", "a second opinion on policies") from error
        self._ask = cedarpy.is_authorized_batch
        self._allow = cedarpy.Decision.Allow
        self._policies = cedarpy.PolicySet.from_str(to_cedar(profile))
        self._entities = cedarpy.Entities.from_json_str("[]")

    def effects(self, cells: list[dict[str, Any]]) -> list[str]:
        """The weakest effect that Cedar allows in each situation."""
        requests = [
            {
                "principal": 'Assistant::"bed"',
                "action": f'Action::"{effect}"',
                "resource": 'Patient::"p"',
                "context": {fact: value if isinstance(value, bool) else str(value) for fact, value in cell.items()},
            }
            for cell in cells
            for effect in _ORDER[:-1]
        ]
        answers = self._ask(requests, self._policies, self._entities)
        for answer in answers:
            if answer.diagnostics.errors:
                raise RuntimeError(f"Cedar could not evaluate a policy: {answer.diagnostics.errors[0]}")
        allowed = [answer.decision is self._allow for answer in answers]
        found = []
        for start in range(0, len(allowed), 4):
            row = allowed[start : start + 4]
            if row != sorted(row):
                raise RuntimeError(f"Cedar allows a weaker effect and not a stronger one: {row}")
            found.append(_ORDER[4 - sum(row)])
        return found


@dataclass
class Findings:
    """What was looked at, and everything that was wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    p99_us: dict[str, float] = field(default_factory=dict)

    def note(self, kind: str, what: str) -> None:
        """Count a fault; keep the first hundred in words."""
        self.counts[kind] += 1
        if len(self.wrong) < 100:
            self.wrong.append(f"{kind}: {what}")


def cells() -> Iterator[dict[str, Any]]:
    """Every situation."""
    for values in itertools.product(*FACTS.values()):
        yield dict(zip(FACTS, values, strict=True))


def load(name: str) -> Profile:
    """A shipped profile, drafts allowed, for discrete readings: so that all of them load."""
    return load_profile(name, allow_draft_permissions=True, source="discrete")


def check_every_cell(name: str, findings: Findings, *, every: int = 1) -> None:
    """Table, plain Python and Cedar over all situations, or every k-th."""
    profile, slow = load(name), SlowPolicy(name)
    cedar = Cedar(profile)
    chosen = list(itertools.islice(cells(), 0, None, every))
    for start in range(0, len(chosen), 512):
        part = chosen[start : start + 512]
        for cell, effect in zip(part, cedar.effects(part), strict=True):
            verdict = decide(profile, Context(**cell), PROVENANCE)
            if (verdict.effect.value, verdict.clauses, verdict.obligations) != slow.decide(cell):
                findings.note("plain Python disagrees", f"{name} {cell}")
            if verdict.effect.value != effect:
                findings.note("Cedar disagrees", f"{name} {cell}: {verdict.effect} and {effect}")
    findings.counts["cells"] += len(chosen)


def check_random(name: str, count: int, seed: int, findings: Findings) -> None:
    """Random contexts, one in fifty with a strange value, each proper one also made worse in one fact."""
    profile, slow = load(name), SlowPolicy(name)
    generator = random.Random(f"{seed}/{name}")
    known: dict[tuple[Any, ...], tuple[int, str, tuple[str, ...], tuple[str, ...]]] = {}
    ranks = {effect: effect_rank(effect) for effect in Effect}
    pick, values = generator.random, tuple(FACTS.values())
    worse = {
        position: {better: [b for a, b in WORSENINGS[fact] if a == better] for better, _ in WORSENINGS[fact]}
        for position, fact in enumerate(_NAMES)
        if fact in WORSENINGS
    }
    positions = tuple(worse)

    def expected(key: tuple[Any, ...]) -> tuple[int, str, tuple[str, ...], tuple[str, ...]]:
        found = known.get(key)
        if found is None:
            effect, clauses, obligations = slow.decide(dict(zip(_NAMES, key, strict=True)))
            found = known[key] = (_ORDER.index(effect), effect, clauses, obligations)
        return found

    for _ in range(count):
        key = [choices[int(pick() * len(choices))] for choices in values]
        if pick() < 0.02:
            position = int(pick() * len(values))
            key[position] = STRANGE[int(pick() * len(STRANGE))]
            _check_strange(profile, key, findings)
            continue
        verdict = decide(profile, Context(**dict(zip(_NAMES, key, strict=True))), PROVENANCE)
        rank, effect, clauses, obligations = expected(tuple(key))
        if verdict.effect != effect or verdict.clauses != clauses or verdict.obligations != obligations:
            findings.note("plain Python disagrees", f"{name} {key}")
        found = ranks[verdict.effect]
        if key[0] == "A5" and found < 4:
            findings.note("unauthorised A5", f"{name} {key}")
        if key[0] == "A4" and found < 2 and (key[1] != "valid" or key[2] != "closed_loop_cleared" or key[7]):
            findings.note("unauthorised A4", f"{name} {key}")
        position = positions[int(pick() * len(positions))]
        steps = worse[position].get(key[position])
        if steps:
            key[position] = steps[int(pick() * len(steps))]
            later = decide(profile, Context(**dict(zip(_NAMES, key, strict=True))), PROVENANCE)
            findings.counts["worsened"] += 1
            if ranks[later.effect] < found or rank > expected(tuple(key))[0]:
                findings.note("weaker when worse", f"{name} {key}")
    findings.counts["contexts"] += count


def _check_strange(profile: Profile, key: list[Any], findings: Findings) -> None:
    findings.counts["strange"] += 1
    try:
        verdict = decide(profile, Context(**dict(zip(_NAMES, key, strict=True))), PROVENANCE)
    except PolicyError:
        return
    findings.note("a strange value was accepted", f"{profile.name} {key}: {verdict.effect}")


def time_decisions(name: str, findings: Findings, *, count: int = 200_000, seed: int = 0) -> None:
    """99th percentile of single decisions, the making of the context included."""
    profile, generator = load(name), random.Random(seed)
    facts = [{fact: generator.choice(values) for fact, values in FACTS.items()} for _ in range(1000)]
    clock, times = time.perf_counter_ns, []
    for number in range(count):
        chosen = facts[number % 1000]
        begun = clock()
        decide(profile, Context(**chosen), PROVENANCE)
        times.append(clock() - begun)
    times.sort()
    findings.p99_us[name] = times[int(0.99 * count)] / 1e3


def main(argv: list[str] | None = None) -> int:
    """Check, print, exit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--contexts", type=int, default=10_000_000, help="random contexts, all profiles together")
    parser.add_argument("--profile", action="append", choices=shipped_profiles(), help="default: all; repeat for some")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="look at every k-th situation with Cedar; default all")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args(argv)
    names = tuple(args.profile or shipped_profiles())
    findings = Findings()
    for name in names:
        begun = time.monotonic()
        check_every_cell(name, findings, every=args.every)
        check_random(name, -(-args.contexts // len(names)), args.seed, findings)
        time_decisions(name, findings)
        print(f"{name:18} p99 {findings.p99_us[name]:6.2f} us  {time.monotonic() - begun:5.0f} s", flush=True)
        if findings.p99_us[name] > P99_MICROSECONDS:
            findings.note("slow", f"{name}: p99 {findings.p99_us[name]:.1f} us, promised are {P99_MICROSECONDS:.0f}")
    print(", ".join(f"{count:,} {kind}" for kind, count in sorted(findings.counts.items())))
    for line in findings.wrong:
        print(line, file=sys.stderr)
    print(f"wrong: {len(findings.wrong)}")
    if args.out:
        result = {"seed": args.seed, "counts": findings.counts, "p99_us": findings.p99_us, "wrong": findings.wrong}
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
