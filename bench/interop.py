"""What interoperability costs: a journal as FHIR, CDS Hooks calls, readings over SDC.

    python -m bench.interop JOURNAL [--home DIR]

JOURNAL is a ward's, for example of `smallhold bedside --rehearse mllp --simulated --speed 600 --state DIR`.
Everything is on this machine, over HTTP on loopback.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import uuid
from pathlib import Path
from statistics import quantiles

import httpx
import uvicorn

from smallhold.assist.interop.cds_hooks import CdsService
from smallhold.assist.interop.cds_http import CdsOptions, cds_app, listen
from smallhold.assist.interop.cds_view import JournalView
from smallhold.assist.interop.fhir_base import Dialect, Release
from smallhold.assist.interop.fhir_export import export_fhir
from smallhold.assist.interop.hospital import SDC_METRICS
from smallhold.assist.interop.sdc_provider import BedProvider
from smallhold.assist.interop.sdc_source import SdcOptions, SdcSource
from smallhold.assist.sources import Inbox
from smallhold.assist.sources.intake import Intake
from smallhold.device.home import Home
from smallhold.device.journal import Journal
from smallhold.device.journal_store import read_entries
from smallhold.sectors.hospital.codes import HospitalCodes
from smallhold.sectors.hospital.terms import HospitalTerms

CALLS = 300


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--home", type=Path)
    args = parser.parse_args()
    home = Home.default() if args.home is None else Home(args.home)
    with tempfile.TemporaryDirectory() as folder:
        told = {
            "fhir": {one.value: export(args.journal, home, Path(folder), one) for one in Release},
            "cds_ms": hooks(args.journal, home, Path(folder)),
            "sdc_ms": readings(),
        }
    print(json.dumps(told, indent=2))


def export(journal: Path, home: Home, folder: Path, release: Release) -> dict[str, float]:
    """Entries and resources a second."""
    begun = time.perf_counter()
    out = folder / release.value
    result = export_fhir(
        journal, out, Dialect(release, HospitalTerms()), system=HospitalCodes.system, key=home.device_key()
    )
    seconds = time.perf_counter() - begun
    resources = sum(result.resources.values())
    size = sum(path.stat().st_size for path in out.iterdir())
    return {"entries": result.entries, "resources": resources, "a_second": resources / seconds, "bytes": size}


def hooks(journal: Path, home: Home, folder: Path) -> dict[str, float]:
    """Round trips of patient-view, cards journalled."""
    named = {
        json.loads(payload)["patient"]
        for entry, payload in read_entries(journal, kind="step", key=home.device_key())
        if payload is not None
    }
    with Journal.open(folder / "feedback.db", key=home.device_key()) as kept, listen("127.0.0.1", 0) as listening:
        service = CdsService(JournalView(journal, home.device_key()), kept, Dialect(Release.R4, HospitalTerms()))
        server = uvicorn.Server(uvicorn.Config(cds_app(service, CdsOptions()), lifespan="off", log_config=None))
        runner = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        runner.start()
        times = []
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", trust_env=False) as client:
            client.get("/cds-services")
            for number in range(CALLS):
                patient = sorted(named)[number % len(named)]
                body = {"hook": "patient-view", "hookInstance": str(uuid.uuid4())}
                body |= {"context": {"userId": "Practitioner/1", "patientId": patient}}
                begun = time.perf_counter()
                client.post("/cds-services/smallhold-patient-view", json=body).raise_for_status()
                times.append((time.perf_counter() - begun) * 1e3)
        server.should_exit = True
        runner.join(10)
    return percentiles(times)


def readings() -> dict[str, float]:
    """From a device's new value to the far side of the inbox."""
    device = BedProvider("bed-1", SDC_METRICS, HospitalTerms())
    source, inbox, times = None, Inbox(), []
    try:
        source = SdcSource(SdcOptions(address=device.start()), Intake("sdc", HospitalCodes()))
        source.start(inbox)
        while not source.status().is_connected:
            time.sleep(0.01)
        for number in range(CALLS):
            begun = time.perf_counter()
            device.show_reading("HR", 60 + number % 60, time.time_ns() // 1_000_000)
            if not inbox.take(1, 10.0):
                raise SystemExit("a reading did not arrive within 10 s")
            times.append((time.perf_counter() - begun) * 1e3)
    finally:
        if source is not None:
            source.stop(10)
        device.stop()
    return percentiles(times)


def percentiles(times: list[float]) -> dict[str, float]:
    """n, p50, p99."""
    cuts = quantiles(times, n=100, method="inclusive")
    return {"n": len(times), "p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}


if __name__ == "__main__":
    main()
