from pathlib import Path

import numpy as np
import pytest

from smallhold.federate.job import FederatedJob, LocalChoice
from smallhold.federate.local_model import Rows
from smallhold.federate.logistic import Logistic
from smallhold.federate.members import FOLDER, KEY, Members, load_members, make_members
from smallhold.federate.server import RoundServer
from smallhold.federate.site import Site

SITES = ("east", "north", "south", "west")


class Federation:
    """Four sites with rows of one rule, and a server, in a folder."""

    def __init__(self, folder: Path, **settings):
        self.folder = folder
        self.model = Logistic(3)
        self.job = FederatedJob(
            name="rule",
            task="heart-disease",
            sites=SITES,
            **({"rounds": 5, "local": LocalChoice(batch_size=16)} | settings),
        )
        self.rows = {name: rows_of_one_rule(40 + 10 * i, seed=i, name=name) for i, name in enumerate(SITES)}

    def server(self, folder: str = "server", **settings) -> RoundServer:
        layout, initial = self.model.layout, self.model.initial(0)
        settings = {"members": self.members("server")} | settings
        return RoundServer(self.job, layout, initial, self.folder / folder, clock_ms=lambda: 0, **settings)

    def site(self, name: str, folder: str = "") -> Site:
        place = self.folder / f"sites{folder}" / name
        return Site(name, self.job, self.model, self.rows[name], place, self.members(f"sites/{name}"))

    def members(self, own: str) -> Members | None:
        """Keys, where the job takes secure sums."""
        if not self.job.upload.is_hidden:
            return None
        make_members(self.folder / "keys", SITES)
        return load_members(self.folder / "keys" / FOLDER, self.folder / "keys" / own / KEY, SITES)

    def sites(self, folder: str = "") -> dict[str, Site]:
        return {name: self.site(name, folder) for name in SITES}


def rows_of_one_rule(count: int, *, seed: int, name: str) -> Rows:
    """Rows whose label follows the first feature, with noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 3)).astype(np.float32)
    label = (features[:, 0] + 0.5 * rng.normal(size=count) > 0).astype(np.int64)
    return Rows({"features": features}, label, tuple(f"{name}-{i}" for i in range(count)))


@pytest.fixture
def federation(tmp_path):
    return Federation(tmp_path)


@pytest.fixture
def make_federation(tmp_path):
    return lambda **settings: Federation(tmp_path, **settings)
