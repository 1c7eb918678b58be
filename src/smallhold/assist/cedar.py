"""A profile as Cedar policies, for a second engine's opinion.

Source: Cedar policy language, https://docs.cedarpolicy.com, version 4 syntax.

Cedar knows permit and forbid, not five effects. Each effect becomes an action: `Action::"confirm_one"` asks "is
`confirm_one`, or something weaker, enough here?". A profile's effect is therefore the weakest one that Cedar allows;
when it allows none, the effect is `forbid`. Clauses and obligations have no counterpart in Cedar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from smallhold.assist.context import FactValue
from smallhold.assist.policy import Profile
from smallhold.assist.profile import Layer, Rule
from smallhold.records import ActionClass, Effect, effect_rank

_ASKED = tuple(Effect)[:-1]  # everything is at most `forbid`: nobody need ask


def to_cedar(profile: Profile) -> str:
    """The profile's effects as text that Cedar parses; the context of a request holds the facts by name.

    Args:
        profile: From `load_profile`.

    Returns:
        Policies, each with an `@id` that names its rule.
    """
    return "\n".join(_policies(profile.layers))


def _policies(layers: tuple[Layer, ...]) -> Iterator[str]:
    permits = [[rule for rule in layer.rules if rule.kind == "permit"] for layer in layers]
    every_permit = [rule for rules in permits for rule in rules]
    for action in ActionClass:
        # A layer can only raise a default: the strongest is the one that holds.
        default = max((layer.defaults[action] for layer in layers if action in layer.defaults), key=effect_rank)
        enough = [effect for effect in _ASKED if effect_rank(effect) >= effect_rank(default)]
        if enough:
            yield _policy("permit", f"default-{action}", enough, {"action": (action,)}, unless=every_permit)
    for position, layer in enumerate(layers):
        nearer = [rule for rules in permits[position + 1 :] for rule in rules]
        for rule in layer.rules:
            enough = [effect for effect in _ASKED if effect_rank(effect) >= effect_rank(rule.effect)]
            too_weak = [effect for effect in _ASKED if effect not in enough]
            name = f"{layer.name}-{rule.id}"
            match rule.kind:
                case "permit":
                    yield _policy("permit", name, enough, rule.when, unless=nearer)
                    if too_weak:  # within one layer the strongest permit wins
                        yield _policy("forbid", f"{name}-at-least", too_weak, rule.when, unless=nearer)
                case "restrict" if too_weak:
                    yield _policy("forbid", name, too_weak, rule.when)


def _policy(
    head: str,
    name: str,
    effects: list[Effect],
    when: Mapping[str, tuple[FactValue, ...]],
    *,
    unless: list[Rule] | None = None,
) -> str:
    actions = ", ".join(f'Action::"{effect}"' for effect in effects)
    text = f"@id({json.dumps(name)})\n{head} (principal, action in [{actions}], resource)"
    text += f"\nwhen {{ {_condition(when)} }}"
    if unless:
        text += f"\nunless {{ {' || '.join(f'({_condition(rule.when)})' for rule in unless)} }}"
    return text + ";"


def _condition(when: Mapping[str, tuple[FactValue, ...]]) -> str:
    return " && ".join(_fact(fact, values) for fact, values in when.items()) or "true"


def _fact(fact: str, values: tuple[FactValue, ...]) -> str:
    if len(values) == 1:
        return f"context.{fact} == {json.dumps(values[0])}"
    return f"{json.dumps(list(values))}.contains(context.{fact})"
