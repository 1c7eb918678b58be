"""Red flags in three languages, and how soon a person should look."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.sectors.hospital.symptoms import load_rules, red_flags, urgency_of, words_of

MET = [
    ("My chest hurts", "chest-pain"),
    ("PAIN in my chest since noon!!", "chest-pain"),
    ("I can’t breathe", "breathing"),
    ("I am short of breath", "breathing"),
    ("her face is drooping", "stroke"),
    ("my left arm is weak", "stroke"),
    ("I fainted twice", "unconscious"),
    ("I am bleeding a lot", "bleeding"),
    ("my tongue is swollen", "allergic-reaction"),
    ("I don't want to live any more", "suicide"),
    ("I want to die", "suicide"),
    ("I took too many pills", "poisoning"),
    ("the worst headache of my life", "sudden-headache"),
    ("my skin is mottled", "sepsis"),
    ("J'ai mal à la poitrine", "chest-pain"),
    ("Je n’arrive plus à respirer", "breathing"),
    ("Je suis essoufflée", "breathing"),
    ("Sa bouche est tombée d'un côté, visage paralysé", "stroke"),
    ("J'ai perdu connaissance", "unconscious"),
    ("Je saigne beaucoup", "bleeding"),
    ("Ma langue gonfle", "allergic-reaction"),
    ("j'ai envie de mourir", "suicide"),
    ("J'ai pris trop de comprimés", "poisoning"),
    ("mal de tête très soudain", "sudden-headache"),
    ("У меня болит в груди", "chest-pain"),
    ("давит за грудиной", "chest-pain"),
    ("Не могу дышать", "breathing"),
    ("задыхаюсь", "breathing"),
    ("лицо перекосило", "stroke"),
    ("онемела левая рука", "stroke"),
    ("он без сознания", "unconscious"),
    ("рвота с кровью", "bleeding"),
    ("отёк горла", "allergic-reaction"),
    ("не хочу жить", "suicide"),
    ("Выпил слишком много таблеток", "poisoning"),
    ("резко заболела голова", "sudden-headache"),
    ("спутанное сознание", "sepsis"),
]
CALM = [
    "Red, itchy patches on both elbows for a month, and the skin flakes.",
    "I slept badly",
    "My knee is swollen",
    "burning when I pee",
    "a mild headache since yesterday",
    "J'ai des plaques rouges sur les coudes",
    "Mon genou est gonflé",
    "большая сыпь на груди",
    "у меня температура и кашель",
    "насморк уже неделю",
    "",
    "!!!",
    "🙂",
]


@pytest.mark.parametrize(("text", "flag"), MET)
def test_a_red_flag_is_seen(text: str, flag: str) -> None:
    assert flag in red_flags(text)
    assert urgency_of(red_flags(text), "Acne", 1.0) == "emergency"


@pytest.mark.parametrize("text", CALM)
def test_a_calm_complaint_is_left_to_the_model(text: str) -> None:
    assert red_flags(text) == ()


def test_every_flag_has_phrases_in_every_language_and_a_case_here() -> None:
    assert {flag for _, flag in MET} == set(load_rules().phrases)


def test_an_unsure_or_absent_model_means_staff_and_an_unknown_answer_means_soon() -> None:
    assert urgency_of((), None, 0.0) == "staff"
    assert urgency_of((), "Acne", 0.89) == "staff"
    assert urgency_of((), "Acne", 0.95) == "routine"
    assert urgency_of((), "Pneumonia", 0.95) == "soon"
    assert urgency_of((), "something new", 0.95) == "soon"


@given(st.text(max_size=200), st.sampled_from([text for text, _ in MET]))
def test_words_before_and_after_hide_no_flag(noise: str, text: str) -> None:
    assert set(red_flags(text)) <= set(red_flags(f"{noise} . {text} . {noise}"))


@given(st.text(max_size=300))
def test_any_text_has_words_without_marks_or_blanks(text: str) -> None:
    assert all(word and " " not in word for word in words_of(text))


def slow_red_flags(text: str) -> set[str]:
    """The rule as it is said: each stem a word of its own, all within the window; by trying every choice of words."""
    rules, words = load_rules(), words_of(text)

    def begins(word: str, stem: str) -> bool:
        return word == stem[:-1] if stem.endswith("=") else word[: len(stem)] == stem

    def met(phrase: tuple[tuple[str, ...], ...]) -> bool:
        return any(
            max(chosen) - min(chosen) < rules.window
            and all(any(begins(words[i], s) for s in stems) for i, stems in zip(chosen, phrase, strict=True))
            for chosen in permutations(range(len(words)), len(phrase))
        )

    return {name for name, phrases in rules.phrases.items() if any(map(met, phrases))}


@pytest.mark.parametrize("text", [text for text, _ in MET[::3]] + CALM[:9:2] + [
    "chest one two three four five pain", "chest one two three four five six pain", "pain chest", "pain pain",
])  # fmt: skip
def test_the_search_agrees_with_trying_everything(text: str) -> None:
    assert set(red_flags(text)) == slow_red_flags(text)
