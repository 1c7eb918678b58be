import re
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import pytest

from smallhold.errors import RecipeError
from smallhold.teach.endpoint.presets import PRESETS
from smallhold.teach.endpoint.recipe import EndpointChoice, LabelRecipe, read_label_recipe
from smallhold.teach.recipe_file import parse_toml

SMALLEST = (
    '[task]\nsector = "finance"\nname = "support-intent"\n[endpoint]\nmodel = "m"\npreset = "local"\n'
    "[cap]\nrequests = 10\ntokens = 1000\n"
)


GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "teacher-endpoint.md"


def parse(text):
    return parse_toml(LabelRecipe, text, where="r")


def test_the_smallest_recipe_takes_every_default():
    recipe = parse(SMALLEST)
    assert (recipe.rows.splits, recipe.rows.privacy, recipe.ask.samples) == (("train",), "patient", 1)
    assert recipe.endpoint.resolved == PRESETS["local"]


def test_the_shipped_recipe_parses_and_asks_github_models():
    recipe = read_label_recipe("label-support-intent")
    assert recipe.endpoint.resolved.base_url == "https://models.github.ai/inference"
    assert recipe.endpoint.resolved.api_key_env == "GITHUB_TOKEN"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[rows]\nsplits = ['test']\n", r"rows\.splits: expected some of \('train', 'validation'\)"),
        ("[rows]\nsplits = ['calibration']\n", r"rows\.splits"),
        ("[rows]\nprivacy = 'secret'\n", r"rows\.privacy: expected one of public, customer, patient"),
        ("[ask]\nsamples = 3\n", r"at temperature 0 all samples are the same"),
        ("[ask]\nsoft = 'samples'\n", r"expected samples of 2 or more"),
        ("[ask]\nsoft = 'logits'\n", r"ask\.soft: expected one of none, logprobs, samples"),
        ("[ask]\nuser = 'Label {text}'\n", r"expected \{question\}, \{choices\} and \{text\}, each once"),
        ("[ask]\napi = 'responses'\n", r"ask\.api"),
        ("[filters]\nnear_duplicate = 0.2\n", r"near_duplicate: expected 0, or from 0\.5 to 1"),
        ("[filters]\nagreement = 1.2\n", r"expected shares"),
        ("[pace]\nconcurrency = 0\n", r"pace: expected concurrency"),
        ("[pace]\ntotal_seconds = 0\n", r"deadlines above 0"),
        ("[pace]\nread_seconds = 7200\n", r"up to 3600"),
        ("[pace]\nretries = 3\n", r"unknown key 'retries'"),
        ("[pace]\ntotal_seconds = nan\n", r"pace, total_seconds: expected a finite number, got nan"),
        ("money = nan\nprompt_price = 1.0\ncompletion_price = 1.0\n", r"cap, money: expected a finite number, got nan"),
        (
            "money = 1.0\nprompt_price = inf\ncompletion_price = 1.0\n",
            r"prompt_price: expected a finite number",
        ),
        (f"[ask]\nseed = {2**63}\n", r"ask, seed: expected a number of 0 or more, below 2\^63"),
    ],
)
def test_an_impossible_recipe_is_refused_before_anything_is_read(more, message):
    with pytest.raises(RecipeError, match=message):
        parse(SMALLEST + more)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("requests = 10", "requests = 0", r"requests and tokens from 1"),
        ("requests = 10", "requests = 10\nmoney = 2.0", r"cap\.money: needs prompt_price"),
        ('preset = "local"', 'preset = "azure"', r"endpoint\.preset: expected one of github-models"),
        ('preset = "local"', "", r"expected base_url, or a preset"),
        ('preset = "local"', 'base_url = "https://u:p@h/v1"', r"without user, password"),
        ('preset = "local"', 'preset = "local"\nresponse_format = "xml"', r"expected 'schema' or 'none'"),
        ('model = "m"', 'model = " "', r"endpoint\.model"),
    ],
)
def test_caps_and_endpoint_are_checked(old, new, message):
    with pytest.raises(RecipeError, match=message):
        parse(SMALLEST.replace(old, new))


def test_a_key_where_its_variables_name_belongs_is_not_shown():
    with pytest.raises(RecipeError, match="expected the name of an environment variable") as raised:
        parse(SMALLEST.replace('preset = "local"', 'preset = "local"\napi_key_env = "sk-0123456789"'))
    assert "sk-0123456789" not in str(raised.value)


def test_a_presets_key_goes_to_the_presets_own_address_alone():
    own = EndpointChoice(model="m", preset="github-models")
    elsewhere = EndpointChoice(model="m", preset="github-models", base_url="https://other.example/v1")
    assert own.resolved.api_key_env == "GITHUB_TOKEN"
    assert elsewhere.resolved.api_key_env == ""
    assert replace(elsewhere, api_key_env="OTHER").resolved.api_key_env == "OTHER"


def test_the_guides_recipe_parses_and_names_every_key():
    text = GUIDE.read_text(encoding="utf-8")
    recipe = next(block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if block.startswith("[task]"))
    parse(recipe)
    for table, cls in get_type_hints(LabelRecipe).items():
        assert f"[{table}]" in recipe
        assert not [item.name for item in fields(cls) if item.name not in text]
