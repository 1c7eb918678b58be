"""The HTTP interface: routes, deadlines, streams, and errors in the form that OpenAI's clients read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from smallhold.errors import InputError, SmallholdError, UnknownTaskError
from smallhold.serve import metrics
from smallhold.serve.answers import Answers, ChatShape, TextShape
from smallhold.serve.body import parse_json_object
from smallhold.serve.guard import Guard
from smallhold.serve.read_request import Wanted, read_chat, read_completion, read_decide
from smallhold.serve.request_error import RequestError
from smallhold.serve.service import Service
from smallhold.serve.worker import Cancelled, Job, Work, Worker

_LOG = logging.getLogger("smallhold.serve")
_CLIENT_GONE = 499  # nobody reads it; it is for the counters


class Interface:
    """The routes over one service.

    Args:
        service: Does the work.
        worker: Runs it.
        timeout_seconds: From a request's arrival to the end of its answer.
        max_body_bytes: Largest body.
    """

    def __init__(self, service: Service, worker: Worker, *, timeout_seconds: float, max_body_bytes: int) -> None:
        self.metrics = metrics.Metrics()
        self._service, self._worker = service, worker
        self._timeout_seconds, self._max_body_bytes = timeout_seconds, max_body_bytes

    def routes(self) -> list[Route]:
        """Every path that is answered."""
        return [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/decide", self.decide, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
        ]

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        deadline = self._deadline()
        asked = read_chat(await self._body(request, deadline), self._service.name)
        answers = Answers(self._service, ChatShape(self._service.vocabulary, asked.wanted.order))
        return await self._generate(request, self._service.chat(asked), answers, asked.wanted, deadline)

    async def complete(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        deadline = self._deadline()
        asked = read_completion(await self._body(request, deadline), self._service.name)
        answers = Answers(self._service, TextShape(self._service.vocabulary, asked))
        return await self._generate(request, self._service.complete(asked), answers, asked.wanted, deadline)

    async def decide(self, request: Request) -> Response:
        """`POST /v1/decide`: a closed question about a text."""
        deadline = self._deadline()
        asked = read_decide(await self._body(request, deadline), self._service.name)
        job = self._worker.submit(Job(self._service.decide(asked), is_whole=True))
        (decision,) = await self._first(job, request, deadline)
        return JSONResponse(decision)

    async def models(self, _request: Request) -> Response:
        """`GET /v1/models`."""
        return JSONResponse({"object": "list", "data": [self._service.card]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{name}`."""
        name = request.path_params["name"]
        if name != self._service.name:
            raise RequestError(
                f"The model {name[:128]!r} does not exist; this server has {self._service.name!r}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return JSONResponse(self._service.card)

    async def health(self, _request: Request) -> Response:
        """`GET /health`: 200 when requests are taken, 503 when not."""
        if self._worker.is_ready:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "unavailable"}, 503)

    async def show_metrics(self, _request: Request) -> Response:
        """`GET /metrics`."""
        page = self.metrics.render({"queue_length": self._worker.num_waiting, "ready": int(self._worker.is_ready)})
        return PlainTextResponse(page, media_type=metrics.CONTENT_TYPE)

    async def _generate(
        self, request: Request, work: Work, answers: Answers, wanted: Wanted, deadline: float
    ) -> Response:
        if not wanted.is_streamed:
            events = await self._first(self._worker.submit(Job(work, is_whole=True)), request, deadline)
            for event in events:
                answers.add(event)
            self.metrics.add(**answers.counts())
            return JSONResponse(answers.whole())
        job = self._worker.submit(Job(work))
        opening = await self._first(job, request, deadline)

        def end() -> None:
            self._worker.cancel(job)
            self.metrics.add(**answers.counts())

        async def chunks() -> AsyncIterator[bytes]:
            event: Any = opening
            try:
                while event is not None:
                    answers.add(event)
                    for chunk in answers.chunks(event, has_usage=wanted.includes_usage):
                        yield chunk
                    async with asyncio.timeout_at(deadline):
                        event = await job.next()
                yield answers.end(has_usage=wanted.includes_usage)
            except TimeoutError:
                yield answers.error(self._too_late())
            except Exception as error:
                yield answers.error(_refusal_of(error))

        return _Stream(chunks(), end)

    async def _first(self, job: Job, request: Request, deadline: float) -> Any:
        """A job's first result, unless the deadline or the end of the connection comes before it."""
        reader, gone = asyncio.ensure_future(job.next()), asyncio.ensure_future(_disconnected(request))
        try:
            left = deadline - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait((reader, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if reader not in done:
                raise ClientDisconnect if gone in done else self._too_late()
            return reader.result()
        except BaseException:
            self._worker.cancel(job)
            raise
        finally:
            reader.cancel()
            gone.cancel()

    async def _body(self, request: Request, deadline: float) -> Mapping[str, Any]:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestError("Content-Type: expected application/json", status=415)
        too_large = RequestError(f"body: at most {self._max_body_bytes} bytes are taken", status=413)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_body_bytes:
            raise too_large
        data = bytearray()
        try:
            async with asyncio.timeout_at(deadline):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > self._max_body_bytes:
                        raise too_large
        except TimeoutError:
            raise self._too_late() from None
        return parse_json_object(bytes(data))

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_seconds

    def _too_late(self) -> RequestError:
        return RequestError(
            f"no answer within {self._timeout_seconds:g} seconds, waiting in the queue included",
            status=504,
            code="timeout",
        )


class _Stream(StreamingResponse):
    """Server-sent events; `end` is called in any case, also when the client left before the first one."""

    def __init__(self, chunks: AsyncIterator[bytes], end: Callable[[], None]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


def build_app(interface: Interface, *, api_key: str | None, checks_host: bool, origins: list[str]) -> ASGIApp:
    """The routes behind their guard.

    Args:
        interface: The routes.
        api_key: What requests must bear; None = nothing.
        checks_host: See `Guard`.
        origins: Origins of browser pages that may ask.
    """
    app: ASGIApp = Starlette(
        routes=interface.routes(),
        exception_handlers={
            HTTPException: _answer_http_error,
            SmallholdError: _answer_error,
            ClientDisconnect: _answer_gone,
            Exception: _answer_error,
        },
    )
    app = Guard(
        app,
        api_key=api_key,
        checks_host=checks_host,
        origins=origins,
        metrics=interface.metrics,
        routes=[route.path for route in interface.routes()],
    )
    if origins:  # outermost: a browser asks for permission without the key
        headers = ["authorization", "content-type"]
        app = CORSMiddleware(app, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers)
    return app


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refusal_of(error: Exception) -> RequestError:
    """What a client is told of an error."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, Cancelled):
        return RequestError("the server is stopping", status=503, retry_after_seconds=5)
    if isinstance(error, UnknownTaskError):
        return RequestError(str(error), status=404, param="task", code="task_not_found")
    if isinstance(error, InputError):
        return RequestError(str(error))
    _LOG.error("a request failed", exc_info=error)
    return RequestError(str(error) if isinstance(error, SmallholdError) else "internal error", status=500)


async def _answer_error(_request: Request, error: Exception) -> Response:
    refusal = _refusal_of(error)
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = f"{request.method} {request.url.path[:128]}: {'unknown' if status == 404 else 'not allowed'}"
    headers = error.headers if isinstance(error, HTTPException) else None
    return JSONResponse(RequestError(message, status=status).body, status, headers)


async def _answer_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)
