"""A real Prometheus scrapes the demo, and answers the questions that dashboards ask."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.programs import program

RATE = 2000
READY = 60.0  # seconds until Prometheus has answers: a slow machine needs some


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def demo() -> Iterator[dict[str, str]]:
    """Its endpoints."""
    command = [
        sys.executable, "-m", "bridge", "demo", "--json", "--loop", "--rate", str(RATE),
        "--duration", "300",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["endpoints"]
        finally:
            process.terminate()
            process.stdout.close()  # type: ignore[union-attr]


class Prometheus:
    """Asks a server at a port."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/query?query="

    def values(self, query: str) -> dict[tuple[str, ...], float]:
        """Label values to number."""
        with urllib.request.urlopen(self._url + urllib.parse.quote(query), timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return {tuple(r["metric"].values()): float(r["value"][1]) for r in found["data"]["result"]}

    def until(self, query: str, holds: Callable[[dict[tuple[str, ...], float]], Any]) -> None:
        """Wait for an answer."""
        last: object = None
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline:
            try:
                last = self.values(query)
                if holds(last):
                    return
            except OSError as error:  # not there yet
                last = error
            time.sleep(0.2)
        pytest.fail(f"{query} never held: {last}")


@contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[Prometheus]:
    """A server that scrapes each URL every second under its name."""
    jobs = []
    for name, url in targets.items():
        parts = urllib.parse.urlsplit(url)
        jobs.append(
            {
                "job_name": name,
                "metrics_path": parts.path,
                "static_configs": [{"targets": [parts.netloc]}],
            }
        )
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    port = free_port()
    command = [
        program("prometheus", "prometheus"), f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield Prometheus(port)
        finally:
            process.terminate()


def test_prometheus_answers_what_dashboards_ask(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ends = stack.enter_context(demo())
        targets = {"hubble": ends["hubble_metrics"], "ciliary": ends["agent_metrics"]}
        server = stack.enter_context(prometheus(tmp_path, targets))
        server.until("up", lambda up: len(up) == 2 and set(up.values()) == {1.0})

        def about_the_rate(found: dict[tuple[str, ...], float]) -> bool:
            return all(RATE / 2 < value < RATE * 2 for value in found.values()) and bool(found)

        server.until("sum(rate(hubble_flows_processed_total[10s]))", about_the_rate)
        # From Hubble's dashboards: by verdict, drops by reason, SYN without an answer, DNS.
        server.until(
            "sum by (verdict) (rate(hubble_flows_processed_total[10s]))",
            lambda found: {("FORWARDED",), ("DROPPED",)} <= found.keys(),
        )
        server.until(
            'topk(3, sum by (reason) (rate(hubble_drop_total{reason!=""}[10s])))',
            lambda found: 0 < len(found) <= 3,
        )
        server.until(
            'sum(rate(hubble_tcp_flags_total{family="IPv4",flag="SYN"}[10s]))'
            ' - sum(rate(hubble_tcp_flags_total{family="IPv4",flag="SYN-ACK"}[10s]))',
            lambda found: len(found) == 1,
        )
        server.until(
            "sum by (qtypes) (rate(hubble_dns_queries_total[10s]))", lambda found: ("A",) in found
        )
        server.until(
            "histogram_quantile(0.99, sum by (le)"
            " (rate(hubble_http_request_duration_seconds_bucket[10s])))",
            lambda found: all(0 < value <= 10 for value in found.values()) and bool(found),
        )
        # And of the agent itself.
        server.until(
            "ciliary_events_unexplained",
            lambda found: len(found) > 3 and set(found.values()) == {0.0},
        )
        server.until(
            'ciliary_metrics_series{metric="hubble_flows_processed_total"}',
            lambda found: all(value > 5 for value in found.values()) and bool(found),
        )
        server.until("count(ciliary_build_info)", lambda found: found == {(): 1.0})
