"""`smallhold bedside`: a ward of live patients on this machine, from their readings to alarms, in the terminal."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from smallhold.cli.live_ward import configure_ward, print_result, running_ward
from smallhold.cli.output import next_commands, note, paint, print_json
from smallhold.errors import SmallholdError

if TYPE_CHECKING:
    from smallhold.assist.live import LiveWard
    from smallhold.assist.sources.source import Source
    from smallhold.records import Alert

EXAMPLE = "smallhold bedside models/hospital --trusted-keys models/trusted_keys --rehearse mqtt --simulated --speed 60"

_FRAMES_A_SECOND = 2.0
_COLOURS = {"high": "red", "medium": "yellow", "low": "cyan"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    configure_ward(parser)
    parser.add_argument("--plain", action="store_true", help="a line an alert instead of the picture of the ward")


def run(args: argparse.Namespace) -> int:
    """Run the ward; exit code 1 when events are missing from the journal."""
    alerts = AlertLines(is_shown=args.plain or not sys.stdout.isatty())
    with running_ward(args, on_alert=alerts) as running:
        viewer = _Viewer(running.ward, running.sources, running.stop, running.told) if not alerts.is_shown else None
        try:
            running.ward.run(running.stop)
        finally:
            if viewer is not None:
                viewer.end()
        result = running.result()
    print_json(result) if args.json else print_result(result)
    next_commands(f"smallhold journal verify --journal {running.journal.path}")
    return 1 if result["unjournalled"] else 0


class AlertLines:
    """Alerts as lines on stderr; a repeated one is not shown again."""

    def __init__(self, *, is_shown: bool) -> None:
        self.is_shown = is_shown
        self._shown: set[tuple[str, str]] = set()

    def __call__(self, alert: Alert) -> None:
        """Show it."""
        key = (alert.id, alert.priority.value)
        if not self.is_shown or key in self._shown:
            return
        self._shown.add(key)
        from smallhold.assist.ward_view import safe_text

        mark = " DEGRADED" if alert.is_degraded else ""
        label = " simulated" if alert.provenance.simulated else ""
        head = paint(f"{alert.priority.value.upper():6}", _COLOURS.get(alert.priority.value, "bold"))
        note(safe_text(f"{alert.patient}{label}  ") + head + safe_text(f"{mark} {alert.source}: {alert.message}"))


class _Viewer:
    """Draws the ward twice a second, on a thread of its own; the picture is made on the ward's."""

    def __init__(self, ward: LiveWard, sources: list[Source], stop: threading.Event, told: dict[str, Any]) -> None:
        self._ward, self._sources, self._stop, self._told = ward, sources, stop, told
        self._thread = threading.Thread(target=self._draw, name="ward-view", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Leave the terminal as it was."""
        self._thread.join(2 / _FRAMES_A_SECOND + 1)
        from smallhold.assist.ward_view import SHOW

        sys.stdout.write(SHOW + "\n")
        sys.stdout.flush()

    def _draw(self) -> None:
        from smallhold.assist.ward_view import HIDE, REDRAW, draw

        is_coloured = not os.environ.get("NO_COLOR")
        sys.stdout.write(HIDE)
        while not self._stop.wait(1 / _FRAMES_A_SECOND):
            size = shutil.get_terminal_size((120, 40))
            picture = partial(draw, self._ward, rows=size.lines, notes=self._notes())
            try:
                lines = self._ward.call(picture, 2.0)
            except SmallholdError:
                continue  # busy or over; the ward comes first
            text = "\n".join(line.paint(size.columns, is_coloured=is_coloured) for line in lines)
            sys.stdout.write(REDRAW + text)
            sys.stdout.flush()

    def _notes(self) -> list[str]:
        who = "SIMULATED patients" if self._told["is_simulated"] else "recorded patients"
        first = f"policy {self._told['profile']}" + (f"; {who}, played" if self._told["is_rehearsal"] else "")
        states = [
            f"{status.name} {'up' if status.is_connected else 'DOWN'}, {status.received:,} received, "
            f"{sum(status.refused.values()):,} refused"
            for status in (source.status() for source in self._sources)
        ]
        return [first + "; " + "; ".join(states)]
