"""What can be learnt by a federation: one entry a task, a literal table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smallhold.errors import RecipeError
from smallhold.federate import assistant_intent, eicu_death, eicu_treatments, heart_disease, icu_death, simulated
from smallhold.federate.cell_counts import CellCounts
from smallhold.federate.job import FederatedJob
from smallhold.federate.local_model import LocalModel, Rows
from smallhold.federate.logistic import Logistic
from smallhold.federate.measure import ACCURACY, AUROC, Measure
from smallhold.federate.tables import Table
from smallhold.sectors.splits import Split


@dataclass(frozen=True, slots=True)
class FederatedTask:
    """One task.

    Attributes:
        what: In a line.
        data_set: Whose rows it reads.
        model: Makes a job's model.
        rows: (job, data directory, part of the split) -> site -> rows.
        measure: By which figure it is judged.
    """

    what: str
    data_set: str
    model: Callable[[FederatedJob], LocalModel]
    rows: Callable[[FederatedJob, Path | None, Split], dict[str, Rows]]
    measure: Measure = AUROC


def _table(
    what: str, data_set: str, table: Table, rows: Callable[[Path | None, Split], dict[str, Rows]]
) -> FederatedTask:
    return FederatedTask(
        what,
        data_set,
        lambda _: Logistic(len(table.names)),
        lambda _, data_dir, part: rows(data_dir, part),
    )


def _trunk_model(job: FederatedJob) -> LocalModel:
    from smallhold.federate.trunk_risk import TrunkRisk  # torch is slow to load, and a site with a table needs none

    return TrunkRisk(Path(job.base), rank=job.local.rank)


def _trunk_rows(job: FederatedJob, data_dir: Path | None, part: Split) -> dict[str, Rows]:
    from smallhold.federate.trunk_risk import load_rows

    return load_rows(Path(job.base), data_dir, part)


TASKS: dict[str, FederatedTask] = {
    "heart-disease": _table(
        "heart disease from 13 clinical columns, at four hospitals; logistic regression",
        heart_disease.NAME,
        heart_disease.TABLE,
        heart_disease.load_rows,
    ),
    "eicu-death": _table(
        "death in hospital from the APACHE values of the first day, at hospitals of five regions; logistic regression",
        eicu_death.NAME,
        eicu_death.TABLE,
        eicu_death.load_rows,
    ),
    "icu-death": _table(
        "death in hospital from the last measurements of 48 hours, at four types of unit; logistic regression",
        icu_death.NAME,
        icu_death.TABLE,
        icu_death.load_rows,
    ),
    "eicu-treatments": FederatedTask(
        "persons by condition, treatment and outcome of intensive-care stays, at hospitals of five regions; counts",
        eicu_death.NAME,
        CellCounts,
        lambda job, data_dir, part: eicu_treatments.load_rows(job.statistics.dimensions, data_dir, part),
    ),
    "assistant-intent": FederatedTask(
        "what somebody wants of an assistant, a site for each language; multinomial logistic regression on n-grams",
        assistant_intent.NAME,
        lambda _: Logistic(assistant_intent.NUM_FEATURES, num_labels=len(assistant_intent.INTENTS), ridge=1e-4),
        lambda _, data_dir, part: assistant_intent.load_rows(data_dir, part),
        ACCURACY,
    ),
    "icu-risk": FederatedTask(
        "death in hospital at any hour, a site for each type of unit; adapters on a base model",
        "physionet2012_icu",
        _trunk_model,
        _trunk_rows,
    ),
}


def _simulated_rows(job: FederatedJob, data_dir: Path | None, part: Split) -> dict[str, Rows]:
    del data_dir
    return {site: simulated.rows_of(site, job.seed, part) for site in job.sites}


TASKS["simulated"] = FederatedTask(
    "a simulated rule on simulated rows; logistic regression",
    simulated.NAME,
    lambda _: Logistic(simulated.NUM_FEATURES),
    _simulated_rows,
)


def find_federated_task(name: str) -> FederatedTask:
    """A task by name.

    Raises:
        RecipeError: there is none; the message lists those that there are.
    """
    if name not in TASKS:
        raise RecipeError(f"task {name!r}: expected one of {', '.join(TASKS)}")
    return TASKS[name]
