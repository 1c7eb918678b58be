"""`smallhold journal alarms`: what the alarms did to the people on the ward."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from smallhold.cli.journal_options import add_action, journal_of
from smallhold.cli.options import home_of
from smallhold.cli.output import print_json
from smallhold.errors import InputError, JournalError

_RESAMPLES = 500


def configure(actions: Any) -> None:
    """Declare the action."""
    parser = add_action(actions, "alarms", "count alarms, sound, floods, answers and overrides")
    parser.add_argument(
        "--outcomes",
        type=Path,
        metavar="CSV",
        help="columns patient,event (0 or 1): also PPV and lead time of the model at a fixed alarm burden",
    )
    parser.add_argument(
        "--choice", default="yes", metavar="NAME", help="the model's choice that is the event; default yes"
    )


def run(args: argparse.Namespace) -> int:
    """Read the journal and print."""
    from smallhold.assist.alarm_metrics import read_alarms
    from smallhold.device.journal import Journal

    path = journal_of(args)
    if not path.is_file():
        raise JournalError(f"no journal at {path}")
    outcomes = None if args.outcomes is None else _outcomes(args.outcomes)
    with Journal.open(path, key=home_of(args).device_key()) as journal:
        tally = read_alarms(journal, None if outcomes is None else args.choice)
    report = tally.report()
    if outcomes is not None:
        report["model_at_fixed_burden"] = _burden(tally, outcomes, args.choice)
    if args.json:
        print_json(report)
    else:
        _print(report)
    return 0


def _burden(tally: Any, outcomes: dict[str, bool], choice: str) -> list[dict[str, Any]]:
    """PPV, sensitivity and lead time at one alert per 35 patient-days and at 5 % of assessments."""
    import numpy as np

    from smallhold.evaluate.burden import OPERATING_POINTS, alert_burden

    patients, risks = tally.risk_matrix()
    known = [position for position, patient in enumerate(patients) if patient in outcomes]
    if not known:
        raise InputError(
            f"no patient with an outcome has a risk {choice!r} at every end of a bin ({len(patients)} have one)",
            hint="check the names in --outcomes, and --choice",
        )
    happened = np.array([outcomes[patients[position]] for position in known], dtype=bool)
    scores = risks[known]
    return [
        dict(
            alert_burden(
                happened,
                scores,
                find(scores),
                model="journalled",
                operating_point=name,
                threshold_from="these very patients: optimistic",
                num_resamples=_RESAMPLES,
                seed=0,
            )
        )
        for name, find in OPERATING_POINTS.items()
    ]


def _outcomes(path: Path) -> dict[str, bool]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {row["patient"]: {"0": False, "1": True}[row["event"].strip()] for row in rows}
    except (OSError, KeyError, ValueError, AttributeError, csv.Error) as error:
        raise InputError(
            f"{path}: expected a CSV file with the columns patient and event (0 or 1): {error!r}"
        ) from error


def _print(report: dict[str, Any]) -> None:
    alarms = "; ".join(
        f"{name} {told['n']} ({told['per_patient_day'] or 0:.2f} a patient-day)"
        for name, told in report["alarms"].items()
        if told["n"]
    )
    answers, audible = report["acknowledgement_seconds"], report["audible"]
    off = "; ".join(
        f"{name} {told['n']} times, {told['seconds']:,.0f} s" for name, told in report["inactivations"].items()
    )
    floods = report["floods"]["per_bed"]
    rows = [
        ("patients", f"{report['patients']}, {report['patient_days']:.2f} days"),
        ("alarms", alarms or "none"),
        ("escalations", f"{report['escalations']}; calls withheld by people: {report['withheld']}"),
        ("sound", f"{audible['seconds']:,.0f} s, {audible['per_patient_day'] or 0:,.0f} s a patient-day"),
        (
            "answered",
            "nobody acknowledged anything"
            if not answers["n"]
            else f"{answers['n']}, after {answers['p50']:g} s (median), {answers['p90']:g} s (90 %)",
        ),
        ("unanswered", f"{report['never_acknowledged']} still stand"),
        ("off", off or "nothing was switched off"),
        ("overrides", "no answers" if report["override_rate"] is None else f"{report['override_rate']:.0%} of answers"),
        ("floods", f"{floods['n']} at a bed, {floods['alarms']} alarms, longest {floods['longest_seconds']:,.0f} s"),
    ]
    if "per_ward" in report["floods"]:
        ward = report["floods"]["per_ward"]
        rows.append(("", f"{ward['n']} on the ward, {ward['alarms']} alarms, longest {ward['longest_seconds']:,.0f} s"))
    for told in report.get("model_at_fixed_burden", []):
        ppv, lead = told["ppv"]["value"], told["lead_time_h"]
        lead_text = "no true alert" if lead is None else f"median lead {lead['median']:g} h"
        rows.append(
            (
                "model",
                f"at {told['operating_point']}: PPV {'-' if ppv is None else f'{ppv:.0%}'}, {lead_text} (optimistic)",
            )
        )
    for name, text in rows:
        print(f"{name:12} {text}")
