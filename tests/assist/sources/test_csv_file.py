from __future__ import annotations

from pathlib import Path

import pytest
from tests.assist.sources.waiting import take, wait_until

from smallhold.assist.sources import Inbox
from smallhold.assist.sources.csv_file import CsvSource
from smallhold.assist.sources.intake import Intake
from smallhold.errors import InputError
from smallhold.sectors.hospital.codes import HospitalCodes

HEADER = "id,patient,code,value,unit,t\n"


def source_of(path: Path, *, follow: bool = False) -> CsvSource:
    return CsvSource(path, Intake("csv", HospitalCodes()), follow=follow)


def test_a_file_is_read_to_its_end_and_bad_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "ward.csv"
    path.write_text(
        "id,patient,system,code,value,unit,t,quality,device\n"
        "1,bed-1,,HR,80,/min,1000,,\n"
        "2,bed-1,http://loinc.org,8310-5,37.1,Cel,2026-01-02T03:04:05+01:00,good,probe 7\n"
        '3,bed-1,,HR,"81",/min,x,,\n'
        "4,bed-1,,HR,٨١,/min,1000,,\n"
        "5,bed-1,,HR,81\n"
        f"6,bed-1,,HR,81,/min,1000,,{'y' * 20_000}\n"
        "7,bed-1,,HR,nan,/min,1000,,\n"
        "8,bed-1,,HR,1e999,/min,1000,,\n"
        "9,bed-2,,HR,82,/min,1000,,",
        encoding="utf-8",
    )
    inbox, source = Inbox(), source_of(path)
    source.start(inbox)
    assert source.wait(10)
    first, third, second = take(inbox, 3)
    assert (first.code, first.value, first.t_measured_ms, first.quality) == ("HR", 80, 1000, "good")
    assert (second.code, second.t_measured_ms) == ("Temp", 1_767_319_445_000)
    assert second.device.startswith("x-")
    assert third.patient == "bed-2"
    assert source.status().refused == {"malformed": 5, "value": 1}
    assert "line 8" in source.status().last_error


def test_a_long_file_waits_for_room_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ward.csv"
    path.write_text(HEADER + "".join(f"{n},bed-1,HR,80,/min,{n}\n" for n in range(1000)))
    inbox, source = Inbox(per_patient=16), source_of(path)
    source.start(inbox)
    assert [one.id for one in take(inbox, 1000)] == [str(n) for n in range(1000)]
    assert source.wait(10)
    assert inbox.dropped == {}


def test_a_growing_file_is_followed_over_half_lines_and_replacement(tmp_path: Path) -> None:
    path = tmp_path / "ward.csv"
    path.write_text(HEADER)
    inbox, source = Inbox(), source_of(path, follow=True)
    source.start(inbox)
    with path.open("a") as file:
        file.write("1,bed-1,HR,80,/min,1000\n2,bed-1,HR,8")
        file.flush()
        assert take(inbox, 1)[0].id == "1"
        file.write("1,/min,2000\n")
    assert take(inbox, 1)[0].value == 81
    other = tmp_path / "other.csv"
    other.write_text(HEADER + "2,bed-1,HR,81,/min,2000\n3,bed-1,HR,82,/min,3000\n")
    other.replace(path)
    assert take(inbox, 1)[0].id == "3"
    assert source.status().refused == {"duplicate": 1}
    path.write_text(HEADER + "4,bed-1,HR,83,/min,4000\n")  # shorter: cut and written again
    assert take(inbox, 1)[0].id == "4"
    source.stop(5)
    wait_until(lambda: not source.status().is_connected)


def test_a_wrong_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        source_of(tmp_path / "missing.csv").start(Inbox())
    path = tmp_path / "ward.csv"
    path.write_text("id,patient,value\n")
    with pytest.raises(InputError, match=r"line 1: header: expected id,patient,code,value,unit,t"):
        source_of(path).start(Inbox())
