"""A bed as an SDC device and a consumer that fills an inbox: both real, over HTTP and TLS on loopback, no multicast."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

pytest.importorskip("sdc11073", reason="the extra sdc is not installed")

from smallhold.assist.hospital import HospitalLimits
from smallhold.assist.interop.hospital import SDC_METRICS
from smallhold.assist.interop.sdc_journal import JournalBed
from smallhold.assist.interop.sdc_library import library
from smallhold.assist.interop.sdc_provider import BedProvider, Metric
from smallhold.assist.interop.sdc_source import SdcOptions, SdcSource
from smallhold.assist.sources import Inbox
from smallhold.assist.sources.address import Credentials
from smallhold.assist.sources.intake import Intake
from smallhold.cli.main import main
from smallhold.errors import InputError
from smallhold.records import AlertState, Observation, Priority, Score
from smallhold.sectors.hospital.codes import HospitalCodes
from smallhold.sectors.hospital.terms import HospitalTerms

from ..sources.broker import make_certificates
from ..test_live import BAD, Clocks, Ward
from .test_fhir_out import NOW_MS, alert

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
NEWS2 = Score(name="news2", total=9, parts={}, band="high")


def wait_for(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 15
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def provider(**options: Any) -> BedProvider:
    return BedProvider("bed-1", SDC_METRICS, HospitalTerms(), **options)


def follow(address: str, **options: Any) -> tuple[SdcSource, Inbox]:
    source, inbox = SdcSource(SdcOptions(address=address, **options), Intake("sdc", HospitalCodes())), Inbox()
    source.start(inbox)
    wait_for(lambda: source.status().is_connected)
    return source, inbox


def take(inbox: Inbox, count: int) -> list[Observation]:
    taken: list[Observation] = []
    wait_for(lambda: taken.extend(inbox.take(100, 0.05)) or len(taken) >= count)
    return taken


@pytest.fixture
def bed() -> Iterator[tuple[BedProvider, str]]:
    device = provider()
    yield device, device.start()
    device.stop()


def test_readings_travel_from_a_device_into_an_inbox(bed: tuple[BedProvider, str]) -> None:
    device, address = bed
    assert device.show_reading("Temp", 38.4, NOW_MS - 1000)  # before anybody listens
    source, inbox = follow(address)
    (first,) = take(inbox, 1)
    assert (first.patient, first.code, first.value, first.unit) == ("bed-1", "Temp", 38.4, "Cel")
    assert device.show_reading("HR", 81.5, NOW_MS) and device.show_reading("SaO2", 93, NOW_MS)
    assert not device.show_reading("Lactate", 2.0, NOW_MS)  # has no code there, and is not offered
    assert device.show_score(NEWS2, NOW_MS)
    got = {one.code: one for one in take(inbox, 2)}
    assert (got["HR"].value, got["HR"].unit, got["HR"].t_measured_ms) == (81.5, "/min", NOW_MS)
    assert got["SaO2"].unit == "%" and got["HR"].quality == "good"
    # A score is calculated and no measurement: it never comes back in as a reading.
    wait_for(lambda: source.status().refused.get("not_measured"))
    device.show_reading("HR", 82, NOW_MS + 1000)
    assert take(inbox, 1)[0].id != got["HR"].id
    source.stop(10)
    assert not source.status().is_connected


def test_a_device_that_goes_is_noticed(bed: tuple[BedProvider, str]) -> None:
    device, address = bed
    device.show_reading("HR", 80, NOW_MS)
    source, inbox = follow(address)
    take(inbox, 1)
    device.stop()
    wait_for(lambda: not source.status().is_connected)
    source.stop(20)


def test_alarms_and_scores_as_another_consumer_sees_them(bed: tuple[BedProvider, str]) -> None:
    device, address = bed
    sdc = library()
    consumer = sdc.SdcConsumer(address, sdc.Definitions, None)
    consumer.start_all()
    mdib = sdc.ConsumerMdib(consumer)
    mdib.init_mdib()

    def state(handle: str) -> Any:
        return mdib.states.descriptor_handle.get_one(handle)

    odd = alert(Priority.LOW, condition="medication:rx-1:5", id="a-2")
    device.show_alerts([alert(Priority.MEDIUM, id="a-3"), alert(), odd], NOW_MS)
    wait_for(lambda: state("condition.deterioration").Presence)
    assert state("condition.deterioration").ActualPriority == "Hi"
    assert state("signal.deterioration").Presence == "On"
    assert round(state("condition.deterioration").DeterminationTime * 1e3) == NOW_MS
    assert state("condition.other-physiological").ActualPriority == "Lo"
    device.show_alerts([alert(state=AlertState.ACKNOWLEDGED)], NOW_MS)
    wait_for(lambda: state("signal.deterioration").Presence == "Ack")
    device.show_alerts([alert(state=AlertState.LATCHED)], NOW_MS)
    wait_for(lambda: state("signal.deterioration").Presence == "Latch")
    assert not state("condition.deterioration").Presence
    device.show_alerts([], NOW_MS)
    wait_for(lambda: state("signal.deterioration").Presence == "Off")
    device.show_score(Score(name="news2", total=3, parts={}, band="low", missing=("spo2",)), NOW_MS)
    wait_for(lambda: state("score.news2").MetricValue is not None)
    assert state("score.news2").MetricValue.MetricQuality.Validity == "Qst"  # a lower bound
    consumer.stop_all()


def test_over_tls_with_certificates_on_both_sides(tmp_path: Path) -> None:
    def credentials(files: dict[str, Path], who: str) -> Credentials:
        return Credentials(ca_file=files["ca"], certificate_file=files[who], key_file=files[f"{who}_key"])

    files = make_certificates(tmp_path / "ours")
    device = provider(credentials=credentials(files, "server"))
    address = device.start()
    assert address.startswith("https://")
    device.show_reading("HR", 80, NOW_MS)
    source, inbox = follow(address, credentials=credentials(files, "client"))
    assert take(inbox, 1)[0].value == 80
    source.stop(10)
    other = make_certificates(tmp_path / "theirs", stranger=True)
    stranger = SdcSource(
        SdcOptions(address=address, credentials=credentials(other, "client")), Intake("sdc", HospitalCodes())
    )
    stranger.start(Inbox())
    wait_for(lambda: stranger.status().last_error)
    assert not stranger.status().is_connected
    stranger.stop(10)
    device.stop()


def test_what_is_refused_before_anything_listens(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no code in IEEE 11073"):
        BedProvider("p", [Metric("Lactate", "mmol/L")], HospitalTerms())
    with pytest.raises(InputError, match="without TLS"):
        provider(host="192.0.2.1")
    with pytest.raises(InputError, match="both sides"):
        provider(credentials=Credentials())
    for address, says in (("ftp://x", "expected http"), ("http://192.0.2.1:1/x", "TLS"), ("https://x/y", "both")):
        with pytest.raises(InputError, match=says):
            SdcOptions(address=address)


def test_a_wards_journal_shown_as_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ward = Ward(tmp_path, Clocks())
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.put("NISysABP", 11.0, "kPa")
    ward.put("HR", 70.0, patient="somebody-else")
    ward.turn(3)
    device = BedProvider("p", SDC_METRICS, HospitalTerms())
    address = device.start()
    shown = JournalBed(tmp_path / "journal.db", device, HospitalLimits(), KEY)
    assert shown.look() == 4 and shown.look() == 0
    source, inbox = follow(address)
    got = {one.code: one.value for one in take(inbox, 4)}
    assert got["HR"] == 135.0 and got["SysABP"] == 85.0
    assert got["NISysABP"] == pytest.approx(82.5, abs=0.1)  # kPa became mm[Hg]
    source.stop(10)
    device.stop()
    ward.die()
    assert main(["interop", "sdc", "--patient", "p", "--seconds", "0"]) == 1
    assert "--seconds" in capsys.readouterr().err


def test_the_source_tells_what_is_wrong_and_ends_in_time() -> None:
    source = SdcSource(SdcOptions(address="http://127.0.0.1:9/nobody"), Intake("sdc-9", HospitalCodes()))
    source.start(Inbox())
    wait_for(lambda: source.status().last_error)
    begun = time.monotonic()
    source.stop(10)
    assert time.monotonic() - begun < 8
    assert not any(thread.name == "source-sdc-9" for thread in threading.enumerate())
