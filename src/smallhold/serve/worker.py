"""One thread that runs the model, and jobs that wait for it in a queue of fixed length.

The event loop hands in a job and reads its results; it never computes. A job that is cancelled leaves the queue at
once, or, when it is running, before the next pass of the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from smallhold.serve.request_error import RequestError

#: Makes results; it calls its argument between steps, which raises `Cancelled` when the work has to end.
Work = Callable[[Callable[[], None]], Iterator[Any]]


class Cancelled(Exception):  # noqa: N818 - it is a state, not a fault
    """Raised inside work that is no longer wanted."""


class Job:
    """One piece of work and its results, for one reader in the event loop.

    Args:
        work: What to do.
        is_whole: Its results come as one list when all are there: one hop between threads instead of one for each.
    """

    def __init__(self, work: Work, *, is_whole: bool = False) -> None:
        self._work, self._is_whole = work, is_whole
        self._loop = asyncio.get_running_loop()
        self._results: asyncio.Queue[Any] = asyncio.Queue()
        self._is_cancelled = threading.Event()

    async def next(self) -> Any:
        """The next result; None after the last.

        Raises:
            Exception: whatever the work raised.
        """
        result = await self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def cancel(self) -> None:
        """Ask the work to end."""
        self._is_cancelled.set()

    def run(self) -> Any:
        """Do the work, in the worker's thread; returns what is still to be sent."""
        try:
            with contextlib.closing(self._work(self._check)) as results:  # type: ignore[type-var]
                if self._is_whole:
                    return list(results)
                for result in results:
                    self.send(result)
        except BaseException as error:
            return error
        return None

    def send(self, result: Any) -> None:
        """Hand a result to the reader, from the worker's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody reads
            self._loop.call_soon_threadsafe(self._results.put_nowait, result)

    def _check(self) -> None:
        if self._is_cancelled.is_set():
            raise Cancelled


class Worker:
    """The thread and its queue.

    Args:
        queue_length: Most jobs that wait beside the one that runs.
    """

    def __init__(self, queue_length: int) -> None:
        self._queue_length = queue_length
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._is_stopped = False
        self._mean_seconds = 1.0
        self._thread = threading.Thread(target=self._run, name="smallhold-model", daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive() and not self._is_stopped

    @property
    def num_waiting(self) -> int:
        """Jobs in the queue, without the one that runs."""
        return len(self._waiting)

    def submit(self, job: Job) -> Job:
        """Put a job into the queue.

        Raises:
            RequestError: 429, the queue is full; 503, the server is stopping.
        """
        with self._changed:
            if not self.is_ready:
                raise RequestError("the server is stopping", status=503, retry_after_seconds=5)
            ahead = len(self._waiting) + (self._running is not None)
            if ahead > self._queue_length:
                raise RequestError(
                    f"the server is busy: {ahead} requests are running or waiting, which is the most it takes",
                    status=429,
                    code="queue_full",
                    retry_after_seconds=max(1, min(60, math.ceil(self._mean_seconds * ahead))),
                )
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """End a job that nobody waits for; one that has ended is left as it is."""
        job.cancel()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def stop(self) -> None:
        """Cancel everything and take nothing more; the thread ends with the step that it is in."""
        with self._changed:
            self._is_stopped = True
            for job in (*self._waiting, *([self._running] if self._running else [])):
                job.cancel()
            self._changed.notify()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end of the thread; whether it came in time."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_stopped)
                if not self._waiting:
                    return
                job = self._running = self._waiting.popleft()
            begun = time.monotonic()
            last = job.run()
            with self._changed:
                self._running = None
                self._mean_seconds += 0.1 * (time.monotonic() - begun - self._mean_seconds)
            # The place is free before the client hears the end: it may ask again at once.
            job.send(last)
