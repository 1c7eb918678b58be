"""Logging in and out, and what every request must show: a session, a right, a CSRF token where it changes anything."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import Request, Response

from smallhold.console.accounts import Account, Accounts, Right
from smallhold.console.sessions import LoginLimit, Session, SessionStore
from smallhold.errors import SmallholdError

if TYPE_CHECKING:
    from smallhold.console.app import ConsoleOptions

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SEEN_SECONDS = 600.0


class LoginRefused(SmallholdError):  # noqa: N818 - a state that people meet, not a fault
    """A request is not let in.

    Args:
        status: HTTP's.
        message: Why.
        wait_seconds: When to try again.
    """

    def __init__(self, status: int, message: str, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.wait_seconds = status, wait_seconds


class Doorkeeper:
    """Sessions and limits of a console.

    Args:
        accounts: Who may log in.
        options: Times and limits.
        note: `Acts.note`.
        monotonic: Stopwatch in seconds.
    """

    def __init__(
        self, accounts: Accounts, options: ConsoleOptions, note: Callable[..., None], monotonic: Callable[[], float]
    ) -> None:
        rate = options.requests_a_second
        self.sessions = SessionStore(options.idle_seconds, options.absolute_seconds, rate=rate, burst=3 * rate)
        self._accounts, self._note, self._now = accounts, note, monotonic
        self._limit = LoginLimit()
        self._is_secure = options.is_secure
        # The prefix makes a browser refuse the cookie without TLS and for other paths (RFC 6265bis, 4.1.3.2).
        self.cookie = "__Host-smallhold" if options.is_secure else "smallhold"

    def log_in(self, name: str, password: str, request: Request, response: Response) -> Session:
        """Begin a session, and set its cookie.

        Raises:
            LoginRefused: wrong, or too many attempts.
        """
        account = self.check(name, password, request)
        earlier = self.sessions.find(request.cookies.get(self.cookie, ""), self._now())
        if earlier is not None:
            self.sessions.end(earlier)
        token, session = self.sessions.begin(account, self._now())
        self._note("log-in", account.name, role=account.role.value)
        response.set_cookie(self.cookie, token, path="/", httponly=True, samesite="strict", secure=self._is_secure)
        return session

    def check(self, name: str, password: str, request: Request) -> Account:
        """The account behind a name and a password; also for a second person at the same screen.

        Raises:
            LoginRefused: wrong, or too many attempts.
        """
        address = request.client.host if request.client else ""
        wait = self._limit.begin(name, address, self._now())
        if wait > 0:
            raise LoginRefused(429, f"too many attempts: try again in {int(wait) + 1} s", wait)
        try:
            account = self._accounts.check(name, password)
        except TimeoutError:
            raise LoginRefused(429, "too many log-ins at this moment: try again", 1.0) from None
        if account is None:
            # The name as tried is not put on record: people type passwords into the wrong field.
            self._note("log-in refused", "")
            raise LoginRefused(401, "name or password is wrong")
        self._limit.succeed(name, address)
        return account

    def log_out(self, session: Session, response: Response) -> None:
        """End a session."""
        self.sessions.end(session)
        self._note("log-out", session.account.name)
        response.delete_cookie(self.cookie, path="/", httponly=True, samesite="strict", secure=self._is_secure)

    def left_seconds(self, session: Session) -> float:
        """Until the session ends by itself."""
        return self.sessions.left_seconds(session, self._now())

    def is_over(self, session: Session) -> bool:
        """Whether it has ended."""
        return self.sessions.has_ended(session, self._now())

    def needs(self, right: Right | None, *, is_use: bool = True) -> Callable[[Request], Session]:
        """A dependency: the request's session, which has a right (None: any role has).

        Args:
            right: See `Right`.
            is_use: See `SessionStore.find`; a request with `X-Automatic` is none.
        """

        def session_of(request: Request) -> Session:
            now = self._now()
            is_person = is_use and "x-automatic" not in request.headers
            session = self.sessions.find(request.cookies.get(self.cookie, ""), now, is_use=is_person)
            if session is None:
                raise LoginRefused(401, "log in first")
            sent = request.headers.get("x-csrf-token", "").encode()
            if request.method not in _SAFE and not hmac.compare_digest(sent, session.csrf.encode()):
                raise LoginRefused(403, "X-CSRF-Token: expected the token of this session")
            if not self.sessions.take(session, now):
                raise LoginRefused(429, "too many requests of this session", 1.0)
            if right is not None and not session.may(right):
                raise LoginRefused(403, f"a {session.account.role.value} may not do this: {right.value}")
            return session

        return session_of

    def saw(self, session: Session, patient: str) -> None:
        """Put on record that somebody looked at a patient, once in ten minutes."""
        now = self._now()
        if now - session.seen.get(patient, -_SEEN_SECONDS) >= _SEEN_SECONDS:
            if len(session.seen) > 1_000:
                session.seen.clear()
            session.seen[patient] = now
            self._note("view", session.account.name, patient=patient)
