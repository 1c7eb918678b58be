"""What every source of readings offers, and what it can say of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from smallhold.assist.sources.inbox import Inbox


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """How a source is doing.

    Attributes:
        name: Names the source in messages and metrics.
        is_connected: For a client, whether the other side is there; for a server, whether it listens.
        connected_since_ms: UTC, None while it is not connected.
        received: Readings that came, the refused ones included.
        refused: Readings and messages that were not let in, by reason.
        last_received_ms: UTC, when the newest reading was let in; None before the first.
        last_error: What went wrong last, in one line and escaped; empty when nothing did.
    """

    name: str
    is_connected: bool = False
    connected_since_ms: int | None = None
    received: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    last_received_ms: int | None = None
    last_error: str = ""


class Source(Protocol):
    """Brings readings from outside into an inbox, on a daemon thread of its own."""

    def start(self, inbox: Inbox) -> None:
        """Begin; returns at once. A source is started once.

        Raises:
            InputError: a file, address or option is wrong. What the network does later is in `status`, not raised.
        """

    def stop(self, deadline_seconds: float) -> None:
        """End within that time; what was put into the inbox stays there. Calling it twice does no harm."""

    def status(self) -> SourceStatus:
        """How it is doing; safe from any thread."""
