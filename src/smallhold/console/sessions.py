"""Sessions, and how often anybody may try: pure state, time is an argument (seconds of a clock that never goes back).

A session is a random number of 256 bits in a cookie; the console keeps its SHA-256 alone. It ends after a while without
a request of a person, and at the latest after an absolute time. The CSRF token is derived from it and is in no cookie.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from smallhold.console.accounts import RIGHTS, Account, Right

MOST_SESSIONS = 256
_MOST_KEYS = 10_000
_FREE = {"account": 5, "address": 20}
_LONGEST_SECONDS = {"account": 60.0, "address": 900.0}


@dataclass(slots=True, repr=False)
class Session:
    """One log-in; `repr` shows no token.

    Attributes:
        account: Whose.
        key: SHA-256 of the cookie; names the session here.
        csrf: What every request that changes something must bear.
        begun: When it was logged in.
        used: When a person last did something.
        tokens: Of the rate limit, see `SessionStore.take`.
        refilled: When those were counted.
        seen: What of whom was put on record as looked at, and when.
    """

    account: Account
    key: str
    csrf: str
    begun: float
    used: float
    tokens: float
    refilled: float
    seen: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Session({self.account!r})"

    def may(self, right: Right) -> bool:
        """Whether the role of the account has a right."""
        return right in RIGHTS[self.account.role]


class SessionStore:
    """Everybody who is logged in; safe from any thread.

    Args:
        idle_seconds: A session without a request for so long ends.
        absolute_seconds: None lasts longer.
        rate: Requests a second of one session, on average.
        burst: Requests at once.
    """

    def __init__(
        self, idle_seconds: float, absolute_seconds: float, *, rate: float = 20.0, burst: float = 60.0
    ) -> None:
        self.idle_seconds, self.absolute_seconds = idle_seconds, absolute_seconds
        self._rate, self._burst = rate, burst
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, account: Account, now: float) -> tuple[str, Session]:
        """Log in: the cookie's value, and the session. When there are too many, the longest unused one ends."""
        token, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        session = Session(account, _key(token), csrf, now, now, self._burst, now)
        with self._lock:
            self._drop_ended(now)
            while len(self._sessions) >= MOST_SESSIONS:
                oldest = min(self._sessions.values(), key=lambda item: item.used)
                del self._sessions[oldest.key]
            self._sessions[session.key] = session
        return token, session

    def find(self, token: str, now: float, *, is_use: bool = True) -> Session | None:
        """The session of a cookie, None when it ended or never was.

        Args:
            token: The cookie's value.
            now: The present.
            is_use: It counts as a use: False for what a page does by itself.
        """
        with self._lock:
            session = self._sessions.get(_key(token))
            if session is None or self.has_ended(session, now):
                return None
            if is_use:
                session.used = now
            return session

    def has_ended(self, session: Session, now: float) -> bool:
        """Whether it is over, by time or by log-out."""
        is_late = now - session.used >= self.idle_seconds or now - session.begun >= self.absolute_seconds
        if is_late:
            self._sessions.pop(session.key, None)
        return is_late or session.key not in self._sessions

    def left_seconds(self, session: Session, now: float) -> float:
        """Until it ends by itself."""
        return min(session.used + self.idle_seconds, session.begun + self.absolute_seconds) - now

    def take(self, session: Session, now: float) -> bool:
        """Whether one more request is within the rate (a token bucket)."""
        with self._lock:
            session.tokens = min(self._burst, session.tokens + (now - session.refilled) * self._rate)
            session.refilled = now
            if session.tokens < 1:
                return False
            session.tokens -= 1
            return True

    def end(self, session: Session) -> None:
        """Log out."""
        with self._lock:
            self._sessions.pop(session.key, None)

    def __len__(self) -> int:
        return len(self._sessions)

    def _drop_ended(self, now: float) -> None:
        for session in list(self._sessions.values()):
            self.has_ended(session, now)


class LoginLimit:
    """Failed log-ins cost time: per account after 5 in a row, per address after 20; each one more doubles the wait.

    Another account or address is not held up. An account is locked for a minute at most, so that whoever wants to lock
    somebody out has to go on trying, which the address's wait (15 minutes at most) answers.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_seconds(self, account: str, address: str, now: float) -> float:
        """How long this log-in has to wait; 0: it may be tried."""
        with self._lock:
            return max(self._wait(("account", account), now), self._wait(("address", address), now))

    def begin(self, account: str, address: str, now: float) -> float:
        """Count an attempt as failed until `succeed` says otherwise, so that many at once do not slip through.

        Returns:
            As `wait_seconds`; unless 0 the attempt is not counted and must not be made.
        """
        with self._lock:
            keys = (("account", account), ("address", address))
            wait = max(self._wait(key, now) for key in keys)
            if wait <= 0:
                for key in keys:
                    count, _ = self._failures.pop(key, (0, now))
                    self._failures[key] = (count + 1, now)
                while len(self._failures) > _MOST_KEYS:
                    self._failures.popitem(last=False)
            return wait

    def succeed(self, account: str, address: str) -> None:
        """The password was right: the account begins anew, and the address is forgiven this attempt."""
        with self._lock:
            self._failures.pop(("account", account), None)
            count, t = self._failures.get(("address", address), (0, 0.0))
            if count:
                self._failures["address", address] = (count - 1, t)

    def _wait(self, key: tuple[str, str], now: float) -> float:
        count, last = self._failures.get(key, (0, now))
        over = count - _FREE[key[0]]
        if over < 0:
            return 0.0
        span = min(2.0 ** min(over, 32), _LONGEST_SECONDS[key[0]])
        return max(0.0, last + span - now)


def _key(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
