"""Put the patient's page on a server, where the extra that serves it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.assist.care import Care
from smallhold.assist.live import LiveWard
from smallhold.assist.policy import Profile
from smallhold.console.patient.assets import load_assets
from smallhold.console.patient.desk import PatientDesk
from smallhold.console.patient.pairing import Pairings
from smallhold.decide.text_task import LocalTextTask
from smallhold.device.journal import Journal
from smallhold.errors import MissingExtraError

if TYPE_CHECKING:
    from fastapi import APIRouter


def patient_router(
    ward: LiveWard,
    care: Care,
    journal: Journal,
    pairings: Pairings,
    *,
    profile: Profile,
    triage: LocalTextTask | None = None,
    model_folder: Path | None = None,
    hosts: tuple[str, ...] = (),
    emergency_number: str = "112",
    prefix: str = "/patient",
) -> APIRouter:
    """The page and its API, for `app.include_router(patient_router(...))`.

    What wraps the application must leave the Content-Security-Policy of these answers as it is: the engine needs
    `wasm-unsafe-eval`, which a page without an engine should not allow.

    Args:
        ward: Whose patients pair; it has to be running, everything goes through `ward.call`.
        care: The ward's.
        journal: The ward's.
        pairings: Codes and sessions.
        profile: The policy in force.
        triage: Reads texts on this machine where the patient's device cannot; None: there such a text goes to staff.
        model_folder: What `smallhold bundle page` wrote: the device reads texts itself by these files; None: it cannot.
        hosts: Names by which the page may be asked, beside those of this very machine; `*` for any, behind TLS.
        emergency_number: Shown where a text needs help at once.
        prefix: Where the page lies; its address ends in a slash.

    Raises:
        MissingExtraError: the extra `console` is not installed.
        InputError: the folder lacks one of its files.
    """
    try:
        from smallhold.console.patient.router import make_router
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "console", "The patient's page") from error
    desk = PatientDesk(ward, care, journal, pairings, profile=profile, triage=triage)
    assets = load_assets(model_folder, emergency_number=emergency_number, has_server_model=triage is not None)
    return make_router(desk, assets, hosts, prefix)
