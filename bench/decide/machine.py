"""What the machine does meanwhile: time that the hypervisor stole, energy, a process that keeps a core busy."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

#: Spins until its parent is gone, so that it never outlives a benchmark that was killed.
_SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


class Stolen:
    """Share of the machine's time that was stolen since this was made."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._before = self._read()

    def share(self) -> float:
        """0 to 1; counted in ticks of 10 ms, so that a second on two cores is told to half a per cent."""
        now = self._read()
        passed = [after - before for after, before in zip(now, self._before, strict=True)]
        return passed[7] / max(sum(passed), 1)

    def _read(self) -> list[int]:
        return [int(ticks) for ticks in self._stat.read_text().split("\n", 1)[0].split()[1:9]]


class Energy:
    """Energy of the processor's packages by RAPL, where the system lets us read it."""

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        self._counters = []
        for zone in sorted(root.glob("intel-rapl:?")):  # AMD's too
            with contextlib.suppress(OSError, ValueError):
                self._counters.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
                int((zone / "energy_uj").read_text())
        self._before = self._read()

    def joules(self) -> float | None:
        """Since this was made; None where there is no counter that may be read. Idle power is in it."""
        now = self._read()
        if not now or len(now) != len(self._before):
            return None
        spent = (
            (after - before) % (most + 1)
            for after, before, (_, most) in zip(now, self._before, self._counters, strict=True)
        )
        return sum(spent) / 1e6

    def _read(self) -> list[int]:
        try:
            return [int(path.read_text()) for path, _ in self._counters]
        except (OSError, ValueError):
            return []


@contextlib.contextmanager
def hog(wanted: bool) -> Iterator[None]:
    """A process that spins meanwhile, or none."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", _SPIN]) as spinning:  # noqa: S603 - the text above
        try:
            yield
        finally:
            spinning.kill()
