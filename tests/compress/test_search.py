"""A search on a tiny teacher: real graphs, real training, and limits that are kept or named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests.compress.taught_ward import SMALLER, recipe_of
from tests.teach.corpus import silent

from smallhold.cli.main import main
from smallhold.compress.budget import Budget
from smallhold.compress.candidates import Candidate
from smallhold.compress.device_profile import DeviceProfile, measure_device, write_profile
from smallhold.compress.quantize import twin_folder
from smallhold.compress.search import SearchResult, SearchSettings, Space, run_search
from smallhold.errors import DataError, RecipeError
from smallhold.sectors.hospital.simulator import simulate_ward, write_ward
from smallhold.teach.joint import JointSummary

pytestmark = pytest.mark.slow
GRID = [(512, 32, 64, layers, 2, 2, bits) for layers in (1, 4, 8, 12) for bits in (8, 4, 32)]
SHORT = "[healing]\nepochs = 0.3\n"
SETTINGS = SearchSettings(trained=3, least_effort=0.5)


@pytest.fixture(scope="module")
def profile() -> DeviceProfile:
    return measure_device(progress=silent, grid=GRID)


@pytest.fixture(scope="module")
def found(
    teacher: tuple[Path, JointSummary], data: Path, profile: DeviceProfile, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SearchResult]:
    run = tmp_path_factory.mktemp("search")
    budget = Budget(max_bytes=900_000, max_ms_p95=50.0)
    recipe = recipe_of(teacher[0], SHORT)
    return run, run_search(recipe, budget, profile, data, run, settings=SETTINGS, progress=silent, threads=1)


def test_what_is_found_keeps_every_limit(found: tuple[Path, SearchResult]) -> None:
    run, result = found
    assert result.is_feasible and not result.broken
    assert result.measured["bytes"] <= 900_000 and 0 < result.measured["p95_ms"] <= 50.0
    assert result.quality is not None and result.looked_at["trained"] == 3
    assert (twin_folder(run / result.run, result.bits) / "quantized.safetensors").is_file()
    assert json.loads((run / "result.json").read_text())["label"] == result.label
    efforts = [trial["effort"] for trial in result.trials]
    assert len(efforts) == 4 and efforts == sorted(efforts) and efforts[-1] == 1.0


def test_a_shape_is_foretold_with_the_vocabulary_that_trimming_leaves(found: tuple[Path, SearchResult]) -> None:
    run, result = found
    kept = json.loads((run / result.run / "pruned" / "kept.json").read_text())
    assert f"v{kept['vocab_size']}w" in result.label
    assert result.predicted["bytes"] == result.measured["bytes"]


def test_the_same_measurements_lead_to_the_same_end(
    found: tuple[Path, SearchResult], teacher: tuple[Path, JointSummary], data: Path, profile: DeviceProfile
) -> None:
    run, result = found
    budget, recipe = Budget(max_bytes=900_000, max_ms_p95=50.0), recipe_of(teacher[0], SHORT)
    trained = sorted(path.stat().st_mtime_ns for path in (run / "trials").glob("*/*/shrink.json"))
    again = run_search(recipe, budget, profile, data, run, settings=SETTINGS, progress=silent, threads=1)
    assert json.dumps(asdict(again)) == json.dumps(asdict(result))
    assert trained and trained == sorted(path.stat().st_mtime_ns for path in (run / "trials").glob("*/*/shrink.json"))


def test_a_search_killed_while_shapes_learn_ends_as_if_it_had_not_been(
    found: tuple[Path, SearchResult],
    teacher: tuple[Path, JointSummary],
    data: Path,
    profile: DeviceProfile,
    tmp_path: Path,
) -> None:
    """SIGKILL in the first healing and after the first quality, over the same measured costs."""
    whole, result = found
    recipe, device, run = tmp_path / "recipe.toml", tmp_path / "device.json", tmp_path / "run"
    recipe.write_text(SMALLER.replace("TEACHER", str(teacher[0])) + SHORT)
    write_profile(profile, device)
    (record,) = whole.glob("measured-*.json")
    costs = {key: cost for key, cost in json.loads(record.read_text()).items() if not key.startswith("quality ")}
    run.mkdir()
    (run / record.name).write_text(json.dumps(costs))
    code = f"""
from pathlib import Path
from tests.compress.test_search import *
from smallhold.compress.shrink_recipe import read_shrink_recipe
run_search(
    read_shrink_recipe({str(recipe)!r}), Budget(max_bytes=900_000, max_ms_p95=50.0),
    DeviceProfile.read(Path({str(device)!r})), Path({str(data)!r}), Path({str(run)!r}),
    settings=SETTINGS, progress=silent, threads=1,
)
"""
    moments = (
        lambda: any(run.glob("trials/*/*/training/*")),
        lambda: "quality " in (run / record.name).read_text(),
    )
    for has_come in moments:
        child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
        deadline = time.monotonic() + 240
        while not has_come():
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        child.kill()
        child.wait(60)
        assert not (run / "result.json").exists()
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=400)
    assert json.loads((run / "result.json").read_text()) == json.loads((whole / "result.json").read_text())
    assert result.trials == json.loads((run / "result.json").read_text())["trials"]


def test_the_impossible_is_named_with_what_comes_closest(
    teacher: tuple[Path, JointSummary], data: Path, profile: DeviceProfile, tmp_path: Path
) -> None:
    recipe, budget = recipe_of(teacher[0], SHORT), Budget(max_rss=1_000_000)
    result = run_search(recipe, budget, profile, data, tmp_path, settings=SETTINGS, progress=silent, threads=1)
    assert not result.is_feasible and result.quality is None
    assert result.line().startswith("infeasible; closest is 1x32/32") and "resident_bytes" in result.line()
    assert not (tmp_path / "trials").exists()


def test_other_data_and_other_machines_share_no_measurement(
    teacher: tuple[Path, JointSummary],
    data: Path,
    profile: DeviceProfile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_ward(simulate_ward(300, 1, 48), tmp_path / "other" / "simulated_ward")
    recipe, budget, run = recipe_of(teacher[0], SHORT), Budget(max_rss=1_000_000), tmp_path / "run"
    monkeypatch.setattr("smallhold.compress.search.machine", lambda: "elsewhere")  # costs are foretold there
    for place, records in ((data, 1), (tmp_path / "other", 2)):
        result = run_search(recipe, budget, profile, place, run, settings=SETTINGS, progress=silent, threads=1)
        assert not result.is_measured_here and len(list(run.glob("measured-*.json"))) == records
    monkeypatch.undo()
    result = run_search(recipe, budget, profile, data, run, settings=SETTINGS, progress=silent, threads=1)
    assert result.is_measured_here and result.measured != result.predicted


def test_a_quality_out_of_reach_is_infeasible(
    found: tuple[Path, SearchResult], teacher: tuple[Path, JointSummary], data: Path, profile: DeviceProfile
) -> None:
    """The same measurements, but for qualities: the closest is named."""
    run, result = found
    (record,) = run.glob("measured-*.json")
    before = record.read_text()
    measured = json.loads(before)
    before_keys = list(measured)
    for label in [key.split()[1] for key in before_keys if key.startswith("cost ")]:
        measured |= {f"quality {label} {effort}": {"quality": 0.4} for effort in ("0.500", "1.000")}
        measured[f"final {label}"] = measured[f"cost {label}"]
    record.write_text(json.dumps(measured))
    recipe, budget = recipe_of(teacher[0], SHORT), Budget(max_bytes=900_000, min_quality=0.9)
    try:
        again = run_search(recipe, budget, profile, data, run, settings=SETTINGS, progress=silent, threads=1)
    finally:
        record.write_text(before)
        (run / "result.json").write_text(json.dumps(asdict(result)))
    assert not again.is_feasible and "quality 0.400 of at least 0.900" in again.line()


def test_a_cost_model_that_promised_too_much_is_corrected_and_the_closest_is_named(
    teacher: tuple[Path, JointSummary],
    data: Path,
    profile: DeviceProfile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training and measuring are replaced by rules: shapes cost a multiple of what was foretold."""

    def measure(space: Space, candidate: Candidate, trained: Path | None = None) -> dict[str, float]:
        cost = space.foretell(candidate)
        return cost | {"p95_ms": dearer[trained is not None] * cost["p95_ms"]}

    monkeypatch.setattr(Space, "measure", measure)
    monkeypatch.setattr("smallhold.compress.search._Trials.quality", lambda _, candidate, __: candidate.hidden / 100)
    recipe = recipe_of(teacher[0], SHORT)
    space = Space.of(recipe, profile, data)
    costs = [space.foretell(candidate)["p95_ms"] for candidate in space.all]
    budget, ratio = Budget(max_ms_p95=max(costs)), max(costs) / min(costs)

    def search(name: str) -> SearchResult:
        return run_search(recipe, budget, profile, data, tmp_path / name, settings=SETTINGS, progress=silent, threads=1)

    dearer = (0.999 * ratio, 0.999 * ratio)  # the cheapest alone fits, and is none of those that are measured first
    result = search("corrected")
    assert result.is_feasible and result.predicted["p95_ms"] == pytest.approx(min(costs), rel=0.01)
    assert result.looked_at["measured"] > 3 * SETTINGS.trained
    dearer = (1.0, 1.001 * ratio)  # with trained weights none does: all are tried, and the closest is named
    result = search("closest")
    assert not result.is_feasible and "p95_ms" in result.line()
    record = json.loads(next((tmp_path / "closest").glob("measured-*")).read_text())
    tried = [cost["p95_ms"] for key, cost in record.items() if key.startswith("final ")]
    assert result.measured["p95_ms"] == min(tried) and len(tried) == SETTINGS.trained


def test_runs_of_another_recipe_lie_beside_each_other(
    found: tuple[Path, SearchResult], teacher: tuple[Path, JointSummary], data: Path, profile: DeviceProfile
) -> None:
    run, result = found
    before = (run / "result.json").read_bytes()
    budget, recipe = Budget(max_bytes=900_000, max_ms_p95=50.0), recipe_of(teacher[0], "[healing]\nepochs = 0.2\n")
    settings, records = replace(SETTINGS, trained=1), set(run.glob("measured-*.json"))
    other = run_search(recipe, budget, profile, data, run, settings=settings, progress=silent, threads=1)
    (run / "result.json").write_bytes(before)
    for record in set(run.glob("measured-*.json")) - records:
        record.unlink()
    assert other.is_feasible and (run / other.run / "shrink.json").is_file() and (run / result.run).is_dir()
    assert Path(other.run).parent != Path(result.run).parent
    shutil.rmtree((run / other.run).parent)


def test_a_dry_run_foretells_the_search_and_writes_nothing(
    found: tuple[Path, SearchResult],
    teacher: tuple[Path, JointSummary],
    data: Path,
    profile: DeviceProfile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, device = tmp_path / "recipe.toml", tmp_path / "device.json"
    recipe.write_text(SMALLER.replace("TEACHER", str(teacher[0])) + SHORT)
    write_profile(profile, device)
    words = ["compress", str(recipe), "--data", str(data), "--device", str(device), "--out", str(tmp_path / "run")]
    limits = ["--max-bytes", "900000", "--max-ms-p95", "50", "--candidates", "3", "--dry-run"]
    assert main([*words, *limits, "--json"]) == 0
    plan, looked_at = json.loads(capsys.readouterr().out), found[1].looked_at
    assert [plan[name] for name in ("shapes", "measured", "trained")] == list(looked_at.values())
    assert plan["fitting"] >= plan["measured"] and plan["seconds"] > 0 and not plan["closest"]
    assert main([*words, "--max-rss", "1MB", "--dry-run"]) == 1
    assert "closest is 1x32/32" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_quality_alone_asks_for_the_smallest_that_has_it(
    teacher: tuple[Path, JointSummary],
    data: Path,
    profile: DeviceProfile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training is replaced by a rule, larger is better: bisection has to find the edge with few trials."""
    asked: dict[str, float] = {}

    def quality(trials: object, candidate: Candidate, effort: float) -> float:
        assert effort == 1.0
        asked[candidate.label()] = candidate.hidden * candidate.layers / 160
        return asked[candidate.label()]

    monkeypatch.setattr("smallhold.compress.search._Trials.quality", quality)
    monkeypatch.setattr("smallhold.compress.search.machine", lambda: "elsewhere")  # costs are foretold there
    recipe = recipe_of(teacher[0], SHORT)

    def search(least: float, trained: int) -> SearchResult:
        settings = SearchSettings(trained=trained)
        run = tmp_path / f"{least}"
        return run_search(recipe, Budget(min_quality=least), profile, data, run, settings=settings, progress=silent)

    result = search(0.45, 8)
    assert result.is_feasible and result.quality is not None and result.quality >= 0.45
    assert len(asked) <= 4 and result.looked_at["trained"] >= 6
    assert min(asked.values()) < 0.45  # the edge was looked at from below too
    result = search(1.0, 8)
    assert not result.is_feasible and "of at least 1.000" in result.line()


def test_energy_is_refused_where_it_is_not_measured(
    teacher: tuple[Path, JointSummary], data: Path, profile: DeviceProfile, tmp_path: Path
) -> None:
    counted = {"p95_ms": profile.model.coefficients["p95_ms"]}
    without = replace(profile, model=replace(profile.model, coefficients=counted))
    with pytest.raises(RecipeError, match="joules"):
        run_search(
            recipe_of(teacher[0]), Budget(max_joules=1.0), without, data, tmp_path, settings=SETTINGS, progress=silent
        )


def test_energy_that_only_the_profile_counts_is_refused(
    teacher: tuple[Path, JointSummary],
    data: Path,
    profile: DeviceProfile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The profile's owner may read the processor's counter, and whoever searches may not."""
    costs = {"p50_of_reference": 1.0, "p95_of_reference": 1.0, "resident_bytes": 10**7, "joules": None}
    monkeypatch.setattr("smallhold.compress.device_profile.measure_content", lambda *_, **__: costs)
    counted = profile.model.coefficients | {"joules": profile.model.coefficients["p95_ms"]}
    knows = replace(profile, model=replace(profile.model, coefficients=counted))
    with pytest.raises(RecipeError, match="joules"):
        run_search(
            recipe_of(teacher[0]), Budget(max_joules=9e9), knows, data, tmp_path, settings=SETTINGS, progress=silent
        )


def test_a_teacher_that_saw_the_validation_rows_chooses_nothing(
    teacher: tuple[Path, JointSummary], data: Path, profile: DeviceProfile, tmp_path: Path
) -> None:
    path = teacher[0] / "run.json"
    before = path.read_text()
    value = json.loads(before)
    value["recipe"]["splits"] = ["train", "validation"]
    try:
        path.write_text(json.dumps(value))
        with pytest.raises(DataError, match="validation split"):
            run_search(
                recipe_of(teacher[0]),
                Budget(max_bytes=10**9),
                profile,
                data,
                tmp_path,
                settings=SETTINGS,
                progress=silent,
            )
        assert not list(tmp_path.iterdir())  # before anything was measured, and before anything would be trained
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(SMALLER.replace("TEACHER", str(teacher[0])))
        words = ["compress", str(recipe), "--data", str(data), "--out", str(tmp_path / "run"), "--pictures"]
        assert main(words) == 1 and not (tmp_path / "run").exists()
    finally:
        path.write_text(before)


def test_the_command_line_asks_for_a_profile(
    teacher: tuple[Path, JointSummary],
    data: Path,
    profile: DeviceProfile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, device = tmp_path / "recipe.toml", tmp_path / "device.json"
    recipe.write_text(SMALLER.replace("TEACHER", str(teacher[0])))
    write_profile(profile, device)
    assert main(["compress", str(recipe), "--max-bytes", "1MB"]) == 1
    assert "smallhold doctor --profile" in capsys.readouterr().err
    words = ["compress", str(recipe), "--max-rss", "1kB", "--device", str(device), "--out", str(tmp_path / "run")]
    assert main([*words, "--data", str(data)]) == 1
    assert "infeasible; closest is" in capsys.readouterr().out
    assert main(["compress", str(teacher[0]), "--max-bytes", "1MB"]) == 1
    assert "limits are for recipes" in capsys.readouterr().err
