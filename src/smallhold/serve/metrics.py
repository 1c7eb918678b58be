"""Counters that `GET /metrics` shows, in Prometheus' text format 0.0.4."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

#: Upper ends of the latency histogram, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    "prompt_tokens": "Tokens of prompts",
    "cached_tokens": "Tokens of prompts that were not computed again",
    "completion_tokens": "Tokens generated",
    "prefix_cache_hits": "Prompts that shared a beginning with a kept one",
    "prefix_cache_misses": "Prompts that shared none",
}


class Metrics:
    """Numbers that only grow; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def add(self, **amounts: int) -> None:
        """Add to counters by name."""
        with self._lock:
            self._counts.update(amounts)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            route: One of the server's own paths, so that nobody outside can add labels.
            status: HTTP status.
            seconds: From its arrival to the last byte.
        """
        with self._lock:
            self._requests[route, status] += 1
            self._buckets[bisect_left(BUCKETS, seconds)] += 1
            self._seconds += seconds

    def render(self, gauges: Mapping[str, float]) -> str:
        """The page.

        Args:
            gauges: Name to present value.
        """
        with self._lock:
            lines = ["# HELP smallhold_requests_total Requests answered", "# TYPE smallhold_requests_total counter"]
            for (route, status), count in sorted(self._requests.items()):
                lines.append(f'smallhold_requests_total{{route="{route}",status="{status}"}} {count}')
            for name, text in _COUNTERS.items():
                lines += [f"# HELP smallhold_{name}_total {text}", f"# TYPE smallhold_{name}_total counter"]
                lines.append(f"smallhold_{name}_total {self._counts[name]}")
            lines += ["# HELP smallhold_request_seconds Time to answer", "# TYPE smallhold_request_seconds histogram"]
            total = 0
            for edge, count in zip((*map(str, BUCKETS), "+Inf"), self._buckets, strict=True):
                total += count
                lines.append(f'smallhold_request_seconds_bucket{{le="{edge}"}} {total}')
            lines += [f"smallhold_request_seconds_sum {self._seconds:.6f}", f"smallhold_request_seconds_count {total}"]
        for name, value in gauges.items():
            lines += [f"# TYPE smallhold_{name} gauge", f"smallhold_{name} {value:g}"]
        return "\n".join(lines) + "\n"
