from __future__ import annotations

import json

import pytest

from smallhold.serve.body import parse_json_object
from smallhold.serve.chat import Message
from smallhold.serve.grammar import Form
from smallhold.serve.read_request import read_chat, read_completion, read_decide
from smallhold.serve.request_error import RequestError

HI = {"messages": [{"role": "user", "content": "Hi"}]}


def test_a_chat_request_with_everything_in_it():
    members = {
        "model": "m",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": " there"}]},
            {"role": "assistant", "content": "Hello.", "refusal": None, "tool_calls": []},
            {"role": "user", "content": "Bye", "name": "Ann"},
        ],
        "max_completion_tokens": 5,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "n": 2,
        "stop": ["a", "b"],
        "seed": -1,
        "frequency_penalty": 1,
        "presence_penalty": -2,
        "logit_bias": {"7": -100},
        "logprobs": True,
        "top_logprobs": 4,
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
    }
    request = read_chat(members, "m")
    assert request.messages == (
        Message("system", "Be brief."),
        Message("user", "Hi there"),
        Message("assistant", "Hello."),
        Message("user", "Bye"),
    )
    order, sampling = request.wanted.order, request.wanted.order.sampling
    assert (order.max_tokens, order.n, order.stops, order.top_logprobs, order.form) == (5, 2, ("a", "b"), 4, None)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.0, 0.5, 3, 2**64 - 1)
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.logit_bias) == (1.0, -2.0, {7: -100.0})
    assert (request.wanted.is_streamed, request.wanted.includes_usage) == (True, True)


def test_null_is_the_same_as_absent():
    names = ("model", "max_tokens", "temperature", "stop", "seed", "logprobs", "response_format", "tools", "anything")
    assert read_chat({**HI, **dict.fromkeys(names)}, "m") == read_chat(HI, "m")


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
def test_the_four_forms_of_a_prompt(given, prompts):
    request = read_completion({"prompt": given}, "m")
    assert request.prompts == prompts
    assert request.wanted.order.max_tokens == 16


def test_echo_with_logprobs_scores_the_prompt():
    scoring = read_completion({"prompt": "a", "echo": True, "logprobs": 0, "max_tokens": 0}, "m")
    assert scoring.wanted.order.scores_prompt and scoring.wanted.order.max_tokens == 0
    assert not read_completion({"prompt": "a", "echo": True}, "m").wanted.order.scores_prompt


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({"type": "json_object"}, Form("json_schema", {"type": "object"})),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"a": 1}}},
            Form("json_schema", {"a": 1}),
        ),
        ({"type": "regex", "pattern": "a|b"}, Form("regex", "a|b")),
        ({"type": "grammar", "grammar": "start: X"}, Form("grammar", "start: X")),
    ],
)
def test_the_forms_of_an_answer(given, form):
    assert read_chat({**HI, "response_format": given}, "m").wanted.order.form == form


@pytest.mark.parametrize(
    ("extra", "param", "problem"),
    [
        ({"model": "gpt"}, "model", "does not exist; this server has 'm'"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": "Hi"}, "messages", "expected a list"),
        ({"messages": ["Hi"]}, "messages", r"messages\[0\]: expected an object"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "only parts of the type 'text'"),
        ({"messages": [{"role": "user", "content": [3]}]}, None, "type: is required"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "colour", "not known"),
        ({"temperature": 2.1}, "temperature", "from 0 to 2, got 2.1"),
        ({"temperature": "0"}, "temperature", "expected a number"),
        ({"temperature": 10**400}, "temperature", "from 0 to 2, got 1000"),
        ({"temperature": float("nan")}, "temperature", "from 0 to 2"),
        ({"temperature": True}, "temperature", "got true"),
        ({"top_p": -0.1}, "top_p", "from 0 to 1"),
        ({"n": 0}, "n", "from 1 to 8"),
        ({"n": 9}, "n", "from 1 to 8"),
        ({"n": 1.0}, "n", "expected a whole number"),
        ({"max_tokens": 0}, "max_tokens", "from 1"),
        ({"stop": [""]}, "stop", "1 to 256 characters"),
        ({"stop": ["a"] * 17}, "stop", "up to 16"),
        ({"stop": [1]}, "stop", "expected up to 16 texts"),
        ({"seed": 2**63}, "seed", "whole number"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "-100 to 100"),
        ({"logit_bias": {"²": 1}}, "logit_bias", "token ids"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
        ({"stream": True, "stream_options": {"x": 1}}, "x", "not known"),
        ({"tools": [{"type": "function"}]}, "tools", "only a list is supported"),
        ({"tool_choice": "required"}, "tool_choice", "only"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "not known or not supported"),
        ({"prompt": "a"}, "prompt", "not known"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "'yaml'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.schema", "required"),
        ({"response_format": {"type": "json_object"}, "stop": "x"}, "stop", "cannot be combined"),
    ],
    ids=str,
)
def test_a_bad_chat_request_is_refused_by_name(extra, param, problem):
    with pytest.raises(RequestError, match=problem) as caught:
        read_chat({**HI, **extra}, "m")
    if param is not None:
        assert caught.value.param == param
    assert caught.value.status == (404 if "model" in extra else 400)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({}, "prompt: is required"),
        ({"prompt": []}, "1 to 64 prompts"),
        ({"prompt": ["a"] * 65}, "1 to 64 prompts"),
        ({"prompt": ["a", 1]}, "expected a text, a list"),
        ({"prompt": [[1], []]}, "expected a text, a list"),
        ({"prompt": [True]}, "expected a text, a list"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "max_tokens": 0}, "from 1"),
        ({"prompt": "a", "logprobs": True}, "expected a whole number, got true"),
        ({"prompt": "a", "messages": []}, "messages"),
    ],
    ids=str,
)
def test_a_bad_completion_request_is_refused_by_name(members, problem):
    with pytest.raises(RequestError, match=problem):
        read_completion(members, "m")


def test_a_decision_needs_a_task_and_a_text():
    assert read_decide({"task": "t", "text": "x"}, "m").has_evidence is False
    for members in ({"task": "t"}, {"text": "x"}, {"task": "t", "text": "x", "temperature": 1}, {"task": 1}):
        with pytest.raises(RequestError):
            read_decide(members, "m")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"3", b"{", b'{"a": NaN}', b'{"a": "\\ud800"}', b"\xff", b"[" * 100_000, b"1" * 5000],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_json_object_in_utf_8_is_refused(data):
    with pytest.raises(RequestError, match=r"^body: "):
        parse_json_object(data)


def test_a_message_about_a_private_text_does_not_repeat_it():
    secret = "the patient's name is " + "x" * 40
    with pytest.raises(RequestError) as caught:
        read_chat({**HI, "temperature": secret}, "m")
    assert "patient" not in json.dumps(caught.value.body)
