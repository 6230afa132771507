"""How scrapes went: the two families that Hubble's metrics server counts of itself."""

from __future__ import annotations

from bisect import bisect_left

from api.metrics.family import BUCKETS, Counters, Histograms


class ScrapeCounts:
    """``hubble_metrics_http_handler_*``; ``observe`` is for ``serve_http``."""

    __slots__ = ("_durations", "_path", "_requests", "families")

    def __init__(self, path: str = "/metrics") -> None:
        self._path = path
        self._requests = Counters(
            "hubble_metrics_http_handler_requests_total",
            "A counter for requests to Hubble metrics handler.",
            ("code",),
        )
        self._durations = Histograms(
            "hubble_metrics_http_handler_request_duration_seconds",
            "A histogram of latencies of Hubble metrics handler.",
            ("code",),
        )
        self.families: tuple[Counters, ...] = (self._requests, self._durations)

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Count an answer, if it was a scrape."""
        if path == self._path:
            code = (str(status),)
            buckets = [0] * (len(BUCKETS) + 1)
            buckets[bisect_left(BUCKETS, seconds)] = 1
            self._requests.add(code, 1)
            self._durations.observe(code, buckets, round(seconds * 1e9))
