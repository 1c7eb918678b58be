"""What all processes below this one have cost."""

from __future__ import annotations

import resource
from contextlib import suppress

import psutil


def cpu_of_descendants() -> float:
    """CPU seconds of all descendants, living and gone."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = used.ru_utime + used.ru_stime
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
