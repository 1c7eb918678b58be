from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the console needs FastAPI, the extra 'console'")

from tests.console.station import PEOPLE, Station


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def module_station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """One with everybody logged in, for what changes nothing."""
    made = Station(tmp_path_factory.mktemp("station"))
    made.put("p")
    made.clients = {name: made.client(name) for name in PEOPLE}
    yield made
    made.close()
