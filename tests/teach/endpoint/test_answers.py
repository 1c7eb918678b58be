"""From a response to a label: what counts as an answer, and what its log-probabilities say of the other choices."""

import json
import math
import random

import numpy as np
import pytest

from smallhold.sectors.data_sets import Privacy
from smallhold.sectors.tasks import find_task
from smallhold.teach.endpoint.answers import (
    Piece,
    Sample,
    answer_schema,
    choice_probabilities,
    make_question,
    read_pieces,
    read_sample,
)
from smallhold.teach.endpoint.presets import Preset
from smallhold.teach.endpoint.recipe import AskChoice

CHOICES = ("card_arrival", "card_swallowed", "cash", 'say "hi"', "Ölwechsel")


def chat(content, finish="stop", logprobs=None):
    return {"choices": [{"message": {"content": content}, "finish_reason": finish, "logprobs": logprobs}]}


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (chat('{"label": "cash"}'), "cash"),
        (chat(' {"label":\n"cash"} '), "cash"),
        (chat('{"label": "\\u00d6lwechsel"}'), "Ölwechsel"),
        (chat(" cash\n"), "cash"),
        ({"choices": [{"text": '{"label": "cash"}', "finish_reason": "stop"}]}, "cash"),
        (chat('{"label": "Cash"}'), "unknown_label"),
        (chat('{"label": 2}'), "unknown_label"),
        (chat('{"label": ["cash"]}'), "unknown_label"),
        (chat('{"label": "cash", "sure": true}'), "not_json"),
        (chat('{"label": "cash"} I hope this helps'), "not_json"),
        (chat('```json\n{"label": "cash"}\n```'), "not_json"),
        (chat("it is cash"), "not_json"),
        (chat('["cash"]'), "not_json"),
        (chat("[" * 5000), "not_json"),
        (chat(""), "no_text"),
        (chat(None), "no_text"),
        (chat('{"label": "ca', finish="length"), "cut"),
        (chat(None, finish="content_filter"), "filtered"),
    ],
)
def test_exactly_what_was_asked_for_is_an_answer(response, found):
    read = read_sample(response, CHOICES, AskChoice())
    assert (CHOICES[read.choice] if isinstance(read, Sample) else read) == found


def test_a_reason_is_read_where_one_was_asked_for():
    ask = AskChoice(rationale=True)
    read = read_sample(chat('{"rationale": " Money came out. ", "label": "cash"}'), CHOICES, ask)
    assert (read.choice, read.rationale) == (2, "Money came out.")
    assert read_sample(chat('{"label": "cash"}'), CHOICES, ask) == "not_json"
    assert read_sample(chat("cash"), CHOICES, ask) == "not_json"
    half = read_sample(chat('{"rationale": "\\ud800", "label": "cash"}'), CHOICES, ask)
    assert half.rationale.encode() == b"?"


def test_the_request_carries_question_choices_text_and_a_closed_schema():
    task = find_task("news-sentiment")
    asked = make_question(
        task, AskChoice(rationale=True, seed=7), Preset(json_schema=True), "m", "fell {text}", Privacy.PUBLIC, 2
    )
    assert asked.body["seed"] == 9
    user = asked.body["messages"][1]["content"]
    assert task.question in user
    assert "- bullish\n- neutral" in user
    assert user.count("fell {text}") == 1  # what is filled in is not looked at again
    schema = asked.body["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["rationale", "label"]  # the reason comes first
    assert schema["properties"]["label"]["enum"] == list(task.choices)
    assert schema["additionalProperties"] is False


def test_without_a_schema_the_words_alone_ask_for_json():
    task = find_task("news-sentiment")
    settings = Preset(json_schema=False, max_tokens_key="max_completion_tokens")
    asked = make_question(task, AskChoice(soft="logprobs", top_logprobs=5), settings, "m", "fell", Privacy.PUBLIC, 0)
    assert "response_format" not in asked.body
    assert asked.body["max_completion_tokens"] == 64
    assert (asked.body["logprobs"], asked.body["top_logprobs"]) == (True, 5)
    plain = make_question(task, AskChoice(api="completions"), settings, "m", "fell", Privacy.PUBLIC, 0)
    assert plain.path == "/completions"
    assert plain.body["prompt"].endswith('{"label": "the choice"}\n\nAnswer: ')


def pieces_of(path, tree):
    """A generated path through a tree of tokens `{prefix: {token: probability}}`, as log-probabilities."""
    pieces, text = [], b""
    for token in path:
        options = tree[text]
        pieces.append(Piece(token, math.log(options[token]), tuple((t, math.log(p)) for t, p in options.items())))
        text += token
    return pieces


def test_a_small_tree_by_hand():
    tree = {
        b"": {b'{"label": "': 1.0},
        b'{"label": "': {b"ca": 0.9, b"say": 0.06, b"I": 0.04},
        b'{"label": "ca': {b"rd_": 0.5, b'sh"': 0.5},
        b'{"label": "card_': {b"arrival": 0.8, b"swallowed": 0.2},
        b'{"label": "card_arrival': {b'"}': 1.0},
    }
    spelled = [json.dumps(choice, ensure_ascii=False)[1:].encode() for choice in CHOICES]
    pieces = pieces_of([b'{"label": "', b"ca", b"rd_", b"arrival", b'"}'], tree)
    found, mass = choice_probabilities(pieces, 11, spelled, 0)
    expected = np.array([0.9 * 0.5 * 0.8, 0.9 * 0.5 * 0.2, 0.9 * 0.5, 0.06, 0.0])
    assert found == pytest.approx(expected / expected.sum())
    assert mass == pytest.approx(expected.sum())


@pytest.mark.parametrize("seed", range(20))
def test_choices_that_part_from_the_generated_one_are_found_exactly(seed):
    """The slow twin: the choices' own probabilities, spelled letter by letter along one stem."""
    rng = random.Random(seed)
    stems = ["", *("x" * n for n in range(1, 6))]
    choices = [stem + letter + "end" for stem, letter in zip(stems, "abcdef", strict=True)]
    weights = np.array([rng.random() + 0.01 for _ in choices])
    truth = weights / weights.sum()
    head = b'{"label":"'
    spelled = [json.dumps(choice)[1:].encode() for choice in choices]
    chosen = rng.randrange(len(choices))
    whole = head + spelled[chosen] + b"}"
    pieces, at = [], 0
    straddle = rng.random() < 0.5  # a token that begins in front of the label
    first = len(head) + 1 if straddle else len(head)
    while at < len(whole):
        end = first if at == 0 else at + 1
        token, options = whole[at:end], {}
        for k, choice in enumerate(spelled):
            full = head + choice + b"}"
            if full.startswith(whole[:at]):
                key = full[at:end]
                options[key] = options.get(key, 0.0) + float(truth[k])
        total = sum(options.values())
        pieces.append(
            Piece(token, math.log(options[token] / total), tuple((t, math.log(p / total)) for t, p in options.items()))
        )
        at = end
    found, mass = choice_probabilities(pieces, len(head), spelled, chosen)
    assert mass == pytest.approx(1)
    assert found[: chosen + 1] == pytest.approx(truth[: chosen + 1])
    assert found[chosen + 1 :].sum() == pytest.approx(truth[chosen + 1 :].sum())  # parted only further down the stem
    if chosen >= len(choices) - 2:
        assert found == pytest.approx(truth)


def test_what_several_choices_begin_with_is_shared_and_nothing_is_negative_or_lost():
    spelled = [b'aa"', b'ab"', b'c"']
    pieces = [Piece(b'c"', math.log(0.5), ((b"a", math.log(0.4)), (b"zz", math.log(0.1))))]
    found, mass = choice_probabilities(pieces, 0, spelled, 2)
    assert found == pytest.approx([0.2 / 0.9, 0.2 / 0.9, 0.5 / 0.9])
    assert mass == pytest.approx(0.9)
    found, mass = choice_probabilities([Piece(b'c"', -9999.0, ())], 0, spelled, 2)
    assert (found.tolist(), mass) == ([0, 0, 1], 0)


def test_both_forms_of_log_probabilities_are_read():
    content = [
        {"token": "Ö", "bytes": [195, 150], "logprob": -0.5, "top_logprobs": [{"token": "O", "logprob": -2}]},
        {"token": "l", "logprob": 0, "top_logprobs": []},
    ]
    assert read_pieces({"content": content}) == [Piece("Ö".encode(), -0.5, ((b"O", -2.0),)), Piece(b"l", 0.0, ())]
    old = {"tokens": ["a", "b"], "token_logprobs": [-1, -2], "top_logprobs": [{"a": -1, "c": -3}, {}]}
    assert read_pieces(old) == [Piece(b"a", -1.0, ((b"a", -1.0), (b"c", -3.0))), Piece(b"b", -2.0, ())]
    for wrong in (
        None,
        {},
        {"content": None},
        {"content": [{"token": "a"}]},
        {"tokens": ["a"], "token_logprobs": []},
        {"tokens": ["a"], "token_logprobs": [10**400]},
        3,
    ):
        assert read_pieces(wrong) is None


@pytest.mark.parametrize(
    "logprobs",
    [None, {"content": [{"token": "other text", "logprob": 0.0}]}, {"content": [{"token": "x"}]}],
    ids=["none", "of another text", "malformed"],
)
def test_an_answer_without_its_log_probabilities_is_named(logprobs):
    assert (
        read_sample(chat('{"label": "cash"}', logprobs=logprobs), CHOICES, AskChoice(soft="logprobs")) == "no_logprobs"
    )


def test_a_label_that_a_grammar_forced_is_not_taken_for_a_certain_one():
    """Such servers report what the model would have said: the label's own probability is next to nothing."""
    content = [
        {"token": '{"label": "', "logprob": -9.0, "top_logprobs": [{"token": "Well", "logprob": -0.1}]},
        {"token": 'cash"', "logprob": -8.0, "top_logprobs": [{"token": " This", "logprob": -0.5}]},
        {"token": "}", "logprob": -7.0, "top_logprobs": []},
    ]
    response = chat('{"label": "cash"}', logprobs={"content": content})
    assert read_sample(response, CHOICES, AskChoice(soft="logprobs")) == "mass_elsewhere"
    assert read_sample(response, CHOICES, AskChoice()).choice == 2


def test_the_probabilities_of_a_response_are_those_of_the_choices():
    spelled = ['{"', "label", '":', ' "ca', "rd_", "arr", 'ival"}']
    others = {' "ca': [(' "say', 0.2)], "rd_": [('sh"', 0.25)], "arr": [("sw", 0.3)]}
    tokens = [(token, others.get(token, [])) for token in spelled]
    content = [
        {
            "token": token,
            "logprob": math.log(1 - sum(p for _, p in others)) if others else 0.0,
            "top_logprobs": [{"token": other, "logprob": math.log(p)} for other, p in others],
        }
        for token, others in tokens
    ]
    read = read_sample(
        chat('{"label": "card_arrival"}', logprobs={"content": content}), CHOICES, AskChoice(soft="logprobs")
    )
    assert read.probabilities == pytest.approx([0.8 * 0.75 * 0.7, 0.8 * 0.75 * 0.3, 0.8 * 0.25, 0.2, 0.0])


def test_the_schema_is_json():
    assert json.loads(json.dumps(answer_schema(CHOICES, True)))["strict"] is True
