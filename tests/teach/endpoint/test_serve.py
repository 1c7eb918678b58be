"""End to end: `smallhold serve` as the teacher of `smallhold teach label`, with the committed finance model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEADLINES = ["Shares of the grocer fall after a weak quarter", "Chipmaker beats estimates", "Board meets on Tuesday"]


@pytest.fixture
def finance(tmp_path):
    """URL of a server of this project on a free port."""
    words = ["serve", ROOT / "models" / "finance", "--trusted-keys", ROOT / "models" / "trusted_keys", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "smallhold.cli.main", *map(str, words), "--json", "--home", str(tmp_path / "home")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(20)


def test_our_own_server_labels_texts(finance, smallhold, tmp_path):
    """The model is no chat model: that every answer fits is the grammar's doing; what is tested is the way there."""
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in HEADLINES))
    (tmp_path / "recipe.toml").write_text(
        f'[task]\nsector = "finance"\nname = "news-sentiment"\n[rows]\nfile = "{tmp_path}/new.jsonl"\n'
        f'[endpoint]\npreset = "local"\nmodel = "finance"\nbase_url = "{finance}/v1"\n'
        '[ask]\nsoft = "SOFT"\nsamples = 3\ntemperature = 1.0\n[filters]\nagreement = 0.3\n'
        "[cap]\nrequests = 30\ntokens = 200_000\n"
    )
    recipe = (tmp_path / "recipe.toml").read_text()
    (tmp_path / "recipe.toml").write_text(recipe.replace("SOFT", "samples"))
    done = smallhold("teach", "label", tmp_path / "recipe.toml", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    labels = [json.loads(line) for line in (tmp_path / "out" / "labels.jsonl").read_bytes().splitlines()]
    assert len(labels) + manifest["left_out"].get("disagreement", 0) == len(HEADLINES)
    assert (manifest["answered_by"], manifest["privacy"], manifest["events"]) == (["finance"], "patient", {})
    assert manifest["unusable"] == {}
    for label in labels:
        assert label["label"] in ("bearish", "bullish", "neutral")
        assert sum(label["probabilities"]) == pytest.approx(1, abs=1e-5)
    told = manifest["spend"]["prompt_tokens"] + manifest["spend"]["completion_tokens"]
    assert 0 < told < manifest["spend"]["requests"] * 1024 == 9 * 1024
    # What the model would have said without the grammar is no label, and log-probabilities tell.
    (tmp_path / "recipe.toml").write_text(recipe.replace("SOFT", "logprobs"))
    done = smallhold("teach", "label", tmp_path / "recipe.toml", "--out", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["unusable"] == {"mass_elsewhere": 9}, done.err
