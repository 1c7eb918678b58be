"""Sentences from facts: the same action, priority and values in every language, read back from the sentence."""

import random
import re
import string
from dataclasses import replace

import pytest

from smallhold.assist.consult import Consultation
from smallhold.assist.floor import propose
from smallhold.assist.hospital import NEWS2_RULES
from smallhold.assist.specialist import Watchdog
from smallhold.assist.words import LANGUAGES, change_facts, evidence_fact, load_words, read_catalogue, say
from smallhold.errors import InputError
from smallhold.records import ActionClass, Counterfactual, Evidence, Fact, Facts, Priority, Proposal, Risk
from smallhold.sectors.hospital.floor import FloorState
from smallhold.sectors.hospital.icu_risk import ALERT_WORDING
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS

from .small_ward import HOUR_MS, PROVENANCE, QUESTION, Logistic, make_bed, reading

CATALOGUES = {language: read_catalogue(language) for language in LANGUAGES}
PARTS = {"resp_rate", "spo2", "on_oxygen", "off_oxygen", "systolic", "pulse", "is_alert", "temperature"}


def slots(template: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(template) if name)


def test_the_catalogues_have_the_same_keys_and_the_same_slots() -> None:
    english = read_catalogue("en")
    assert LANGUAGES == ("en", "fr", "ru")
    for language in LANGUAGES:
        other = read_catalogue(language)
        assert {name: sorted(part) for name, part in other.items()} == {n: sorted(p) for n, p in english.items()}
        for section in set(english) - {"plural"}:
            for key, template in english[section].items():
                assert slots(other[section][key]) == slots(template), (language, section, key)
        for forms in other["plural"].values():
            assert set(forms) == {"one", "few", "many", "other"} and all("{n}" in form for form in forms.values())
        assert set(other["title"]) == PARTS | set(INDEX)
        assert {parameter.unit for parameter in PARAMETERS} <= set(other["unit"])


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", {0: "0 h", 1: "1 h", 2: "2 h", 5: "5 h", 11: "11 h", 21: "21 h", 24: "24 h"}),
        ("fr", {0: "0 heure", 1: "1 heure", 2: "2 heures", 21: "21 heures"}),
        ("ru", {1: "1 час", 2: "2 часа", 5: "5 часов", 11: "11 часов", 12: "12 часов", 21: "21 час", 24: "24 часа"}),
    ],
)
def test_plurals_follow_the_language(language: str, expected: dict[int, str]) -> None:
    assert {number: load_words(language).count("hour", number) for number in expected} == expected


def test_numbers_have_the_decimal_mark_of_the_language_and_lose_nothing() -> None:
    assert [load_words(language).number(38.5) for language in LANGUAGES] == ["38.5", "38,5", "38,5"]
    assert load_words("fr").percent(0.314) == "31\N{NO-BREAK SPACE}%" and load_words().percent(0.314) == "31%"
    assert load_words().number(1234567.0) == "1234567"  # a dose must never be rounded


def test_an_unknown_language_and_facts_that_cannot_be_said_are_refused() -> None:
    with pytest.raises(InputError, match="language: expected one of en, fr, ru, got 'tlh'"):
        load_words("tlh")
    with pytest.raises(InputError, match="words: facts 'weather' cannot be said"):
        load_words().sentence(Facts(key="weather"))
    with pytest.raises(InputError, match="facts 'model' cannot be said: 'risk' is missing"):
        load_words().sentence(Facts(key="model", texts={"task": "icu-risk", "condition": "deterioration"}))


def test_the_three_languages_of_one_alert_by_hand() -> None:
    facts = Facts(
        key="model",
        numbers={"risk": 0.41, "threshold": 0.3, "hours": 2.0},
        texts={"task": "icu-risk", "condition": "deterioration"},
        items=(
            Fact(
                key="evidence",
                numbers={"value": 38.5, "age_ms": 300_000.0, "effect": 0.2},
                texts={"code": "Temp", "unit": "Cel"},
            ),
        ),
    )
    assert load_words().sentence(facts) == (
        "Estimated risk of death in hospital 41% after 2 h in intensive care, at or above the alert threshold of 30%. "
        "Please review the patient. Carried by: temperature 38.5 °C, 5 min ago."
    )
    assert load_words("fr").sentence(facts).replace("\N{NO-BREAK SPACE}", " ") == (
        "Risque estimé de décès à l'hôpital 41 % après 2 heures de soins intensifs, au seuil d'alerte de 30 % ou "
        "au-dessus. Veuillez voir le patient. Éléments déterminants : température 38,5 °C, il y a 5 min."
    )
    assert load_words("ru").sentence(facts).replace("\N{NO-BREAK SPACE}", " ") == (
        "Оценка риска смерти в стационаре 41 %, в реанимации: 2 часа, не ниже порога тревоги 30 %. Пожалуйста, "
        "осмотрите пациента. Основание: температура 38,5 °C, 5 минут назад."
    )


def test_what_would_have_made_the_difference_is_said_and_so_is_that_nothing_would() -> None:
    facts = Facts(
        key="model",
        numbers={"risk": 0.31, "threshold": 0.3, "hours": 1.0},
        texts={"task": "icu-risk", "condition": "deterioration"},
        items=tuple(change_facts(Counterfactual(codes=("SaO2",), values=(94.0,), risk=0.29), lambda _: "%")),
    )
    ends = [" No alert with oxygen saturation 94 % (risk 29%).", "(risque 29 %).", "(риск 29 %)."]
    for language, end in zip(LANGUAGES, ends, strict=True):
        text = load_words(language).sentence(facts).replace("\N{NO-BREAK SPACE}", " ")
        assert text.endswith(end) and "94 %" in text
    none = replace(facts, items=tuple(change_facts(Counterfactual(codes=(), values=()), lambda _: "%")))
    assert load_words().sentence(none).endswith("No plausible change of one or two readings would take it back.")
    assert list(change_facts(None, lambda _: "%")) == []


def test_the_floor_s_alert_says_which_vital_sign_would_have_made_the_difference() -> None:
    bed = make_bed("p")
    for event in (reading("RespRate", 26, 3), reading("SysABP", 88, 3), reading("HR", 115, 4)):
        step = bed.observe(event, event.t_received_ms)
    message = step.announced[0].message
    assert message.startswith("NEWS2 8: ") and message.endswith(
        "; it would be 6 points with systolic pressure 101 mmHg"
    )
    facts = step.announced[0].facts
    assert facts is not None
    assert load_words("ru").sentence(facts).endswith("; было бы 6 баллов при: систолическое давление 101 мм рт. ст.")


def test_the_english_sentence_is_the_sector_s_own_wording() -> None:
    facts = Facts(
        key="model",
        numbers={"risk": 0.413, "threshold": 0.3, "hours": 24.0},
        texts={"task": "icu-risk", "condition": "deterioration"},
    )
    assert load_words().sentence(facts) == ALERT_WORDING.format(risk=0.413, hour=24, threshold=0.3)


def test_a_task_without_words_has_its_own_wording_in_english_and_a_plain_sentence_elsewhere() -> None:
    facts = Facts(
        key="model",
        numbers={"risk": 0.5, "threshold": 0.3, "hours": 1.0},
        texts={
            "task": "pump-wear",
            "condition": "wear",
            "wording": "Wear {risk:.0%} after {hour} h of {threshold:.0%}",
        },
    )
    assert load_words().sentence(facts) == "Wear 50% after 1 h of 30%"
    assert "(wear)" in load_words("fr").sentence(facts) and "1 час" in load_words("ru").sentence(facts)


# --- a thousand decisions ---------------------------------------------------------------------------------------------


def decisions(seed: int, count: int) -> list[Proposal]:
    """Proposals of floor, model, gate and medication as the ward makes them, from random patients."""
    rng = random.Random(seed)
    consultation = Consultation("p", Logistic("p"), Watchdog(5.0), QUESTION)
    found: list[Proposal] = []
    while len(found) < count:
        kind = len(found) % 4
        if kind == 0:
            state, readings = FloorState("p"), {}
            ranges = {"HR": (30, 150), "RespRate": (5, 35), "Temp": (34, 41), "SysABP": (70, 230), "SaO2": (85, 100)}
            for code, (low, high) in ranges.items():
                if rng.random() < 0.8:
                    value = round(rng.uniform(low, high), 1)
                    state.observe(code, value, 0)
                    readings[code] = (value, 0)
            proposal = propose(NEWS2_RULES, state.scores(0, PROVENANCE), readings, is_degraded=False)
            found += [] if proposal is None else [proposal]
        elif kind == 1:
            p = rng.uniform(QUESTION.alert_threshold, 1)
            risk = Risk(
                patient="p",
                task=QUESTION.task,
                field=QUESTION.field,
                t_ms=0,
                choice=None,
                probabilities={"no": 1 - p, "yes": p},
                confidence=max(p, 1 - p),
                has_abstained=rng.random() < 0.3,
                horizon_h=rng.randint(1, 48),
                model="m",
                latency_ms=0.0,
                provenance=PROVENANCE,
            )
            proposal = consultation.suggest(risk, earlier=None, is_degraded=False)
            assert proposal is not None and proposal.facts is not None
            items = tuple(
                evidence_fact(
                    Evidence(
                        code=parameter.name,
                        observations=(),
                        text="",
                        effect=0.5,
                        value=round(rng.uniform(parameter.plausible_low, parameter.plausible_high), 2),
                        age_ms=rng.randint(0, 48 * HOUR_MS),
                    ),
                    parameter.unit,
                )
                for parameter in rng.sample(PARAMETERS, rng.randint(1, 4))
            )
            facts = replace(proposal.facts, items=(*proposal.facts.items, *items))
            found.append(replace(proposal, facts=facts))
        elif kind == 2:
            base = found[0]
            facts = Facts(key="signal_stale", texts={"code": rng.choice(PARAMETERS).name})
            found.append(replace(base, source="gate", priority=Priority.LOW, facts=facts))
        else:
            facts = Facts(
                key=rng.choice(["dose_overdue", "dose_missed"]),
                numbers={"dose": float(rng.randint(1, 5000)), "minutes": float(rng.randint(30, 600))},
                texts={"drug": "paracetamol", "unit": "mg", "route": rng.choice(["oral", "iv"])},
            )
            priority = rng.choice([Priority.LOW, Priority.MEDIUM])
            found.append(replace(found[0], source="medication", priority=priority, facts=facts))
    return found


def read_back(sentence: str, language: str) -> tuple[ActionClass, Priority, set[str], list[float]]:
    """What a reader of one language takes from a sentence: what to do, how urgent, what is named, every number."""
    catalogue = CATALOGUES[language]
    action = [code for code, words in catalogue["action"].items() if sentence.startswith(f"{words}, ")]
    head, rest = re.split(r" ?: ", sentence, maxsplit=1)
    priority = [code for code, words in catalogue["priority"].items() if head.endswith(f", {words}")]
    assert len(action) == len(priority) == 1, sentence
    named, left = set(), rest
    # The longest first: one title may be part of another.
    for title in sorted(catalogue["title"].values(), key=len, reverse=True):
        if title in left:
            named.add(title)
            left = left.replace(title, "@")
    for unit in sorted(set(catalogue["unit"].values()), key=len, reverse=True):
        left = left.replace(f" {unit}", " ") if unit not in ("", "%") else left
    left = left.replace("NEWS2", "@")
    mark = re.escape(catalogue["format"]["decimal"])
    numbers = re.findall(rf"\d+(?:{mark}\d+)?", left)
    codes = {code for code, title in catalogue["title"].items() if title in named}
    return ActionClass(action[0]), Priority(priority[0]), codes, [float(n.replace(",", ".")) for n in numbers]


def expected_numbers(facts: Facts) -> list[float]:
    """Every number of the facts in the order in which they are said."""
    n = facts.numbers
    if facts.key == "floor":
        parts = [item for item in facts.items if item.key == "part"]
        said = [[item.numbers["value"]] * ("value" in item.numbers) + [item.numbers["points"]] for item in parts]
        return [n["total"], *(number for part in said for number in part)]
    if facts.key == "model":
        evidence = [item.numbers for item in facts.items if item.key == "evidence"]
        ages = [int(item["age_ms"]) // 60_000 for item in evidence]
        spans = [float(age if age < 60 else age // 60) for age in ages]
        percents = [float(f"{n[name] * 100:.0f}") for name in ("risk", "threshold")]
        values = [number for item, span in zip(evidence, spans, strict=True) for number in (item["value"], span)]
        return [percents[0], n["hours"], percents[1], *(float(f"{value:g}") for value in values)]
    return [n["dose"], n["minutes"]] if facts.key.startswith("dose") else []


def test_a_thousand_decisions_say_the_same_in_every_language() -> None:
    proposals = decisions(seed=7, count=1000)
    assert {proposal.source for proposal in proposals} == {"floor", "model", "gate", "medication"}
    for proposal in proposals:
        facts = proposal.facts
        assert facts is not None
        titles = {item.texts["code"] for item in facts.items if "code" in item.texts}
        titles |= {facts.texts["code"]} if "code" in facts.texts else set()
        for language in LANGUAGES:
            words = load_words(language)
            text = words.announcement(proposal.action, proposal.priority, say(proposal, words))
            action, priority, codes, numbers = read_back(text, language)
            assert (action, priority) == (proposal.action, proposal.priority), text
            named = {CATALOGUES[language]["title"][code] for code in codes}
            assert named == {words.title(code) for code in titles}, text
            assert numbers == pytest.approx(expected_numbers(facts)), text


# --- at the bed -------------------------------------------------------------------------------------------------------


def test_a_ward_in_another_language_decides_the_same_and_journals_facts_and_sentence() -> None:
    events = [reading("RespRate", 26, 3), reading("SysABP", 88, 3), reading("HR", 115, 4), reading("HR", 0, 5)]
    steps = {}
    for language in LANGUAGES:
        bed = make_bed("p", Logistic("p"), language=language)
        steps[language] = [bed.observe(event, event.t_received_ms) for event in events] + [bed.close_bin(HOUR_MS)]
    for english, french, russian in zip(*(steps[language] for language in LANGUAGES), strict=True):
        for one, other in ((english, french), (english, russian)):
            assert (one.scores, one.gate, one.verdicts) == (other.scores, other.gate, other.verdicts)
            assert [p.facts for p in one.proposals] == [p.facts for p in other.proposals]
            assert [(a.id, a.priority, a.facts) for a in one.announced] == [
                (a.id, a.priority, a.facts) for a in other.announced
            ]
            assert all(a.message != b.message for a, b in zip(one.announced, other.announced, strict=True))
    loud = [alert for step in steps["ru"] for alert in step.announced if alert.priority is Priority.HIGH]
    assert loud[0].message.startswith("NEWS2 8: частота дыхания 26 /мин (+3)")
    assert loud[0].facts is not None and load_words().sentence(loud[0].facts).startswith("NEWS2 8: respiratory rate 26")


def test_a_ward_in_an_unknown_language_is_refused() -> None:
    with pytest.raises(InputError, match="language: expected one of"):
        make_bed("p", language="xx")
