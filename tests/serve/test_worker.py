from __future__ import annotations

import asyncio
import threading

import pytest

from smallhold.serve.request_error import RequestError
from smallhold.serve.worker import Cancelled, Job, Worker

SECONDS = 20.0


def counting(count: int, *, gate: threading.Event | None = None):
    def work(check):
        for i in range(count):
            if gate is not None:
                assert gate.wait(SECONDS)
            check()
            yield i

    return work


async def read(job: Job) -> list[int]:
    found = []
    async with asyncio.timeout(SECONDS):
        while (result := await job.next()) is not None:
            found.append(result)
    return found


def test_jobs_run_one_after_the_other_in_their_order():
    async def scenario():
        worker = Worker(4)
        jobs = [worker.submit(Job(counting(3))) for _ in range(3)]
        assert [await read(job) for job in jobs] == [[0, 1, 2]] * 3
        worker.stop()
        assert worker.join(SECONDS)

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_says_when_to_come_back():
    async def scenario():
        gate, worker = threading.Event(), Worker(1)
        jobs = [worker.submit(Job(counting(1, gate=gate))) for _ in range(2)]
        with pytest.raises(RequestError, match="busy: 2 requests") as caught:
            worker.submit(Job(counting(1)))
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
        worker.cancel(jobs[1])  # leaves the queue at once, and makes room
        third = worker.submit(Job(counting(2)))
        gate.set()
        assert await read(third) == [0, 1]
        worker.stop()
        assert worker.join(SECONDS)

    asyncio.run(scenario())


def test_a_running_job_that_is_cancelled_ends_at_its_next_step():
    async def scenario():
        gate, worker = threading.Event(), Worker(1)
        job = worker.submit(Job(counting(10**9, gate=gate)))
        gate.set()
        assert await job.next() == 0
        worker.cancel(job)
        with pytest.raises(Cancelled):
            await read(job)
        assert await read(worker.submit(Job(counting(1)))) == [0]
        worker.stop()
        assert worker.join(SECONDS)

    asyncio.run(scenario())


def test_an_error_reaches_the_reader_and_the_worker_goes_on():
    def failing(check):
        yield 1
        raise ZeroDivisionError

    async def scenario():
        worker = Worker(1)
        job = worker.submit(Job(failing))
        assert await job.next() == 1
        with pytest.raises(ZeroDivisionError):
            await job.next()
        assert await read(worker.submit(Job(counting(1)))) == [0]
        worker.stop()
        assert worker.join(SECONDS)

    asyncio.run(scenario())


def test_a_stopped_worker_ends_what_runs_and_takes_nothing():
    async def scenario():
        worker = Worker(4)
        jobs = [worker.submit(Job(counting(10**9))) for _ in range(2)]
        assert await jobs[0].next() == 0
        worker.stop()
        assert worker.join(SECONDS)
        assert not worker.is_ready
        with pytest.raises(RequestError, match="stopping"):
            worker.submit(Job(counting(1)))
        for job in jobs:
            with pytest.raises(Cancelled):
                await read(job)

    asyncio.run(scenario())


def test_a_step_that_hangs_does_not_hold_the_stop():
    async def scenario():
        gate, worker = threading.Event(), Worker(0)
        worker.submit(Job(counting(1, gate=gate)))
        worker.stop()
        assert not worker.join(0.05)
        gate.set()

    asyncio.run(scenario())
