"""Every drill is a test; with `SMALLHOLD_DRILL_RESULT=FILE` what came of each is written there (`make drill`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smallhold.device.durable_file import write_durably

_rows: list[dict[str, Any]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        name = report.nodeid.rpartition("::")[2].removeprefix("test_")
        status = {"passed": "pass", "failed": "fail", "skipped": "skip"}[report.outcome]
        told = dict(report.user_properties)
        _rows.append({"drill": name, "status": status, "seconds": round(report.duration, 2), **told})


@pytest.fixture(scope="session", autouse=True)
def written() -> Iterator[None]:
    yield
    path = os.environ.get("SMALLHOLD_DRILL_RESULT")
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_durably(Path(path), [json.dumps({"rows": _rows}, indent=1).encode()], mode=0o644)
