"""`smallhold journal export --fhir`: the journal as FHIR resources, NDJSON, one file a type."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smallhold.cli.journal_options import journal_of, key_if_any
from smallhold.cli.options import home_of
from smallhold.cli.output import note
from smallhold.errors import InputError


def configure(exporting: Any) -> None:
    """Declare the options that `export` takes for FHIR."""
    exporting.add_argument("--fhir", choices=("r4", "r5"), help="write FHIR resources of this release instead")
    exporting.add_argument("--out", type=Path, metavar="DIR", help="with --fhir: a new folder, a file a resource type")


def run(args: argparse.Namespace) -> int:
    """Export; the folder appears whole or not at all."""
    from smallhold.assist.interop.fhir_base import Dialect, Release
    from smallhold.assist.interop.fhir_export import export_fhir
    from smallhold.sectors.hospital.codes import HospitalCodes
    from smallhold.sectors.hospital.terms import HospitalTerms

    if args.out is None or args.file is not None:
        raise InputError(
            "export --fhir: expected --out DIR and no FILE", hint="smallhold journal export --fhir r4 --out DIR"
        )
    dialect = Dialect(Release(args.fhir), HospitalTerms())
    key = key_if_any(home_of(args))
    result = export_fhir(journal_of(args), args.out, dialect, system=HospitalCodes.system, key=key)
    if args.json:
        print(json.dumps({"folder": str(args.out), **asdict(result)}))
    else:
        for kind, count in result.resources.items():
            print(f"{count:>9}  {kind}")
        note(f"{result.entries} entries read, {result.erased} of them erased; {result.refused} readings were refused")
    note("pseudonyms stay as they are; look at what you pass on before you do")
    return 0
