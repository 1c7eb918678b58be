"""The floor for text: what a described complaint calls for, whatever a model makes of it.

`symptoms.json` lists phrases per language. A phrase is a few stems; it is met when different words of the text begin
with all of them, in any order, within a few neighbouring words (`a|b`: one of both; `word=`: the whole word). No
negation is known: `no chest pain` calls too, because the other mistake costs a life. The patient's page applies the
same file by the same rules in the browser, and tests hold both together.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Urgency = Literal["emergency", "staff", "soon", "routine"]
_Phrase = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class SymptomRules:
    """What the file says, ready to be applied.

    Attributes:
        phrases: Name of a flag to its phrases in all languages: people mix them.
        window: Neighbouring words that a phrase must lie within.
        least_confidence: A model less sure of its answer counts as one that abstained.
        model_languages: What the model was taught to read; in others it is not asked.
        urgency: The model's answer to how soon a person should look.
    """

    phrases: dict[str, tuple[_Phrase, ...]]
    window: int
    least_confidence: float
    model_languages: tuple[str, ...]
    urgency: dict[str, Urgency]


def rules_bytes() -> bytes:
    """The file as it is, for other runtimes."""
    return files("smallhold.sectors.hospital").joinpath("symptoms.json").read_bytes()


@cache
def load_rules() -> SymptomRules:
    """The rules that come with this version."""
    value: dict[str, Any] = json.loads(rules_bytes())
    phrases = {
        name: tuple(
            tuple(tuple(stem.split("|")) for stem in phrase.split())
            for language in flag["phrases"].values()
            for phrase in language
        )
        for name, flag in value["flags"].items()
    }
    names = ("window", "least_confidence", "urgency")
    return SymptomRules(
        phrases, model_languages=tuple(value["model_languages"]), **{name: value[name] for name in names}
    )


def words_of(text: str) -> list[str]:
    """The words of a text: lower case, without accents; everything but letters and digits parts them."""
    plain = unicodedata.normalize("NFKD", text.lower())
    kept = "".join(c if unicodedata.category(c)[0] in "LN" else "" if _is_mark(c) else " " for c in plain)
    return kept.split()


def red_flags(text: str, rules: SymptomRules | None = None) -> tuple[str, ...]:
    """Names of the flags that a text meets, in the order of the file."""
    rules = rules or load_rules()
    words = words_of(text)
    return tuple(
        name
        for name, phrases in rules.phrases.items()
        if any(_is_met(phrase, words, rules.window) for phrase in phrases)
    )


def urgency_of(
    flags: tuple[str, ...], choice: str | None, confidence: float, rules: SymptomRules | None = None
) -> Urgency:
    """How soon a person should look.

    Args:
        flags: From `red_flags`.
        choice: The model's answer; None when it abstained or was not asked.
        confidence: Its probability.
        rules: Default: the ones that come with this version.
    """
    rules = rules or load_rules()
    if flags:
        return "emergency"
    if choice is None or confidence < rules.least_confidence:
        return "staff"
    return rules.urgency.get(choice, "soon")


def _is_mark(c: str) -> bool:
    return unicodedata.category(c)[0] == "M"


def _is_met(phrase: _Phrase, words: list[str], window: int) -> bool:
    places = [[i for i, word in enumerate(words) if any(_begins(word, stem) for stem in stems)] for stems in phrase]
    return all(places) and any(_fits(places, start, start + window, ()) for start in places[0])


def _fits(places: list[list[int]], first: int, end: int, used: tuple[int, ...]) -> bool:
    """Whether every stem has a word of its own around the first one's, all within the window."""
    if not used:
        window = end - first
        return any(
            _fits(places[1:], low, low + window, (first,)) for low in range(first - window + 1, first + 1)
        )  # every window that holds the first one's word
    if not places:
        return True
    return any(_fits(places[1:], first, end, (*used, i)) for i in places[0] if first <= i < end and i not in used)


def _begins(word: str, stem: str) -> bool:
    return word == stem[:-1] if stem.endswith("=") else word.startswith(stem)
