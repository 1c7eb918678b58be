"""Which models there are: offline from the shipped list, from a fetched one, and on this machine."""

import json
import re
from pathlib import Path

import pytest

from smallhold.errors import DataError, EndpointError, InputError
from smallhold.teach.endpoint.candidates import (
    Candidate,
    count_parameters,
    list_candidates,
    local_candidates,
    parse_bytes,
    refresh,
    select,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_shipped_list_is_dated_whole_and_needs_no_network(sockets):
    as_of, models = list_candidates("hf")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", as_of)
    assert len({model.id for model in models}) == len(models) >= 12
    for model in models:
        assert model.licence
        assert 1e8 < model.parameters < 1e10
        assert model.context_tokens >= 4096
        assert all(re.fullmatch("[a-z]{2}", code) for code in model.languages)
    families = ("Llama", "Mistral", "Qwen2.5", "Qwen3", "SmolLM2", "SmolLM3", "gemma-2", "gemma-3", "Phi-3", "Phi-4")
    assert not [family for family in families if not any(family in model.id for model in models)]
    assert {model.kind for model in list_candidates("github-models")[1]} == {"service"}
    assert sockets == []


def test_a_budget_is_counted_in_the_bytes_of_our_own_weight_file():
    model = Candidate(id="m", parameters=32_000_000)
    assert (model.bytes_at(4), model.bytes_at(8)) == (18_000_000, 34_000_000)  # 18 and 34 bytes for 32 weights
    assert Candidate(id="unknown").bytes_at(4) is None


def test_what_cannot_fit_or_does_not_know_the_language_is_left_out_and_the_unknown_is_kept():
    small = Candidate(id="small", parameters=10_000_000, languages=("en",))
    large = Candidate(id="large", parameters=10_000_000_000, languages=("en", "de"))
    unknown = Candidate(id="unknown")
    bundle = Candidate(id="bundle", kind="bundle", size_bytes=50_000_000)
    every = [small, large, unknown, bundle]
    assert select(every, language=None, max_bytes=None) == every
    assert select(every, language=None, max_bytes=6_000_000) == [small, unknown]
    assert select(every, language="de", max_bytes=None) == [large, unknown, bundle]


@pytest.mark.parametrize(("text", "size"), [("30M", 30_000_000), ("1.5g", 1_500_000_000), ("9", 9), ("2K", 2000)])
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "M", "-3M", "0", "3T", "nan", "inf", "1e30"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="--max-bytes: expected a size such as 30M"):
        parse_bytes(text)


def test_this_machines_checkpoints_and_bundles_are_found(tmp_path, make_checkpoint):
    import shutil

    shutil.copytree(make_checkpoint(), tmp_path / "runs" / "mine" / "checkpoint")
    (tmp_path / "runs" / "mine" / "checkpoint" / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ward").symlink_to(ROOT / "models" / "finance")
    shutil.copytree(make_checkpoint(), tmp_path / "hub" / "models--org--tiny" / "snapshots" / "abc")
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"\xff" * 20)
    (broken / "config.json").write_text("{}")
    found = {each.id: each for each in local_candidates(tmp_path, {"HF_HUB_CACHE": str(tmp_path / "hub")})}
    assert sorted(found) == ["models/ward", "org/tiny", "runs/mine/checkpoint"]
    mine, ward = found["runs/mine/checkpoint"], found["models/ward"]
    assert (mine.licence, mine.context_tokens, mine.kind) == ("mit", 64, "checkpoint")
    files = [path for path in (tmp_path / "models" / "ward").rglob("*") if path.is_file()]
    assert (ward.kind, ward.size_bytes) == ("bundle", sum(
        path.stat().st_size for path in files if path.name not in ("manifest.json", "manifest.dsse.json")
    ))  # fmt: skip


def test_parameters_are_counted_from_the_header_alone(make_checkpoint):
    from safetensors.numpy import load_file

    path = make_checkpoint(seed=9) / "model.safetensors"
    assert count_parameters(path) == sum(array.size for array in load_file(path).values())


HF_ANSWER = {"safetensors": {"total": 123}, "cardData": {"license": "mit", "language": "fr"}, "gated": "auto"}
GITHUB_ANSWER = [{"id": "openai/x", "limits": {"max_input_tokens": 4096}}, {"id": "meta/y"}]


def test_a_refresh_is_kept_and_listed_from_then_on(teacher, sockets):
    teacher.script = [f"json:{json.dumps(HF_ANSWER)}"] * 40
    shipped = list_candidates("hf")[1]
    refresh("hf", url=f"{teacher.url}/api/models")
    assert [headers[":path"] for headers in teacher.headers] == [f"/v1/api/models/{each.id}" for each in shipped]
    found = list_candidates("hf")[1]
    assert {(each.licence, each.parameters, each.languages, each.is_gated) for each in found} == {
        ("mit", 123, ("fr",), True)
    }
    assert [each.context_tokens for each in found] == [each.context_tokens for each in shipped]
    assert {address[1] for event, address in sockets if event == "socket.connect"} == {teacher.port}


def test_github_models_are_fetched_and_the_token_stays_with_their_own_address(teacher):
    teacher.script = [f"json:{json.dumps(GITHUB_ANSWER)}"]
    refresh("github-models", url=teacher.url, environment={"GITHUB_TOKEN": "ghp_secret"})
    assert "authorization" not in teacher.headers[0]
    assert [(each.id, each.context_tokens) for each in list_candidates("github-models")[1]] == [
        ("openai/x", 4096),
        ("meta/y", 0),
    ]


@pytest.mark.parametrize(
    "answer", ['json:{"a": 1}', "json:[7]", "html", "status:500", "no_bytes", "redirect:http://x/"]
)
def test_a_catalogue_that_answers_otherwise_changes_nothing(teacher, answer):
    before = list_candidates("github-models")
    teacher.script = [answer]
    with pytest.raises(EndpointError):
        refresh("github-models", url=teacher.url)
    assert list_candidates("github-models") == before


def test_a_kept_list_that_was_damaged_is_an_error_that_says_what_to_remove(tmp_path):
    path = tmp_path / "cache" / "smallhold" / "candidates" / "hf.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"as_of": "2026-01-01", "candidates": [{"name": 1}]}')
    with pytest.raises(DataError, match="malformed") as raised:
        list_candidates("hf")
    assert raised.value.hint == f"rm {path}"


def test_the_command_lists_recipes_models_and_what_fits(smallhold, tmp_path, monkeypatch):
    assert "icu-risk" in json.loads(smallhold("teach", "list", "--json").out)
    done = smallhold("teach", "list", "--source", "hf", "--max-bytes", "500M", "--language", "de")
    assert "Qwen/Qwen2.5-0.5B-Instruct  [Apache-2.0]" in done.out
    assert "fits; 524.9 MB at 8 bits, does not fit" in done.out
    assert "Llama" not in done.out
    told = json.loads(smallhold("teach", "list", "--source", "github-models", "--json").out)
    assert told["models"][0]["fits_at_4_bits"] is None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert json.loads(smallhold("teach", "list", "--source", "local", "--json").out)["models"] == []
    assert smallhold("teach", "list", "--max-bytes", "1M").code == 1
    assert smallhold("teach", "list", "--source", "local", "--refresh").code == 1
