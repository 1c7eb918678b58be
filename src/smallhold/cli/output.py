"""How the command line speaks: data on stdout, everything else on stderr, readable without colour."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

_BAR = 24
_SECONDS_BETWEEN_LINES = 15.0


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def note(text: str) -> None:
    """A remark on stderr."""
    print(text, file=sys.stderr, flush=True)


def next_commands(*commands: str) -> None:
    """What to run next, as the last lines on stderr."""
    for command in commands:
        note(f"next: {command}")


def paint(text: str, colour: str) -> str:
    """Colour for a terminal; plain text elsewhere and where NO_COLOR is set."""
    if not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{ {'red': 31, 'yellow': 33, 'cyan': 36, 'bold': 1}[colour] }m{text}\033[0m"


class ProgressBar:
    """A progress callback `(caption, done, total)`: a moving bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._clock: Callable[[], float] = time.monotonic
        self._stage, self._begun, self._last = "", 0.0, 0.0
        self._is_open = False

    def __call__(self, caption: str, done: int, total: int) -> None:
        """Show where a stage stands; the stage is the caption up to its first comma."""
        now, stage = self._clock(), caption.split(",")[0]
        if stage != self._stage:
            self.close()
            self._stage, self._begun, self._last = stage, now, 0.0
        is_finished = done >= total
        if not is_finished and now - self._last < (0.1 if self._is_terminal else _SECONDS_BETWEEN_LINES):
            return
        self._last = now
        share = done / total if total else 1.0
        spent = now - self._begun
        left = f", {_seconds(spent / share - spent)} left" if 0 < share < 1 and spent > 2 else ""
        text = f"{caption:32.32} [{'#' * int(_BAR * share):{_BAR}}] {share:4.0%} {_seconds(spent)}{left}"
        if not self._is_terminal:
            if not is_finished or total > 1:
                note(text)
            return
        print(f"\r{text}\033[K", end="\n" if is_finished else "", file=sys.stderr, flush=True)
        self._is_open = not is_finished
        if is_finished:
            self._stage = ""

    def close(self) -> None:
        """End an unfinished line."""
        if self._is_open:
            print(file=sys.stderr, flush=True)
            self._is_open = False


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{int(seconds // 60)} min {int(seconds % 60)} s"
