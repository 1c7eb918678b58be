"""With SMALLHOLD_REQUIRE_ALL=1 a skipped test or module is a failure: nothing is left out without being seen."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

# The same examples in every run, without a time limit: a busy machine and chance say nothing of the code.
settings.register_profile("smallhold", deadline=None, derandomize=True, database=None)
settings.load_profile("smallhold")


def pytest_configure() -> None:
    """A shell starts background jobs deaf to SIGINT, and the processes under test would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.CallInfo[None], None]:
    """A test that skips itself."""
    outcome = yield
    _refuse_skip(outcome.get_result(), item.nodeid)  # type: ignore[attr-defined]


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, None]:
    """A module that skips itself while it is imported."""
    outcome = yield
    _refuse_skip(outcome.get_result(), collector.nodeid)  # type: ignore[attr-defined]


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport, name: str) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("SMALLHOLD_REQUIRE_ALL") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{name}: skipped, and SMALLHOLD_REQUIRE_ALL=1 allows no skip: {reason}"
