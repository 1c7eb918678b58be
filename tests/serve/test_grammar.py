from __future__ import annotations

import json
import re

import jsonschema
import pytest

from smallhold.serve.generate import Order
from smallhold.serve.grammar import Form, Matcher
from smallhold.serve.request_error import RequestError
from smallhold.serve.sampling import Sampling

VITALS = {
    "type": "object",
    "properties": {
        "alert": {"enum": ["keine Gefahr", "осторожно", 'stop "now"\n']},
        "pulse": {"type": "integer", "minimum": 30, "maximum": 220},
        "drugs": {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 2},
        "sure": {"type": "boolean"},
        "note": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 3}]},
    },
    "required": ["alert", "pulse", "drugs", "sure"],
    "additionalProperties": False,
}


def record(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


PAIR = {"type": "array", "prefixItems": [{"const": "x"}, {"type": "boolean"}], "items": False, "minItems": 2}
SCHEMAS = [
    VITALS,
    record(p={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}),
    record(when={"type": "string", "format": "date"}),
    {"type": "array", "items": {"$ref": "#/$defs/pair"}, "minItems": 1, "maxItems": 2, "$defs": {"pair": PAIR}},
    {"allOf": [record(a={"type": "boolean"}), {"required": ["a"]}]},
]


def answer(service, form: Form, seed: int, **order: object) -> tuple[str, str]:
    prompt = service.vocabulary.encode("Q")
    wanted = Order(form=form, sampling=Sampling(seed=seed, temperature=2.0), **order)  # type: ignore[arg-type]
    _, *pieces = service._generator.run(prompt, wanted, lambda: None)
    return "".join(piece.text for piece in pieces), pieces[-1].finish_reason


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_a_random_walk_through_a_schema_always_validates(service, schema):
    for seed in range(8):
        text, reason = answer(service, Form("json_schema", schema), seed, max_tokens=400)
        assert reason == "stop"
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_random_weights_over_bytes_obey_too(golden_service):
    schema = record(a={"enum": ["ja", "нет"]})
    for seed in range(20):
        text, reason = answer(golden_service, Form("json_schema", schema), seed)
        assert (json.loads(text)["a"] in ("ja", "нет"), reason) == (True, "stop")


def test_an_answer_that_is_cut_says_length(service):
    text, reason = answer(service, Form("json_schema", VITALS), 0, max_tokens=3)
    assert reason == "length"
    assert text.startswith("{")


def test_a_regular_expression_and_a_grammar(service):
    for seed in range(5):
        text, reason = answer(service, Form("regex", r"(ja|nein), [0-9]{2}%"), seed)
        assert re.fullmatch(r"(ja|nein), [0-9]{2}%", text) and reason == "stop"
        text, reason = answer(service, Form("grammar", 'start: "<" ("a" | "b")~3 ">"'), seed)
        assert re.fullmatch("<[ab]{3}>", text) and reason == "stop"


def test_logprobs_are_those_of_the_model_and_not_of_the_grammar(service):
    prompt = service.vocabulary.encode("The patient")
    order = Order(form=Form("regex", "qx"), sampling=Sampling(temperature=0), top_logprobs=1)
    _, *pieces = service._generator.run(prompt, order, lambda: None)
    assert pieces[0].scored.logprob < -5  # forced, and yet improbable
    assert pieces[0].scored.top[0][1] > pieces[0].scored.logprob


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        (Form("json_schema", {"type": "strin"}), "Invalid type"),
        (Form("json_schema", {"not": {"type": "string"}}), "Unimplemented keys"),
        (Form("json_schema", {"type": "array", "uniqueItems": True}), "Unimplemented keys"),
        (Form("json_schema", {"type": "string", "format": "nonsense"}), "Unknown format"),
        (Form("json_schema", {"$ref": "http://example.org/schema"}), "does not fetch"),
        (Form("json_schema", {"type": "number", "minimum": 5, "maximum": 3}), "Unsatisfiable"),
        (Form("json_schema", {"not": {}, "x-guidance": {"lenient": True}}), "x-guidance"),
        (Form("json_schema", json.loads('{"items":' * 400 + "{}" + "}" * 400)), "cannot be used: recursion limit"),
        (Form("regex", "(a|b"), "cannot be used"),
        (Form("grammar", "start: nothing"), "cannot be used"),
        (Form("grammar", "%%%"), "cannot be used"),
    ],
    ids=str,
)
def test_what_cannot_be_guaranteed_is_refused(golden_service, form, problem):
    with pytest.raises(RequestError, match=problem) as caught:
        Matcher(form, golden_service.vocabulary)
    assert caught.value.param == "response_format"
