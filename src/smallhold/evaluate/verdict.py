"""The first line of a report: does the shipped model beat the simple things?

Judged by the paired difference with its interval at each horizon and by nothing else: above 0 it beats, below 0 it is
worse, and an interval that contains 0 is a match within noise, which is not a win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from smallhold.evaluate.result import METRICS, Difference, IntervalJson, MetricName, Result, model_name

SHIPPED = "shipped"
# What every report answers for, also by saying that a comparison was not made.
_SIMPLE = ("trees", "news2", "tfidf")
# The shipped model's own kin: compared in the tables, but no simpler than it is. So are bundles measured beside it.
_KIN = ("trees+shipped", "words", "fp32", "teacher", "ngrams", "trunk")
# Named only where they are not beaten: a sentence that lists six scores is not read.
_QUIET = ("mews", "qsofa", "sirs", "majority")


class Outcome(StrEnum):
    """What one difference says."""

    BEATS = "better"
    MATCHES = "within noise"
    WORSE = "worse"
    UNKNOWN = "not comparable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentence, and whether it is good news.

    Attributes:
        sentence: One or two plain sentences.
        tone: `good` when every comparison is won, `bad` when any is lost, else `neutral`.
    """

    sentence: str
    tone: str


def judge(difference: IntervalJson | None) -> Outcome:
    """What the interval of a difference (first minus second, higher is better) says.

    >>> str(judge({"value": 0.01, "low": -0.004, "high": 0.02}))
    'within noise'
    """
    if difference is None or difference["low"] is None or difference["high"] is None:
        return Outcome.UNKNOWN
    if difference["low"] > 0:
        return Outcome.BEATS
    return Outcome.WORSE if difference["high"] < 0 else Outcome.MATCHES


def compared_metric(difference: Difference) -> MetricName | None:
    """The metric that a difference is about, or None when it has none."""
    return next((name for name in METRICS if difference.get(name) is not None), None)


def difference_interval(difference: Difference) -> IntervalJson | None:
    """The interval of a difference, whatever its metric."""
    return difference.get("auroc") or difference.get("accuracy")


def verdict(result: Result) -> Verdict:
    """Say whether the shipped model beats the boosted trees, NEWS2 and whatever else is simpler than it is.

    Returns:
        A verdict that claims a win only where the whole interval lies above 0, and names every horizon at which it
        does not.
    """
    differences = result.get("differences", [])
    kin = {*_KIN, *(item["name"] for item in result.get("besides", []))}
    ours = [item for item in differences if item["models"][0] == SHIPPED and item["models"][1] not in kin]
    beaten = {
        name
        for name in _QUIET
        if all(judge(difference_interval(item)) is Outcome.BEATS for item in ours if item["models"][1] == name)
    }
    ours = [item for item in ours if item["models"][1] not in beaten]
    ours.sort(key=lambda item: item.get("horizon_h") or 0)
    rivals = list(dict.fromkeys(item["models"][1] for item in ours))
    in_rows = {row["model"] for row in result["rows"]}
    expected = {*in_rows, *(["tfidf"] if "num_texts" in result else [])}
    rivals += [name for name in _SIMPLE if name in expected and name not in rivals]
    rivals.sort(key=lambda name: _SIMPLE.index(name) if name in _SIMPLE else len(_SIMPLE))
    noun = "texts" if "num_texts" in result else "patients"
    where = f"On simulated {noun}, the" if result["is_simulated"] else "The"
    if not rivals:
        return Verdict(
            f"{where} shipped model was not compared with anything simpler: nothing here says whether it is needed.",
            "neutral",
        )
    parts: list[str] = []
    outcomes: list[Outcome] = []
    for rival in rivals:
        by_outcome: dict[Outcome, list[str]] = {}
        for item in (item for item in ours if item["models"][1] == rival):
            horizon_h = item.get("horizon_h")
            hour = "" if horizon_h is None else f"{horizon_h:g}"
            by_outcome.setdefault(judge(difference_interval(item)), []).append(hour)
        outcomes += by_outcome or [Outcome.UNKNOWN]
        parts.append(_against(_rival_name(rival), by_outcome))
    sentence = f"{where} shipped model {parts[0]}." + "".join(f" It {part}." for part in parts[1:])
    return Verdict(sentence, _tone(outcomes))


def _against(rival: str, by_outcome: dict[Outcome, list[str]]) -> str:
    """What follows `The shipped model`: the rival is named once, first."""
    if not by_outcome:
        return f"was not compared with {rival}"
    it = "them" if rival.endswith("trees") else "it"
    wording = {
        Outcome.BEATS: f"beats {rival}",
        Outcome.MATCHES: f"matches {it} within noise",
        Outcome.WORSE: f"is worse than {it}",
        Outcome.UNKNOWN: f"could not be compared with {it}",
    }
    clauses = [words + _hours(by_outcome[outcome]) for outcome, words in wording.items() if outcome in by_outcome]
    prefix = "" if Outcome.BEATS in by_outcome else f"does not beat {rival}: it "
    return prefix + _listed(clauses)


def _hours(hours: Sequence[str]) -> str:
    named = [hour for hour in hours if hour]
    return f" at {_listed(named)} h" if named else ""


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _rival_name(model: str) -> str:
    return "the boosted trees" if model == "trees" else model_name(model)


def _tone(outcomes: Sequence[Outcome]) -> str:
    if Outcome.WORSE in outcomes:
        return "bad"
    return "good" if set(outcomes) == {Outcome.BEATS} else "neutral"
