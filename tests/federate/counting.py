"""Four sites that count their persons by condition and outcome, for tests of statistics and of knowledge packs."""

from pathlib import Path

import numpy as np

from smallhold.device.knowledge import Dimension
from smallhold.federate.cell_counts import CellCounts
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.job import AggregationChoice, FederatedJob, UploadChoice
from smallhold.federate.local_model import Rows
from smallhold.federate.members import FOLDER, KEY, Members, load_members, make_members
from smallhold.federate.server import RoundServer
from smallhold.federate.site import Site
from smallhold.federate.statistics import StatisticsChoice

SITES = ("east", "north", "south", "west")
DIMENSIONS = (
    Dimension(name="condition", categories=("sepsis", "stroke", "burn")),
    Dimension(name="outcome", categories=("alive", "died")),
)
NUM_CELLS = 6
BURN_DIED = 5  # a cell that nobody is in


def counting_job(*, is_secure: bool = False, **statistics) -> FederatedJob:
    return FederatedJob(
        name="counts",
        task="eicu-treatments",
        sites=SITES,
        rounds=1,
        quorum=3,
        aggregation=AggregationChoice(method="sum"),
        upload=UploadChoice(secure=is_secure),
        statistics=StatisticsChoice(dimensions=DIMENSIONS, **statistics),
    )


def rows_of_site(name: str) -> Rows:
    """Persons of whom some are in several cells and some have several rows in one."""
    rng = np.random.default_rng([*name.encode()])
    persons = rng.integers(0, 60, 150)
    return Rows({}, rng.integers(0, BURN_DIED, 150), tuple(f"{name}-{person}" for person in persons))


def persons_in(rows: Rows) -> np.ndarray:
    """How many persons each cell has, the obvious way."""
    return np.array([len({p for c, p in zip(rows.label, rows.group, strict=True) if c == n}) for n in range(NUM_CELLS)])


class Counting:
    """Sites and a server of one job, in a folder."""

    def __init__(self, folder: Path, job: FederatedJob, **rows: Rows) -> None:
        self.folder, self.job = folder, job
        self.rows = {name: rows_of_site(name) for name in SITES} | rows

    def server(self, folder: str = "server", **settings) -> RoundServer:
        model = CellCounts(self.job)
        settings = {"members": self.members("server")} | settings
        return RoundServer(self.job, model.layout, model.initial(0), self.folder / folder, **settings)

    def site(self, name: str, random=None) -> Site:
        place = self.folder / "sites" / name
        model = CellCounts(self.job, random)
        return Site(name, self.job, model, self.rows[name], place, self.members(f"sites/{name}"))

    def members(self, own: str) -> Members | None:
        if not self.job.upload.secure:
            return None
        make_members(self.folder / "keys", SITES)
        return load_members(self.folder / "keys" / FOLDER, self.folder / "keys" / own / KEY, SITES)

    def run(self, folder: str = "server", **settings) -> np.ndarray:
        """The released counts."""
        server = self.server(folder, **settings)
        try:
            run_in_process(server, {name: self.site(name) for name in SITES}, progress=lambda *_: None)
            return server.model
        finally:
            server.close()
