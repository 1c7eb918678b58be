"""Cohorts for the tests of secure sums."""

import importlib.util
from pathlib import Path

import pytest


def _load_cohort():
    path = Path(__file__).with_name("secure_sum_world.py")
    spec = importlib.util.spec_from_file_location("secure_sum_world", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Cohort


@pytest.fixture(scope="session")
def cohort():
    """cohort(num_sites, ...) makes sites and a server in memory."""
    return _load_cohort()
