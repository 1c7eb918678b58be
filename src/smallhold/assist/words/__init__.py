"""Sentences from facts: one catalogue a language, the same keys in each, and nothing said that is not in the facts.

A message is made of `Facts`, which name no language: a key, numbers and codes. `Words.sentence` puts them into words.
The journal keeps both, the facts and the sentence that was shown: a reader can have it in another language, and an
auditor sees what was read at the time. No text is generated.

A code without a word of its own (a parameter of another sector, a drug) is written as it is.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from smallhold.errors import InputError
from smallhold.records import ActionClass, Counterfactual, Evidence, Fact, Facts, Priority, Proposal

_FOLDER = Path(__file__).parent
LANGUAGES: tuple[str, ...] = tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))
_MINUTE_MS, _HOUR_MS = 60_000, 3_600_000


class Words:
    """One language; from `load_words`."""

    def __init__(self, language: str, catalogue: Mapping[str, Any]) -> None:
        self.language = language
        self._catalogue = catalogue

    def number(self, value: float) -> str:
        """Whole numbers exactly, others in six significant digits, with the language's decimal mark."""
        text = str(int(value)) if float(value).is_integer() else f"{value:g}"
        return text.replace(".", self._catalogue["format"]["decimal"])

    def percent(self, fraction: float) -> str:
        """A fraction as whole per cent."""
        return self._say("format", "percent", number=f"{fraction:.0%}".removesuffix("%"))

    def count(self, noun: str, number: int) -> str:
        """A number of things: `minute`, `hour` or `point`, in the right form (CLDR's plural rules)."""
        forms: Mapping[str, str] = self._catalogue["plural"][noun]
        return forms[_PLURALS[self.language](number)].format(n=number)

    def span(self, span_ms: int) -> str:
        """Whole minutes under an hour, else whole hours."""
        minutes = max(0, span_ms) // _MINUTE_MS
        return self.count("minute", minutes) if minutes < 60 else self.count("hour", minutes // 60)

    def knows_task(self, task: str) -> bool:
        """Whether there is a sentence for a model's task."""
        return task in self._catalogue["model"]

    def knows(self, code: str) -> bool:
        """Whether there is a word for a parameter or a part of a score."""
        return code in self._catalogue["title"]

    def title(self, code: str, default: str = "") -> str:
        """What a parameter or a part of a score is called."""
        return self._word("title", code, default or code)

    def unit(self, unit: str) -> str:
        """A UCUM code as people write it; empty for plain numbers."""
        return self._word("unit", unit, unit)

    def reading(self, code: str, value: float, unit: str, default: str = "") -> str:
        """For example `heart rate 118 /min`."""
        return self._say("format", "reading", title=self.title(code, default), value=self.quantity(value, unit))

    def quantity(self, value: float, unit: str) -> str:
        """A number with its unit."""
        words = self.unit(unit)
        return self._say("format", "quantity", number=self.number(value), unit=words) if words else self.number(value)

    def ago(self, reading: str, age_ms: int) -> str:
        """For example `heart rate 118 /min, 5 min ago`."""
        return self._say("message", "ago", reading=reading, time=self.span(age_ms))

    def announcement(self, action: ActionClass, priority: Priority, sentence: str) -> str:
        """A sentence that can stand alone, on a pager or read aloud: what it is, how urgent, and why."""
        return self._say(
            "message",
            "announcement",
            action=self._catalogue["action"][action.value],
            priority=self._catalogue["priority"][priority.value],
            sentence=sentence,
        )

    def sentence(self, facts: Facts) -> str:
        """Facts in words.

        Raises:
            InputError: a key that no catalogue has, or a number or text that it needs is missing.
        """
        try:
            match facts.key:
                case "floor":
                    return self._floor(facts)
                case "model":
                    return self._model(facts)
                case "dose_overdue" | "dose_missed":
                    return self._dose(facts)
                case "signal_stale":
                    return self._say("message", facts.key, parameter=self.title(facts.texts["code"]))
                case _:
                    return self._say("message", facts.key, **facts.texts)
        except KeyError as error:
            raise InputError(f"words: facts {facts.key!r} cannot be said: {error} is missing") from error

    def _floor(self, facts: Facts) -> str:
        score = facts.texts["score"]
        title = self._word("score", score, facts.texts.get("title", score))
        text = self._say("message", "floor", score=title, total=self.number(facts.numbers["total"]))
        parts, missing = _of(facts, "part"), _of(facts, "missing")
        if parts:
            said = (
                self._say("message", "floor_part", reading=self._part(item), points=f"{item.numbers['points']:g}")
                for item in parts
            )
            text = self._say("message", "floor_parts", floor=text, parts=self._list(said))
        if missing:
            titles = (self.title(item.texts["code"], item.texts.get("title", "")) for item in missing)
            text = self._say("message", "floor_missing", floor=text, missing=self._list(titles))
        for item in _of(facts, "otherwise"):
            points = self.count("point", int(item.numbers["total"]))
            text = self._say("message", "floor_otherwise", floor=text, points=points, change=self._change(facts))
        for item in _of(facts, "otherwise_none"):
            points = self.count("point", int(item.numbers["below"]))
            text = self._say("message", "floor_otherwise_none", floor=text, points=points)
        return text

    def _part(self, item: Fact) -> str:
        code, title = item.texts["code"], item.texts.get("title", "")
        if "value" not in item.numbers:
            return self.title(code, title)
        return self.reading(code, item.numbers["value"], item.texts.get("unit", ""), title)

    def _model(self, facts: Facts) -> str:
        numbers, task = facts.numbers, facts.texts["task"]
        known: Mapping[str, str] = self._catalogue["model"]
        if task not in known and self.language == "en" and "wording" in facts.texts:
            text = facts.texts["wording"].format(
                risk=numbers["risk"], threshold=numbers["threshold"], hour=int(numbers["hours"])
            )
        else:
            condition = facts.texts["condition"]
            text = known.get(task, known["any"]).format(
                risk=self.percent(numbers["risk"]),
                threshold=self.percent(numbers["threshold"]),
                hours=self.count("hour", int(numbers["hours"])),
                condition=self._word("condition", condition, condition),
            )
        if _of(facts, "unsure"):
            text = self._say("message", "model_unsure", sentence=text)
        if evidence := _of(facts, "evidence"):
            said = self._catalogue["format"]["readings"].join(self._evidence(item) for item in evidence)
            text = self._say("message", "model_carried", sentence=text, evidence=said)
        if _of(facts, "unverified"):
            text = self._say("message", "model_unverified", sentence=text)
        for item in _of(facts, "otherwise"):
            risk = self.percent(item.numbers["risk"])
            text = self._say("message", "model_otherwise", sentence=text, change=self._change(facts), risk=risk)
        if _of(facts, "otherwise_none"):
            text = self._say("message", "model_otherwise_none", sentence=text)
        return text

    def _evidence(self, item: Fact) -> str:
        if "value" not in item.numbers:
            return item.texts.get("text", self.title(item.texts["code"]))
        reading = self.reading(item.texts["code"], item.numbers["value"], item.texts.get("unit", ""))
        return self.ago(reading, int(item.numbers["age_ms"]))

    def _change(self, facts: Facts) -> str:
        return self._list(self._part(item) for item in _of(facts, "change"))

    def _dose(self, facts: Facts) -> str:
        texts, numbers = facts.texts, facts.numbers
        return self._say(
            "message",
            facts.key,
            drug=texts["drug"],
            dose=self.quantity(numbers["dose"], texts["unit"]),
            route=self._word("route", texts["route"], texts["route"]),
            time=self.count("minute", int(numbers["minutes"])),
        )

    def _list(self, said: Iterable[str]) -> str:
        joint: str = self._catalogue["format"]["list"]
        return joint.join(said)

    def _word(self, section: str, key: str, default: str) -> str:
        words: Mapping[str, str] = self._catalogue[section]
        return words.get(key, default)

    def _say(self, section: str, key: str, **slots: str) -> str:
        template: str = self._catalogue[section][key]
        return template.format(**slots)


@cache
def load_words(language: str = "en") -> Words:
    """The words of a language.

    Raises:
        InputError: there is no catalogue of it; the message names those that there are.
    """
    if language not in LANGUAGES:
        raise InputError(f"language: expected one of {', '.join(LANGUAGES)}, got {language!r}")
    return Words(language, read_catalogue(language))


def read_catalogue(language: str) -> dict[str, Any]:
    """The catalogue of one of `LANGUAGES` as its file has it."""
    return tomllib.loads((_FOLDER / f"{language}.toml").read_text(encoding="utf-8"))


def evidence_fact(item: Evidence, unit: str) -> Fact:
    """One cited parameter; one without a reading keeps the text that came with it."""
    if item.value is None or item.age_ms is None:
        return Fact(key="evidence", numbers={"effect": item.effect}, texts={"code": item.code, "text": item.text})
    return Fact(
        key="evidence",
        numbers={"value": item.value, "age_ms": float(item.age_ms), "effect": item.effect},
        texts={"code": item.code, "unit": unit},
    )


def change_facts(found: Counterfactual | None, unit: Callable[[str], str]) -> Iterator[Fact]:
    """What would have made the difference to a model's alert, and that nothing was found where it was looked for.

    Args:
        found: None where it was not looked for.
        unit: Of a parameter, UCUM.
    """
    if found is None:
        return
    if found.risk is None:
        yield Fact(key="otherwise_none")
        return
    yield Fact(key="otherwise", numbers={"risk": found.risk})
    for code, value in zip(found.codes, found.values, strict=True):
        yield Fact(key="change", numbers={"value": value}, texts={"code": code, "unit": unit(code)})


def say(proposal: Proposal, words: Words) -> str:
    """The sentence of a proposal; one without facts keeps its own."""
    return proposal.rationale if proposal.facts is None else words.sentence(proposal.facts)


def _of(facts: Facts, key: str) -> list[Fact]:
    return [item for item in facts.items if item.key == key]


def _english(number: int) -> str:
    return "one" if number == 1 else "other"


def _french(number: int) -> str:
    return "one" if number in (0, 1) else "other"


def _russian(number: int) -> str:
    ten, hundred = number % 10, number % 100
    if ten == 1 and hundred != 11:
        return "one"
    return "few" if ten in (2, 3, 4) and hundred not in (12, 13, 14) else "many"


_PLURALS = {"en": _english, "fr": _french, "ru": _russian}
