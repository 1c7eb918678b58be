"""Server-sent events: one picture of the ward, made twice a second at most, for however many look at it.

The ward is asked once for everybody. What changed since the last picture is an event with a number; the newest events
are kept, so that a page that comes back with `Last-Event-ID` gets what it missed. There is no queue a viewer: each has
a place in the same row, and one that is too slow, or was away too long, gets the whole picture again. Memory is bounded
by the row, connections by `most_viewers`, and a viewer who takes nothing for a while is let go.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from smallhold.errors import SmallholdError

_LOG = logging.getLogger("smallhold.console")

PERIOD_SECONDS = 0.5
#: A page that has heard nothing for three of these says that it is disconnected.
HEARTBEAT_SECONDS = 2.0
_MOST_BEHIND = 20  # ten seconds
_SEND_SECONDS = 15.0


class Broadcaster:
    """Makes pictures as long as somebody looks; used on one event loop.

    Args:
        picture: Blocks until the ward has made an overview (`views.overview`); raises SmallholdError when it does not.
        most_viewers: Further ones are refused.
    """

    def __init__(self, picture: Callable[[], dict[str, Any]], *, most_viewers: int = 64) -> None:
        self._picture, self._most_viewers = picture, most_viewers
        self._boot = secrets.token_hex(4)
        self._number = self._stale = 0
        self._row: deque[tuple[int, bytes]] = deque(maxlen=_MOST_BEHIND)
        self._beds: dict[str, str] = {}
        self._order: list[str] = []
        self._told: dict[str, Any] = {}
        self._viewers = 0
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_full(self) -> bool:
        """No further viewer is taken."""
        return self._viewers >= self._most_viewers or self._is_closed

    def open(self) -> None:
        """Begin on the event loop of the server that is about to run."""
        self._is_closed, self._task, self._viewers, self._news = False, None, 0, asyncio.Event()

    def close(self) -> None:
        """End every stream; from any thread."""
        self._is_closed = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, and every stream with it
                self._loop.call_soon_threadsafe(lambda: self._news.set())

    async def follow(self, last_event_id: str, is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Events for one viewer, until `is_over` says that their session is."""
        self._viewers += 1
        self._loop = asyncio.get_running_loop()
        try:
            if self._task is None or self._task.done():
                # The last picture was made when somebody last looked: nobody is shown it as if it were new.
                self._stale = self._number
                self._task = asyncio.create_task(self._make())
            place = self._place_of(last_event_id)
            while not self._is_closed:
                if is_over():
                    yield b"event: end\ndata: {}\n\n"
                    return
                news = self._news
                if self._number > self._stale and (place is None or self._number - place > _MOST_BEHIND):
                    place = self._number
                    yield self._whole()
                    continue  # the viewer may have taken their time over it
                following = next((item for item in self._row if place is not None and item[0] > place), None)
                if following is not None:
                    place, event = following
                    yield event
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await news.wait()
        finally:
            self._viewers -= 1

    def _place_of(self, last_event_id: str) -> int | None:
        boot, _, number = last_event_id.partition("-")
        is_ours = boot == self._boot and number.isascii() and number.isdecimal() and len(number) < 16
        place = int(number) if is_ours else None
        return place if place is not None and place <= self._number else None

    async def _make(self) -> None:
        """Pictures until nobody looks."""
        quiet = 0.0
        while self._viewers and not self._is_closed:
            begun = asyncio.get_running_loop().time()
            try:
                picture = await asyncio.to_thread(self._picture)
            except Exception as error:  # whatever it is, the pages must hear that the picture stands still
                if not isinstance(error, SmallholdError):
                    _LOG.error("no picture of the ward could be made", exc_info=error)
                faults = [f"the ward does not answer: {error}"]
                picture = {**self._told, "faults": faults, "is_stuck": True, "beds": None}
            if self._has_news(picture) or begun - quiet >= HEARTBEAT_SECONDS:
                quiet = begun
                self._announce(picture)
            await asyncio.sleep(max(0.0, begun + PERIOD_SECONDS - asyncio.get_running_loop().time()))

    def _has_news(self, picture: dict[str, Any]) -> bool:
        is_first = self._number == self._stale
        if is_first or picture["beds"] is None or picture.get("faults") != self._told.get("faults"):
            return True
        return {bed["patient"]: _dump(bed) for bed in picture["beds"]} != self._beds

    def _announce(self, picture: dict[str, Any]) -> None:
        changed: dict[str, Any] = {}
        if picture["beds"] is not None:
            beds = {bed["patient"]: _dump(bed) for bed in picture["beds"]}
            changed = {
                bed["patient"]: bed for bed in picture["beds"] if self._beds.get(bed["patient"]) != beds[bed["patient"]]
            }
            changed |= {patient: None for patient in self._beds if patient not in beds}
            self._beds, self._order = beds, list(beds)
        self._told = {"is_stuck": False} | {name: value for name, value in picture.items() if name != "beds"}
        self._number += 1
        data = {**self._told, "order": self._order, "beds": changed}
        self._row.append((self._number, self._event("ward", _dump(data))))
        self._news.set()
        self._news = asyncio.Event()

    def _whole(self) -> bytes:
        beds = ",".join(f"{json.dumps(patient)}:{text}" for patient, text in self._beds.items())
        head = _dump({**self._told, "order": self._order})
        return self._event("whole", f'{head[:-1]},"beds":{{{beds}}}}}')

    def _event(self, name: str, data: str) -> bytes:
        return f"id: {self._boot}-{self._number}\nevent: {name}\ndata: {data}\n\n".encode()


class EventStream(Response):
    """Sends a viewer's events; whoever takes nothing for a while, or leaves, is let go."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until one side ends."""

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        del scope  # the session was found before
        gone = asyncio.create_task(leave())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            # Bytes at once: EventSource then knows that it is connected, before the first picture is made.
            await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
            async for event in self._events:
                if gone.done():
                    return
                async with asyncio.timeout(_SEND_SECONDS):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError):
            return
        finally:
            gone.cancel()
            await self._events.aclose()  # type: ignore[attr-defined]


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
