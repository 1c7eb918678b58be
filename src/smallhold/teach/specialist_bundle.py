"""What goes into the bundle of a finished run of specialists: the base's files, the specialists, card and licences."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from smallhold.bundle.add_specialists import AddedSpecialist, AddRequest
from smallhold.decide.local import LocalBundle
from smallhold.decide.task import Task
from smallhold.errors import DataError
from smallhold.evaluate.run_folder import read_run_file
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.onsets import question
from smallhold.sectors.splits import Split
from smallhold.teach.card import licence_texts
from smallhold.teach.recipe import BundleChoice
from smallhold.teach.recipe_file import build_config
from smallhold.teach.specialists import ENCODER, TREES, SpecialistSummary, read_specialist_summary
from smallhold.teach.train import digest_stays


def is_specialist_run(run: Path) -> bool:
    """Whether a run taught specialists.

    Raises:
        DataError: the run is not finished.
    """
    return "specialists" in read_run_file(run)


def trunk_of_run(run: Path) -> Path:
    """The bundle that the recipe named.

    Raises:
        DataError: the run is not finished.
    """
    return Path(str(read_specialist_summary(run).recipe["trunk"]))


def request_of_specialists(
    run: Path,
    base: LocalBundle,
    data_dir: Path | None,
    *,
    created: datetime,
    version: str | None = None,
    is_without_expiry: bool = False,
) -> AddRequest:
    """The request.

    Args:
        run: Folder of the run.
        base: The opened bundle that they are added to.
        data_dir: What the user gave as `--data`, or None.
        created: Moment to count the expiry from.
        version: Instead of the recipe's, or None.
        is_without_expiry: Whatever the recipe says.

    Raises:
        DataError: the run is not finished or damaged, or what was found of its data differs from what it learnt from.
    """
    summary = read_specialist_summary(run)
    choice = build_config(BundleChoice, summary.recipe["bundle"], "run.json, recipe, bundle")
    stays = icu_risk.load_stays(data_dir)
    if digest_stays(icu_risk.split(stays, Split.TRAIN)) != summary.data_digest:
        raise DataError(
            f"calibration needs the very data of the run, {summary.data_set}; what was found differs from it",
            hint="give the folder of the data with --data DIR",
        )
    days = 0 if is_without_expiry else choice.expires_days
    return AddRequest(
        base=base,
        trunk_digest=summary.trunk_digest,
        added=[_added(run, name) for name in summary.specialists],
        calibration=icu_risk.split(stays, Split.CALIBRATION),
        validation=icu_risk.split(stays, Split.VALIDATION),
        name=choice.name,
        version=version or choice.version,
        created=created,
        expires=created + timedelta(days=days) if days else None,
        training_data=(summary.data_set,),
        licences=licence_texts((summary.data_set,)),
        card=write_specialist_card(summary),
        max_error=choice.max_error,
        seed=int(summary.recipe["seed"]),
    )


def write_specialist_card(summary: SpecialistSummary) -> str:
    """Markdown with one gap, `%(gate)s`, for what the gate said on the validation split."""
    tasks = "\n".join(
        f"| `{name}` | {question(name).question} | {item['patients']:,} | {item['onsets']:,} | "
        f"{question(name).known_limits} |"
        for name, item in summary.specialists.items()
    )
    left_out = "".join(f"- `{name}` was not trained: {why}.\n" for name, why in summary.left_out.items())
    card = f"""# Specialists of conditions over one trunk

Each estimates, at any hour that its question can be asked, whether one thing begins within the next hours. Research and
engineering software. **Not a medical device**; no decision about a person may rest on it.

On the validation split:

@gate@
{left_out}
A specialist that does not speak is not in this bundle: for its patients the general task and the scores watch alone.

| Task | Question | Training patients | of them with onset | Limits |
| --- | --- | --- | --- | --- |
{tasks}

- Trunk: that of {summary.bundle}, unchanged (sha256:{summary.trunk_digest}); each specialist is a signal encoder of
  {next(iter(summary.specialists.values()))["parameters"]:,} parameters in 8 bits, taught on the training split of
  {summary.data_set} by its labels and by gradient-boosted trees out of fold, which are shipped as the baseline.
- Recipe sha256:{summary.recipe_digest}, data sha256:{summary.data_digest}.
- Inputs: as `icu-risk`. Never an input: outcomes, length of stay, SAPS-I, SOFA, diagnoses.
- The labels are read from the same charts as the inputs: what was not charted did not happen. One data set, split at
  random by patient; not measured on other monitors, populations or years.
- Figures: `smallhold evaluate BUNDLE --specialists` prints them with intervals, beside trees, NEWS2 and `icu-risk`.
"""
    return card.replace("%", "%%").replace("@gate@", "%(gate)s")


def _added(run: Path, name: str) -> AddedSpecialist:
    try:
        return AddedSpecialist(
            task=Task.from_bytes((run / "tasks" / f"{name}.json").read_bytes()),
            encoder=load_file(run / name / ENCODER),
            trees=(run / name / TREES).read_bytes(),
        )
    except (OSError, SafetensorError) as error:
        raise DataError(f"run {run}: {name}: missing or damaged: {error}", hint="run the training again") from error
