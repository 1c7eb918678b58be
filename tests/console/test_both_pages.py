"""`smallhold console` as `make ward` starts it: staff pair a patient's device, the patient tells, staff take it on."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.console.test_page import Browser, browser

from smallhold.device.home import Home, init

__all__ = ["browser"]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    home = Home(tmp_path / "home")
    init(home)
    said = tmp_path / "said"
    with said.open("w") as out:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "smallhold.cli.main", "console", "--home", home.path, "run", "models/hospital",
                "--trusted-keys", "models/trusted_keys", "--rehearse", "mllp", "--simulated", "--patients", "4",
                "--speed", "600", "--demo-accounts", "--port", "0",
            ],
            cwd=ROOT, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    deadline = time.monotonic() + 90
    while "engineer" not in said.read_text():
        assert time.monotonic() < deadline and process.poll() is None, said.read_text()
        time.sleep(0.1)
    text = said.read_text()
    url = re.search(r"page is at (http\S+)", text)
    assert url is not None
    yield url[1].rstrip("/"), dict(re.findall(r"^  (\w+)\s+(\S+)$", text, re.M))
    process.terminate()
    assert process.wait(30) == 0


def test_what_a_patient_tells_reaches_staff_and_is_taken_on(ward: tuple[str, dict[str, str]], browser: Browser) -> None:
    url, passwords = ward
    errors: list[str] = []
    staff = browser.new_page()
    staff.on("pageerror", lambda error: errors.append(str(error)))
    staff.goto(url)
    staff.fill("input[name=name]", "nurse")
    staff.fill("input[type=password]", passwords["nurse"])
    staff.keyboard.press("Enter")
    staff.locator("a[href*='#/bed']").first.click(timeout=60_000)
    staff.get_by_role("button", name="Pair a device").click(timeout=20_000)
    shown = staff.get_by_text("Code for the patient, good once")
    shown.wait_for(timeout=20_000)
    code = re.search(r": (\S+)$", shown.inner_text().strip())
    assert code is not None
    phone = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
    phone.on("pageerror", lambda error: errors.append(str(error)))
    phone.goto(f"{url}/patient/")
    phone.locator("input").first.fill(code[1])
    phone.keyboard.press("Enter")
    phone.get_by_text("Symptoms", exact=True).click(timeout=20_000)
    phone.fill("textarea", "I have chest pain and my arm hurts")
    phone.get_by_role("button", name="Check").click()
    phone.get_by_text("Get help now").wait_for(timeout=20_000)
    staff.get_by_text("I have chest pain and my arm hurts").wait_for(timeout=20_000)
    staff.get_by_text("chest-pain").first.wait_for(timeout=20_000)
    staff.get_by_role("button", name="I take care of it").click()
    staff.get_by_text("nurse takes care of it").wait_for(timeout=20_000)
    staff.get_by_role("button", name="Stop all doses").click()
    staff.locator("dialog").get_by_role("button", name="Stop all doses").click()
    staff.get_by_text("STOPPED: no dose is given").wait_for(timeout=20_000)
    assert not errors
