"""A smaller `make policy-contexts`, and proof that it finds what it looks for."""

from dataclasses import replace
from typing import Any

import pytest
from bench import policy_contexts
from bench.policy_contexts import Findings, check_every_cell, check_random, load, time_decisions

from smallhold.assist.cedar import to_cedar
from smallhold.assist.context import Context
from smallhold.assist.policy import Outcome, Profile, decide
from smallhold.assist.profile import shipped_profiles
from smallhold.records import ActionClass, Effect, Priority

NAMES = shipped_profiles()


@pytest.mark.parametrize("name", NAMES)
def test_random_and_strange_contexts_find_nothing(name: str) -> None:
    findings = Findings()
    check_random(name, 200_000 // len(NAMES), 7, findings)
    assert findings.wrong == []
    assert findings.counts["strange"] > 300 and findings.counts["worsened"] > 5_000


@pytest.mark.parametrize("name", NAMES)
def test_cedar_agrees(name: str) -> None:
    pytest.importorskip("cedarpy")
    findings = Findings()
    check_every_cell(name, findings, every=97)
    assert findings.wrong == [] and findings.counts["cells"] == 286


def weakened(profile: Profile, effect: Effect, into: Effect) -> Profile:
    """The profile with a fault: every cell of one effect has another."""
    outcomes = tuple(Outcome(into, o.clauses, o.obligations) if o.effect is effect else o for o in profile.outcomes)
    return replace(profile, outcomes=outcomes)


@pytest.mark.parametrize(
    ("effect", "into", "kinds"),
    [
        (Effect.FORBID, Effect.AUTO, {"unauthorised A4", "unauthorised A5", "weaker when worse"}),
        (Effect.CONFIRM_ONE, Effect.CONFIRM_TWO, {"plain Python disagrees"}),
    ],
)
def test_a_fault_in_the_table_is_found(
    monkeypatch: pytest.MonkeyPatch, effect: Effect, into: Effect, kinds: set[str]
) -> None:
    faulty = weakened(load("eu"), effect, into)
    monkeypatch.setattr(policy_contexts, "load", lambda name: faulty)
    findings = Findings()
    check_random("eu", 3_000, 1, findings)
    assert kinds <= {line.split(":")[0] for line in findings.wrong} | set(findings.counts)


def test_a_strange_value_that_is_accepted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(action=ActionClass.A1, priority=Priority.LOW)
    verdict = decide(load("eu"), context, policy_contexts.PROVENANCE)
    monkeypatch.setattr(policy_contexts, "decide", lambda *_: verdict)
    findings = Findings()
    check_random("eu", 500, 1, findings)
    assert findings.counts["a strange value was accepted"] > 0


def test_a_disagreement_with_cedar_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cedarpy")
    monkeypatch.setattr(policy_contexts, "to_cedar", lambda _: to_cedar(load("us-cds-nondevice")))
    findings = Findings()
    check_every_cell("us", findings, every=97)
    assert findings.counts["Cedar disagrees"] > 0 and findings.counts["plain Python disagrees"] == 0


def test_an_exported_profile_names_its_rules() -> None:
    text = to_cedar(load("eu-closed-loop"))
    assert '@id("eu-closed-loop-eu-closed-loop")' in text and '@id("base-clinical-new-treatment")' in text
    assert text.count("permit (") > 3 and "forbid (" in text
    assert 'context.action == "A5"' in text and "context.is_stale == true" in text


def test_a_decision_has_its_time(capsys: Any) -> None:
    best = []
    for _ in range(3):  # the machine is shared
        findings = Findings()
        time_decisions("cn", findings, count=20_000)
        best.append(findings.p99_us["cn"])
    print(f"p99 {min(best):.1f} us")
    assert min(best) <= 100.0
