"""A real server process, asked by OpenAI's own client."""

from __future__ import annotations

import json
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import numpy as np
import openai
import pytest

from smallhold.cli.main import main
from smallhold.serve.prefix_cache import BLOCK

from .running import HOSPITAL, HOSPITAL_KEYS, LONG, LONGEST_SECONDS, RunningServer

TEXT = "The patient is a 45-year-old male who was admitted with chest pain. On examination"
COMPLAINT = "Red, itchy patches on both elbows for a month."


def test_the_model_introduces_itself(server: RunningServer):
    client = server.client()
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("hospital", "model", "smallhold")
    assert client.models.retrieve("hospital") == model
    card = model.smallhold  # type: ignore[attr-defined]
    assert (card["context_length"], card["has_chat_template"]) == (1024, False)
    assert {task["name"]: task["reads"] for task in card["tasks"]}["triage"] == "text"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("gpt")


def test_a_completion_and_its_log_probabilities_agree_with_a_direct_session(server, hospital):
    answer = server.client().completions.create(
        model="hospital", prompt=TEXT, max_tokens=8, temperature=0, logprobs=3, echo=True
    )
    (choice,) = answer.choices
    found = choice.logprobs
    ids = [1, *hospital.tokenizer.encode(TEXT).ids]
    assert answer.usage.prompt_tokens == len(ids) and answer.usage.completion_tokens == 8
    assert found.tokens[:2] == ["<bos>", "The"] and found.token_logprobs[0] is None
    assert choice.text == "".join(found.tokens[1:]) and choice.text.startswith(TEXT)
    placed = zip(found.text_offset[1:], found.tokens[1:], strict=True)
    assert all(choice.text[at:].startswith(token) for at, token in placed)

    (*generated,) = (token for word in found.tokens[-8:] for token in hospital.tokenizer.encode(word).ids)
    whole = [*ids, *generated]
    session, rows = hospital.backend.session(), []
    for start in range(0, len(ids), BLOCK):
        rows += list(session.score(ids[start : start + BLOCK], range(len(ids[start : start + BLOCK]))))
        session.append(ids[start : start + BLOCK])
    for token in generated:
        session.append([token])
        rows += list(session.score([], [-1]))
    logits = np.array(rows, dtype=np.float64)[: len(whole) - 1]
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert found.token_logprobs[1:] == pytest.approx(
        [row[token] for row, token in zip(expected, whole[1:], strict=True)], abs=1e-6
    )
    for row, top in zip(expected, found.top_logprobs[1:], strict=True):
        assert sorted(top.values()) == pytest.approx(sorted(row)[-3:], abs=1e-6)


def test_a_stream_says_what_a_whole_answer_says(server):
    client = server.client()
    asked = {"model": "hospital", "prompt": [TEXT, "Le médecin"], "max_tokens": 10, "seed": 4, "logprobs": 1, "n": 2}
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    for choice in whole.choices:
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].index == choice.index]
        assert "".join(step.text for step in mine) == choice.text
        assert [t for step in mine if step.logprobs for t in step.logprobs.tokens] == choice.logprobs.tokens
        assert [o for step in mine if step.logprobs for o in step.logprobs.text_offset] == choice.logprobs.text_offset
        assert [step.finish_reason for step in mine] == [None] * (len(mine) - 1) + [choice.finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 40
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_chat_and_its_stream(server):
    client = server.client()
    asked = {"model": "hospital", "messages": [{"role": "user", "content": "Wie geht es?"}], "max_tokens": 12}
    asked |= {"seed": 1, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked)
    (choice,) = whole.choices
    content = choice.logprobs.content
    assert len(content) == whole.usage.completion_tokens
    assert b"".join(bytes(item.bytes) for item in content).decode(errors="replace").startswith(choice.message.content)
    for item in content:
        assert len(item.top_logprobs) == 2 and item.logprob <= item.top_logprobs[0].logprob < 0
        assert sum(math.exp(top.logprob) for top in item.top_logprobs) <= 1
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason
    assert whole.system_fingerprint == chunks[0].system_fingerprint


def test_the_plain_dialogue_ends_where_the_user_would_speak_again(server):
    asked = {"model": "hospital", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40, "seed": 0}
    text = server.client().chat.completions.create(**asked).choices[0].message.content
    assert "\nUser:" not in text


def test_a_stop_string_ends_stream_and_answer_alike(server):
    client = server.client()
    asked = {"model": "hospital", "prompt": TEXT, "max_tokens": 12, "temperature": 0}
    text = client.completions.create(**asked).choices[0].text
    stop = text[4:7]
    cut = client.completions.create(**asked, stop=stop).choices[0]
    assert (cut.text, cut.finish_reason) == (text[: text.index(stop)], "stop")
    streamed = [chunk.choices[0].text for chunk in client.completions.create(**asked, stop=stop, stream=True)]
    assert "".join(streamed) == cut.text


def test_structured_answers_validate(server):
    schema = {
        "type": "object",
        "properties": {"risk": {"enum": ["low", "high"]}, "score": {"type": "integer", "minimum": 0, "maximum": 20}},
        "required": ["risk", "score"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "risk", "schema": schema, "strict": True}}
    asked = {"model": "hospital", "messages": [{"role": "user", "content": COMPLAINT}], "n": 3}
    for choice in server.client().chat.completions.create(**asked, response_format=form).choices:  # type: ignore[call-overload]
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), schema)
    with pytest.raises(openai.BadRequestError, match="Unimplemented keys"):
        bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
        server.client().chat.completions.create(**asked, response_format=bad, stream=True)


def test_a_decision_is_what_the_command_line_says(server, capsys):
    words = ["decide", str(HOSPITAL), "--trusted-keys", str(HOSPITAL_KEYS), "--task", "triage", "--text", COMPLAINT]
    assert main([*words, "--json"]) in (0, 3)
    expected = json.loads(capsys.readouterr().out)
    with server.http() as http:
        found = http.post("/v1/decide", json={"task": "triage", "text": COMPLAINT, "evidence": True}).json()
        short = http.post("/v1/decide", json={"task": "triage", "text": COMPLAINT}).json()
    for value in (expected, found, short):
        del value["latency_ms"]
    assert found == expected
    assert short == {name: value for name, value in expected.items() if name != "evidence"}


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"task": "nothing", "text": "x"}, 404, "no task 'nothing'"),
        ({"task": "icu-risk", "text": "x"}, 400, "reads readings, not text"),
        ({"task": "triage", "text": "  "}, 400, "nothing but white space"),
        ({"task": "triage"}, 400, "text: is required"),
    ],
    ids=str,
)
def test_a_decision_that_cannot_be_made_is_refused(server, body, status, problem):
    with server.http() as http:
        answer = http.post("/v1/decide", json=body)
    assert answer.status_code == status and problem in answer.json()["error"]["message"]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_does_not_fit_is_a_bad_request_with_the_numbers(server, is_streamed):
    with pytest.raises(openai.BadRequestError, match=r"1024 tokens.*2 in the prompt, 1023 in the") as caught:
        server.client().completions.create(model="hospital", prompt=[1, 2], max_tokens=1023, stream=is_streamed)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/v1/completions", {}, 405),
        ("POST", "/v1/completions", {"content": b"{}"}, 415),
        ("POST", "/v1/completions", {"json": []}, 400),
        ("POST", "/v1/completions", {"json": {"prompt": "a", "spell": 1}}, 400),
        ("POST", "/v1/completions", {"json": {"prompt": "a" * 2**20}}, 413),
        (
            "POST",
            "/v1/completions",
            {"content": iter([b"x" * 2**19] * 3), "headers": {"Content-Type": "application/json"}},
            413,
        ),
        ("GET", "/health", {"headers": {"Host": "evil.example"}}, 403),
        ("GET", "/health", {"headers": {"Host": "127.0.0.1.evil.example:80"}}, 403),
        ("POST", "/v1/completions", {"json": {"prompt": "a"}, "headers": {"Origin": "https://evil.example"}}, 403),
        ("OPTIONS", "/v1/completions", {"headers": {"Origin": "https://evil.example"}}, 403),
    ],
    ids=str,
)
def test_every_refusal_has_openais_form(server, method, path, options, status):
    with server.http() as http:
        answer = http.request(method, path, **options)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "access-control-allow-origin" not in answer.headers


def test_a_client_that_leaves_a_whole_answer_stops_it_too(server):
    gone = 'smallhold_requests_total{route="/v1/completions",status="499"}'
    before = server.metric(gone)
    with pytest.raises(openai.APITimeoutError):
        server.client().with_options(timeout=0.5).completions.create(**LONG)
    begun = time.monotonic()
    server.wait_for_metric(gone, before + 1)
    assert server.client().completions.create(model="hospital", prompt="a", max_tokens=1).choices
    assert time.monotonic() - begun < LONGEST_SECONDS / 4


def test_many_clients_at_once_all_get_their_own_answer(server):
    client = server.client()
    prompts = ("The heart ", "A fever of", "Le malade", "Chest pain", "She said ", "Blood ", "1812", "Treatment:")

    def ask(i: int) -> str:
        asked = {"model": "hospital", "prompt": prompts[i], "max_tokens": 6, "temperature": 0}
        return client.completions.create(**asked).choices[0].text

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert found == [ask(i) for i in range(8)]
    assert len(set(found)) > 1


def test_metrics_count_what_happened(server):
    before = {name: server.metric(f"smallhold_{name}_total") for name in ("cached_tokens", "completion_tokens")}
    for _ in range(2):
        server.client().completions.create(model="hospital", prompt=TEXT * 3, max_tokens=2, logit_bias={"2": -100})
    assert server.metric("smallhold_completion_tokens_total") - before["completion_tokens"] == 4
    assert server.metric("smallhold_cached_tokens_total") - before["cached_tokens"] >= BLOCK
    assert server.metric('smallhold_requests_total{route="/v1/completions",status="200"}') >= 2
    with server.http() as http:
        page = http.get("/metrics").text
    assert "evil" not in page and "nothing" not in page  # what was asked never becomes a label
    total = re.search(r"smallhold_request_seconds_count (\d+)", page).group(1)
    assert f'smallhold_request_seconds_bucket{{le="+Inf"}} {total}\n' in page
