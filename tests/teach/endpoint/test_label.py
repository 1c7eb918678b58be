"""Whole labelling runs through the command line, against a real server; killed, capped, resumed."""

import json
import sys

import pytest
from tests.teach.endpoint.conftest import CHOICES, KEY, holding, label_of, text_of

from smallhold.errors import DataError
from smallhold.records import sha256_hex
from smallhold.sectors.data_sets import read_jsonl
from smallhold.teach.endpoint.label import read_soft_labels


def manifest_of(out):
    return json.loads((out / "manifest.json").read_bytes())


def labels_of(out):
    return [json.loads(line) for line in (out / "labels.jsonl").read_bytes().splitlines()]


@pytest.fixture
def run(smallhold, desk, teacher, tmp_path):
    """run(tables, ...) labels into one folder and returns how the command ended."""

    def call(more="", *words, url=None, **endpoint):
        recipe = desk.recipe(url or teacher.url, more, **endpoint)
        return smallhold("teach", "label", recipe, "--data", desk.data, "--out", tmp_path / "out", *words)

    return call


def test_the_training_split_is_labelled_and_accounted_for(run, desk, teacher, tmp_path):
    done = run()
    manifest, labels = manifest_of(tmp_path / "out"), labels_of(tmp_path / "out")
    assert done.code == 0, done.err
    assert "100.0% of the labels are those of the data set" in done.out
    assert {label["text"] for label in labels} < set(desk.texts)  # the training split alone
    assert 30 <= len(labels) == len(teacher.seen) == manifest["num_labelled"] == manifest["num_chosen"] < 55
    assert manifest["spend"] | {"money": 0.0} == {
        "requests": len(labels),
        "maybe_paid_requests": 0,
        "prompt_tokens": 40 * len(labels),
        "completion_tokens": 6 * len(labels),
        "money": 0.0,
    }
    assert (manifest["model"], manifest["answered_by"]) == ("test-model", ["test-model-2025"])
    assert (manifest["privacy"], manifest["stopped_by"], manifest["agreement_with_data"]) == ("patient", None, 1.0)
    content = (tmp_path / "out" / "labels.jsonl").read_bytes()
    assert manifest["files"]["labels.jsonl"] == {"sha256": sha256_hex(content), "bytes": len(content)}
    assert "probabilities" not in labels[0]
    assert list(read_jsonl(tmp_path / "out" / "labels.jsonl")) == labels  # a data set in our own layout


def test_running_again_asks_nothing_and_writes_the_same(run, teacher, tmp_path):
    run()
    first, asked = (tmp_path / "out" / "labels.jsonl").read_bytes(), len(teacher.seen)
    assert run("[pace]\nconcurrency = 1\n").code == 0
    assert (len(teacher.seen), (tmp_path / "out" / "labels.jsonl").read_bytes()) == (asked, first)


def test_half_a_character_in_the_name_of_a_model_spoils_nothing(run, teacher, tmp_path):
    teacher.script = [
        'json:{"choices": [{"message": {"content": "{\\"label\\": \\"access\\"}"}}], "model": "m\\ud800"}'
    ]
    done = run("[rows]\nmost = 1\n")
    assert done.code == 0, done.err
    assert manifest_of(tmp_path / "out")["answered_by"] == ["m?"]


def test_a_test_row_is_never_sent(run, desk, teacher):
    from smallhold.sectors.splits import split_of
    from smallhold.sectors.text_task import normalised_text

    run('[rows]\nsplits = ["train", "validation"]\n')
    parts = {split_of("tickets", normalised_text(text_of(body))) for body in teacher.seen}
    assert parts == {"train", "validation"}


def test_samples_vote_and_their_shares_are_the_soft_labels(run, teacher, tmp_path):
    def content(body):
        wrong = body["seed"] == 2 and "invoice" in text_of(body)
        return json.dumps({"rationale": f"seed {body['seed']}", "label": "access"}) if wrong else with_reason(body)

    def with_reason(body):
        return json.dumps({"rationale": f"seed {body['seed']}", **json.loads(label_of(body))})

    teacher.content = content
    done = run(
        '[ask]\nsamples = 3\ntemperature = 0.8\nsoft = "samples"\nrationale = true\n[filters]\nconfidence = 0.6\n'
    )
    assert done.code == 0, done.err
    labels = labels_of(tmp_path / "out")
    assert len(teacher.seen) == 3 * len(labels)
    assert {body["seed"] for body in teacher.seen} == {0, 1, 2}
    for label in labels:
        expected = [2 / 3, 0, 1 / 3] if label["label"] == "billing" else [float(label["label"] == c) for c in CHOICES]
        assert label["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert label["rationale"] == "seed 0"


def test_log_probabilities_become_soft_labels(run, teacher, tmp_path):
    import math

    def logprobs(body):
        head, label = '{"label": "', json.loads(label_of(body))["label"]
        others = [{"token": c + '"', "logprob": math.log(0.1)} for c in CHOICES if c != label]
        parts = [(head, 0.0, []), (label + '"', math.log(0.8), others), ("}", 0.0, [])]
        return {"content": [{"token": t, "logprob": p, "top_logprobs": o} for t, p, o in parts]}

    teacher.logprobs = logprobs
    assert run('[ask]\nsoft = "logprobs"\ntop_logprobs = 3\n').code == 0
    assert {(body["logprobs"], body["top_logprobs"]) for body in teacher.seen} == {(True, 3)}
    for label in labels_of(tmp_path / "out"):
        assert label["probabilities"] == pytest.approx([0.8 if c == label["label"] else 0.1 for c in CHOICES])


def test_an_endpoint_without_log_probabilities_is_left_after_a_few_answers(run, teacher):
    done = run('[ask]\nsoft = "logprobs"\n[pace]\nconcurrency = 1\ngive_up_after = 3\n')
    assert done.code == 1
    assert "stopped: 3 answers in a row were unusable, the last one: no_logprobs" in done.err
    assert 'set ask.soft = "samples" or "none"' in done.err
    assert len(teacher.seen) == 3


def test_what_is_unusable_is_left_out_by_name(run, teacher, tmp_path):
    teacher.content = lambda body: "I think billing" if "invoice" in text_of(body) else label_of(body)
    done = run("[pace]\nconcurrency = 1\n")
    manifest = manifest_of(tmp_path / "out")
    assert done.code == 0
    assert (
        manifest["left_out"] == manifest["unusable"] == {"not_json": manifest["num_chosen"] - manifest["num_labelled"]}
    )
    left_out = json.loads((tmp_path / "out" / "left_out.json").read_bytes())
    assert {entry["reason"] for entry in left_out} == {"not_json"}
    assert holding(tmp_path / "out", "I think billing") == [str(tmp_path / "out" / "answers.db")]


def test_nothing_labelled_is_a_failure(run, teacher, tmp_path):
    teacher.content = lambda body: "I think billing"
    done = run("[pace]\nconcurrency = 1\ngive_up_after = 1000\n")
    assert done.code == 1 and "nothing was labelled" in done.err
    assert manifest_of(tmp_path / "out")["num_labelled"] == 0


def test_repeats_are_not_paid_for(run, desk, teacher, tmp_path):
    rows = [{"text": text + tail, "label": "billing"} for text in desk.texts[:20] for tail in ("", "!", " ")]
    (desk.data / "tickets" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("[filters]\nnear_duplicate = 0.9\n")
    manifest = manifest_of(tmp_path / "out")
    assert manifest["num_repeats"] > 10
    assert manifest["num_rows"] == manifest["num_repeats"] + manifest["num_chosen"]
    assert len(teacher.seen) == manifest["num_chosen"]


def test_a_file_of_texts_without_labels_is_labelled(run, teacher, tmp_path):
    path = tmp_path / "new.jsonl"
    path.write_text('{"text": "the line drops whenever it rains over the hill", "id": 7}\n{"text": "something"}\n')
    assert run(f'[rows]\nfile = "{path}"\n').code == 0
    first, second = labels_of(tmp_path / "out")
    assert (first["id"], first["label"], first["data_set"]) == ("7", "network", "new.jsonl")
    assert (second["label"], second["privacy"]) == ("access", "patient")
    assert manifest_of(tmp_path / "out")["agreement_with_data"] is None


@pytest.mark.parametrize(
    ("line", "member"),
    [('{"text": " "}', "text"), ('{"body": "x"}', "text"), ('{"text": "\\ud800"}', "text"),
     ('{"text": "x", "privacy": "secret"}', "privacy"), ('{"text": "x", "id": [1]}', "id")],
)  # fmt: skip
def test_a_malformed_row_is_one_error_that_names_it(run, teacher, tmp_path, line, member):
    path = tmp_path / "new.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    done = run(f'[rows]\nfile = "{path}"\n')
    assert done.code == 1
    assert f"new.jsonl, line 2, member '{member}'" in done.err
    assert teacher.seen == []


def test_at_the_cap_the_run_stops_cleanly_and_goes_on_with_a_higher_one(run, teacher, tmp_path):
    done = run("[cap]\nrequests = 10\ntokens = 1000000\n")
    manifest = manifest_of(tmp_path / "out")
    assert done.code == 1
    assert "stopped: the cap is reached: 10 of 10 requests" in done.err
    assert (manifest["num_labelled"], len(teacher.seen)) == (10, 10)
    assert manifest["left_out"] == {"not_asked": manifest["num_chosen"] - 10}
    assert run("[cap]\nrequests = 10\ntokens = 1000000\n").code == 1
    assert (manifest_of(tmp_path / "out")["num_labelled"], len(teacher.seen)) == (10, 10)  # kept, and nothing more sent
    assert run().code == 0
    assert len(teacher.seen) == manifest["num_chosen"]


def test_completions_are_asked_without_messages(run, teacher, tmp_path):
    assert run('[ask]\napi = "completions"\n').code == 0
    assert {headers[":path"] for headers in teacher.headers} == {"/v1/completions"}
    assert manifest_of(tmp_path / "out")["agreement_with_data"] == 1.0


def test_the_key_is_in_no_file_and_no_line(run, teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("DESK_KEY", KEY)
    teacher.script = ["quotes_key:400", "status:500"]
    done = run("", "--json", api_key_env="DESK_KEY")
    assert teacher.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in done.out + done.err
    assert holding(tmp_path, KEY) == []
    assert json.loads(done.out)["events"] == {"http_400": 1, "http_500": 1}


def test_prompts_are_not_kept_and_files_are_for_the_owner_alone(run, desk, teacher, tmp_path):
    run()
    assert holding(tmp_path / "out", desk.texts[0] + "\n") == []
    assert str(tmp_path / "out" / "answers.db") not in holding(tmp_path / "out", labels_of(tmp_path / "out")[0]["text"])
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o600}


def test_without_the_extra_the_command_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    done = run()
    assert done.code == 1
    assert "hint: pip install 'smallhold[endpoint]'" in done.err


def test_a_sector_can_name_the_labels_as_its_data(run, desk, tmp_path):
    """What `teach train` reads: the folder is a data set, each row with the label of the endpoint."""
    from smallhold.sectors.tasks import find_task
    from smallhold.sectors.text_task import load_examples

    run()
    sector = desk.folder / "sector.toml"
    sector.write_text(sector.read_text().replace('data_set = "tickets"', 'data_set = "out"'))
    examples = load_examples(find_task("queue", desk.folder), tmp_path)
    assert [(example.text, example.label) for example in examples] == [
        (label["text"], label["label"]) for label in labels_of(tmp_path / "out")
    ]


def test_soft_labels_are_read_only_where_manifest_and_choices_vouch_for_them(run, tmp_path):
    out = tmp_path / "out"
    run()
    found = read_soft_labels(out, CHOICES)
    assert found == {row["text"]: [float(row["label"] == c) for c in CHOICES] for row in labels_of(out)}
    with pytest.raises(DataError, match="other choices"):
        read_soft_labels(out, CHOICES[:2])
    (out / "labels.jsonl").write_bytes((out / "labels.jsonl").read_bytes().replace(b"billing", b"network"))
    with pytest.raises(DataError, match="were changed"):
        read_soft_labels(out, CHOICES)
    with pytest.raises(DataError, match="expected labels of an endpoint"):
        read_soft_labels(tmp_path, CHOICES)
