from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="bundles are built with the extra 'train'")

from smallhold.bundle.assemble import BundleRequest, SignalPart, TextPart, build_bundle, sign_bundle
from smallhold.decide import check_bundle, open_bundle
from smallhold.decide.task import Task
from smallhold.device.bundle_files import open_bundle_files
from smallhold.device.trust import generate_private_key, key_id, unsafe_read_manifest, verify_bundle
from smallhold.errors import DataError, ExpiredError, InputError, SignatureError
from smallhold.records import sha256_hex

CREATED = datetime(2025, 6, 1, 14, 0, 0, tzinfo=timezone(timedelta(hours=2)))
KEY = generate_private_key()
TRUSTED = {key_id(KEY.public_key()): KEY.public_key()}


@pytest.fixture(scope="module")
def request_of(small_bundle: Any) -> BundleRequest:
    folder = small_bundle.path
    return BundleRequest(
        checkpoint=small_bundle.checkpoint,
        parts=(
            SignalPart(
                task=Task.from_bytes((folder / "tasks" / "icu-risk.json").read_bytes()),
                trees=folder.parent / "trees.npz",
                stays=small_bundle.stays,
            ),
        ),
        name="icu-risk-test",
        version="2.0.0",
        expires=datetime(2026, 1, 1, tzinfo=UTC),
        training_data=("simulated_ward",),
        licences={"simulated_ward.txt": "No person stands behind any row."},
        card="# Card\n",
        max_error=0.1,
    )


def build(request: BundleRequest, small_bundle: Any, target: Path, *, key: Any = KEY) -> Any:
    return build_bundle(
        request,
        target,
        is_simulated=True,
        created=CREATED,
        key=key,
        progress=lambda caption, done, total: None,
    )


def test_a_bundle_holds_what_its_manifest_lists(request_of: BundleRequest, small_bundle: Any, tmp_path: Path) -> None:
    manifest, fitted = build(request_of, small_bundle, tmp_path / "bundle")
    files = open_bundle_files(tmp_path / "bundle")
    assert verify_bundle(files, TRUSTED, now=CREATED) == manifest
    assert set(manifest.files) == {
        "baseline/icu-risk.trees.npz",
        "card.md",
        "drift/icu-risk.json",
        "gguf/icu-risk.encoder.gguf",
        "gguf/trunk.gguf",
        "licences/simulated_ward.txt",
        "onnx/trunk.onnx",
        "tasks/icu-risk.json",
        "tokenizer.json",
    }
    assert (manifest.created, manifest.expires) == ("2025-06-01T12:00:00Z", "2026-01-01T00:00:00Z")
    assert manifest.base_digest == sha256_hex((request_of.checkpoint / "model.safetensors").read_bytes())
    assert manifest.context_length == 64
    assert manifest.is_simulated
    task = Task.from_bytes(files.read("tasks/icu-risk.json"))
    fitted = fitted["icu-risk"]
    assert task == fitted.task
    assert {"news2", "trees", "trees+shipped"} <= set(task.comparators)
    assert set(task.comparators["trees"]) == {"6", "12", "24", "48"}
    assert 0 <= fitted.error <= 1
    assert 0 < fitted.coverage <= 1
    assert not list(tmp_path.glob(".bundle*"))


def test_a_directory_and_a_single_file_decide_alike(
    request_of: BundleRequest, small_bundle: Any, tmp_path: Path
) -> None:
    build(request_of, small_bundle, tmp_path / "bundle")
    build(request_of, small_bundle, tmp_path / "bundle.zip")
    probabilities = []
    for path in (tmp_path / "bundle", tmp_path / "bundle.zip"):
        files = open_bundle_files(path)
        verify_bundle(files, TRUSTED, now=CREATED)
        session = open_bundle(path, unsafe_skip_verification=True).task("icu-risk").session([0.5] * 9)
        session.observe("HR", 130.0)
        session.close_bin()
        probabilities.append(session.decide().answers["in_hospital_death"].probabilities)
    assert probabilities[0] == probabilities[1]


def test_building_again_gives_the_same_bytes_but_for_the_signature(
    request_of: BundleRequest, small_bundle: Any, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        build(request_of, small_bundle, tmp_path / name, key=None)
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()


def test_a_bundle_without_a_key_is_unsigned_until_somebody_signs(
    request_of: BundleRequest, small_bundle: Any, tmp_path: Path
) -> None:
    build(request_of, small_bundle, tmp_path / "bundle", key=None)
    files = open_bundle_files(tmp_path / "bundle")
    with pytest.raises(SignatureError, match="is unsigned"):
        verify_bundle(files, TRUSTED, now=CREATED)
    sign_bundle(tmp_path / "bundle", KEY)
    verify_bundle(open_bundle_files(tmp_path / "bundle"), TRUSTED, now=CREATED)
    with pytest.raises(ExpiredError, match="expired at 2026-01-01T00:00:00Z"):
        verify_bundle(open_bundle_files(tmp_path / "bundle"), TRUSTED, now=datetime(2026, 1, 1, tzinfo=UTC))


def test_an_older_bundle_is_replaced_and_anything_else_is_not(
    request_of: BundleRequest, small_bundle: Any, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    (part,) = request_of.parts
    build(request_of, small_bundle, target)
    build(
        replace(
            request_of, version="2.0.1", parts=(replace(part, trees=None, task=replace(part.task, baseline=None)),)
        ),
        small_bundle,
        target,
    )
    manifest = unsafe_read_manifest(open_bundle_files(target))
    assert manifest.version == "2.0.1"
    assert "baseline/icu-risk.trees.npz" not in manifest.files
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("1")
    with pytest.raises(InputError, match="thesis: exists and is no bundle, so it is not replaced"):
        build(request_of, small_bundle, precious)
    assert (precious / "chapter.txt").read_text() == "1"


def test_a_failure_leaves_the_older_bundle_and_no_rest(
    request_of: BundleRequest, small_bundle: Any, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    (part,) = request_of.parts
    build(request_of, small_bundle, target)
    before = (target / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="calibration split: expected at least 10 patients of either outcome"):
        build_bundle(
            replace(request_of, version="3.0.0", parts=(replace(part, stays=small_bundle.stays[:5]),)),
            target,
            is_simulated=True,
            created=CREATED,
            key=KEY,
            progress=lambda caption, done, total: None,
        )
    with pytest.raises(DataError, match=r"missing: config\.json"):
        build(replace(request_of, checkpoint=tmp_path), small_bundle, target)
    assert (target / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_without_a_manifest_is_not_signed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest\.json to sign"):
        sign_bundle(tmp_path, KEY)


def test_the_small_bundle_says_that_it_is_simulated(small_bundle: Any) -> None:
    value = json.loads((small_bundle.path / "manifest.json").read_bytes())
    assert value["is_simulated"] is True
    assert value["training_data"] == ["simulated_ward"]


def test_one_bundle_holds_tasks_of_both_kinds_on_one_trunk(text_bundle: Any) -> None:
    files = open_bundle_files(text_bundle.path)
    manifest = unsafe_read_manifest(files)
    assert manifest.tasks == ("icu-risk", "triage")
    assert manifest.files["baseline/triage.ngrams.npz"].role == "n-gram classifier"
    assert sum(entry.role == "trunk" for entry in manifest.files.values()) == 2
    check_bundle(text_bundle.path)
    bundle = open_bundle(text_bundle.path, trusted_keys=text_bundle.trusted_keys)
    session = bundle.signal_task("icu-risk").session([0.5] * 9)
    session.close_bin()
    assert set(session.decide().answers) == {"in_hospital_death"}
    door = bundle.text_task("triage").door
    assert door.ngram_weight > 0  # it has learnt the words; the trunk has random weights


def test_a_request_that_lacks_something_is_refused(request_of: BundleRequest, text_bundle: Any, tmp_path: Path) -> None:
    task = Task.from_bytes((text_bundle.path / "tasks" / "triage.json").read_bytes())

    def build_with(*parts: Any) -> None:
        build(replace(request_of, parts=parts), None, tmp_path / "bundle")

    with pytest.raises(InputError, match="bundle icu-risk-test: expected one task or more"):
        build_with()
    with pytest.raises(InputError, match="task triage: names an n-gram classifier, but none was given"):
        build_with(TextPart(task=task, examples=text_bundle.examples))
    assert not list(tmp_path.iterdir())
