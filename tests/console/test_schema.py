"""The OpenAPI schema says what the API does: requests made from it, by schemathesis, against a real ward."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.console.station import Station

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed, the extra 'test'")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi import checks  # noqa: E402

# What the schema cannot say (a patient who is there, a dose that is due) is refused with 404 or 409.
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
#: An endless answer; what ends the session that asks; what takes seconds of a core. They have tests of their own.
APART = {("GET", "/api/events"), ("DELETE", "/api/session"), ("POST", "/api/session"), ("POST", "/api/audit/verify")}
EXAMPLES = 3


def test_every_answer_is_one_that_the_schema_names(module_station: Station) -> None:
    api = schemathesis.openapi.from_asgi("/api/openapi.json", module_station.app, headers={"Host": "127.0.0.1"})
    asked = set()
    for found in api.get_all_operations():
        operation = found.ok()
        name = (operation.method.upper(), operation.path)
        if name in APART:
            continue
        asked.add(name)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
                continue
            _ask(module_station, operation, mode)
    assert len(asked) == 27
    assert module_station.client("Paul").get("/api/ward").status_code == 200


def _ask(station: Station, operation: Any, mode: GenerationMode) -> None:
    client, console = station.clients["Paul"], station.app.state.console
    token = client.http.cookies[console.doors.cookie]
    wanted = [*CHECKS, checks.negative_data_rejection] if mode is GenerationMode.NEGATIVE else CHECKS

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck)
    def check(case: Any) -> None:
        for session in console.doors.sessions._sessions.values():
            session.tokens = 60.0  # the rate limit has a test of its own
        if mode is GenerationMode.POSITIVE and "patient" in (case.path_parameters or {}):
            case.path_parameters["patient"] = "p"
        case.call_and_validate(
            base_url="http://127.0.0.1",
            headers={**client.headers, "Cookie": f"{console.doors.cookie}={token}"},
            checks=wanted,
        )

    check()
