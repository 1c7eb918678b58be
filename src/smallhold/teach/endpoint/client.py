"""Asking an OpenAI-compatible endpoint: the one place of this package that sends a row anywhere.

Promises, each with a test: a row that the guard refuses opens no connection; an answer that has arrived is never
asked for again; no request is sent that could pass a cap; every wait has a deadline; a key is in no message, file or
log. Proxies from the environment are not used and redirects are not followed: either would send rows elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smallhold.errors import EndpointError
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.data_sets import Privacy
from smallhold.teach.endpoint.guard import find_destination, require_allowed
from smallhold.teach.endpoint.limits import TokenBucket, announced_pause, backoff_seconds, utc_now
from smallhold.teach.endpoint.recipe import CapChoice, EndpointChoice, PaceChoice
from smallhold.teach.endpoint.responses import MOST_BYTES, Failure, StopAskingError, parse_response, read_refusal
from smallhold.teach.endpoint.store import Spend, Store, Tokens
from smallhold.version import __version__

if TYPE_CHECKING:
    import httpx

#: What a chat template and a provider's own framing may add to a prompt, in tokens.
_FRAME_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request.

    Attributes:
        path: `/chat/completions` or `/completions`.
        body: JSON body; holds no secret.
        sample: Number of the sample, for endpoints that know no seed.
        privacy: Class of the row that the body was made from.
    """

    path: str
    body: dict[str, Any]
    sample: int
    privacy: Privacy

    def key(self, base_url: str) -> str:
        """Content address of the answer."""
        return sha256_hex(canonical_json([base_url, self.path, self.body, self.sample]))

    @property
    def bound(self) -> Tokens:
        """Upper bound of the tokens: a token of a byte-level vocabulary stands for at least one byte."""
        most = self.body.get("max_completion_tokens", self.body.get("max_tokens"))
        return Tokens(len(canonical_json(self.body)) + _FRAME_TOKENS, int(most or 0))


Answer = dict[str, Any] | str
"""The parsed response, or the reason why there is none."""


class Client:
    """Asks questions of one endpoint, within caps and pace.

    Attributes:
        destination: Where requests go.
        events: Named failures of single attempts, and how often each came.
    """

    def __init__(
        self,
        endpoint: EndpointChoice,
        cap: CapChoice,
        pace: PaceChoice,
        store: Store,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare; no connection is opened.

        Raises:
            RecipeError: a URL that rows must not go to.
            EndpointError: the key's environment variable is not set, or holds no key.
        """
        self.events: Counter[str] = Counter()
        self._endpoint, self._settings = endpoint, endpoint.resolved
        self.destination = find_destination(self._settings.base_url)
        self._cap, self._pace, self._store = cap, pace, store
        self._http = self._open(os.environ if environment is None else environment)
        self._requests = TokenBucket(pace.requests_per_minute, sleep=self._sleep)
        self._tokens = TokenBucket(pace.tokens_per_minute, sleep=self._sleep)
        self._rng = random.Random()
        self._not_before = 0.0
        self._failed_in_a_row = 0
        self._in_flight = 0
        self._settled, self._stopped = asyncio.Event(), asyncio.Event()
        self._stop: StopAskingError | None = None

    async def ask_all(
        self, questions: Iterable[Question], on_answer: Callable[[int, Answer], None]
    ) -> StopAskingError | None:
        """Ask many questions, a few at a time, in order.

        Args:
            questions: What to ask.
            on_answer: Called with the place of a question and its answer as it comes.

        Returns:
            None when every question was asked, else why not; those in flight were awaited.

        Raises:
            EgressError: a row must not go there.
            DataError: answers cannot be kept.
        """
        waiting: deque[tuple[int, Question]] = deque()
        for place, question in enumerate(questions):
            kept = self._kept(question)  # all of them before anything is sent: a run at its cap still has its answers
            if kept is None:
                waiting.append((place, question))
            else:
                on_answer(place, kept)

        async def work() -> None:
            while waiting and self._stop is None:
                place, question = waiting.popleft()
                try:
                    on_answer(place, await self.ask(question))
                except StopAskingError as error:
                    self.stop(error)

        try:
            await asyncio.gather(*(work() for _ in range(self._pace.concurrency)))
        finally:
            await self._http.aclose()
        return self._stop

    def stop(self, reason: StopAskingError) -> None:
        """Send nothing more; requests in flight are still awaited."""
        self._stop = self._stop or reason
        self._stopped.set()
        self._settled.set()

    async def ask(self, question: Question) -> Answer:
        """The answer to one question, from the store where it has been answered before.

        Raises:
            EgressError: the row must not go there; nothing was sent or written.
            StopAskingError: a cap is reached, the server asks for a long pause or refuses everything.
            DataError: the answer cannot be kept.
        """
        if (kept := self._kept(question)) is not None:
            return kept
        key = question.key(self._settings.base_url)
        failure = Failure("not_asked")
        for attempt in range(self._pace.attempts):
            if attempt:
                await self._sleep(backoff_seconds(attempt - 1, self._pace.first_backoff_seconds, self._rng))
            await self._wait_for_turn(question.bound)
            outcome = await self._attempt(question, key)
            if not isinstance(outcome, Failure):
                self._failed_in_a_row = 0
                return outcome
            failure = outcome
            self.events[failure.reason] += 1
            if failure.stop is not None:
                raise failure.stop
            if not failure.is_worth_repeating:
                break
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._pace.give_up_after:
            raise StopAskingError(
                f"{self.destination.origin}: {self._failed_in_a_row} questions in a row had no answer, the last one: "
                f"{failure.reason}{failure.detail}"
            )
        return failure.reason

    def _kept(self, question: Question) -> dict[str, Any] | None:
        """(1) the guard, before the row is even looked at, (2) what was answered before."""
        require_allowed(question.privacy, self.destination, self._endpoint.allow)
        kept = self._store.response(question.key(self._settings.base_url))
        return None if kept is None else dict(json.loads(kept))

    async def _wait_for_turn(self, bound: Tokens) -> None:
        """(1) our own pace, (2) the server's pause, (3) the caps."""
        await self._requests.take(1)
        await self._tokens.take(bound.total)
        while (left := self._not_before - time.monotonic()) > 0:
            if left > self._pace.longest_pause_seconds:
                raise StopAskingError(
                    f"{self.destination.origin} asks to be left alone for {left:.0f} s, longer than "
                    f"pace.longest_pause_seconds",
                    hint="run the same command again after that",
                )
            await self._sleep(left)
        while (passed := self._passed_cap(self._store.spend(), bound)) is not None:
            if not self._in_flight:
                raise StopAskingError(
                    f"the cap is reached: {passed}", hint="raise it in the recipe, and run the same command again"
                )
            # What is in flight counts at its upper bound: when it is settled there may be room.
            self._settled.clear()
            await self._settled.wait()
        if self._stop is not None:
            raise self._stop

    def _passed_cap(self, spend: Spend, bound: Tokens) -> str | None:
        tokens = spend.tokens + bound
        if spend.requests + 1 > self._cap.requests:
            return f"{spend.requests} of {self._cap.requests} requests"
        if tokens.total > self._cap.tokens:
            return (
                f"{spend.tokens.total:,} of {self._cap.tokens:,} tokens, and one more request may take {bound.total:,}"
            )
        if self._cap.money and money_of(tokens, self._cap) > self._cap.money:
            return f"{money_of(spend.tokens, self._cap):.4f} of {self._cap.money} in money, and one more may pass it"
        return None

    async def _attempt(self, question: Question, key: str) -> dict[str, Any] | Failure:
        number = self._store.begin(key, utc_now(), question.bound)
        self._in_flight += 1
        try:
            outcome = await self._send(question)
            used = question.bound
            if isinstance(outcome, Failure):
                if outcome.ending is not None:
                    self._store.end(number, outcome.ending)
                    used = Tokens(0, 0)
                result: dict[str, Any] | Failure = outcome
            else:
                text, result = outcome
                used = self._tokens_of(result, question.bound)
                self._store.answer(number, key, utc_now(), text, used)
            self._tokens.give_back(max(0, question.bound.total - used.total))
            return result
        finally:
            self._in_flight -= 1
            self._settled.set()

    async def _send(self, question: Question) -> tuple[str, dict[str, Any]] | Failure:
        import httpx

        content = bytearray()
        try:
            async with (
                asyncio.timeout(self._pace.total_seconds),
                self._http.stream("POST", question.path, content=canonical_json(question.body)) as response,
            ):
                self._heed(response)
                if response.status_code != 200:
                    return await read_refusal(response, self.destination.origin)
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MOST_BYTES:
                        return Failure("response_too_large")
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            return Failure("timeout")
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Failure("no_connection", "unsent", f" ({str(error)[:200]})")
        except httpx.HTTPError:
            return Failure("broken_connection")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            return Failure("wrong_content_type")
        return parse_response(bytes(content))

    def _heed(self, response: httpx.Response) -> None:
        pause = announced_pause(response.headers, time.time(), is_refused=response.status_code != 200)
        if pause is not None:
            self._not_before = max(self._not_before, time.monotonic() + pause)

    def _tokens_of(self, response: dict[str, Any], bound: Tokens) -> Tokens:
        """What the server says it took; the bound where it says nothing that can be counted."""
        usage = response.get("usage")
        prompt, completion = (usage.get(name) if isinstance(usage, dict) else None for name in _USAGE)
        if not (type(prompt) is int and type(completion) is int):
            prompt = completion = -1
        if not 0 <= min(prompt, completion) <= max(prompt, completion) < _ABSURD:
            self.events["usage_not_told"] += 1
            return bound
        used = Tokens(prompt, completion)
        if used.total > bound.total:
            self.events["more_tokens_than_the_bound"] += 1
        return used

    async def _sleep(self, seconds: float) -> None:
        """Wait, or until nothing more is to be asked."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return
        assert self._stop is not None  # noqa: S101
        raise self._stop

    def _open(self, environment: Mapping[str, str]) -> httpx.AsyncClient:
        import httpx

        headers = {
            "Accept": "application/json",
            **self._settings.headers,
            "Content-Type": "application/json",
            "User-Agent": f"smallhold/{__version__}",
        }
        if name := self._settings.api_key_env:
            key = environment.get(name, "").strip()
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise EndpointError(
                    f"{self.destination.origin}: expected its key in the environment variable {name}, found none",
                    hint=f"export {name}=...",
                )
            headers["Authorization"] = f"Bearer {key}"
        pace = self._pace
        return httpx.AsyncClient(
            base_url=self.destination.url,
            headers=headers,
            # The system's authorities, with SSL_CERT_FILE and a hospital's own among them, not a list from a package.
            verify=ssl.create_default_context(),
            timeout=httpx.Timeout(pace.read_seconds, connect=pace.connect_seconds, pool=pace.total_seconds),
            limits=httpx.Limits(max_connections=pace.concurrency),
            follow_redirects=False,
            trust_env=False,
        )


_USAGE = ("prompt_tokens", "completion_tokens")
#: No request takes so many tokens, and SQLite counts no further than 2^63.
_ABSURD = 2**40


def money_of(tokens: Tokens, cap: CapChoice) -> float:
    """What tokens cost, in the currency of the prices."""
    return (tokens.prompt * cap.prompt_price + tokens.completion * cap.completion_price) / 1e6
