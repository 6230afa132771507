"""docs/reference/metrics.md is what the code exports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from api.metrics.reference import PAGE, page

ROOT = Path(__file__).parents[3]


def test_the_page_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api.metrics.reference", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, api.metrics.reference as r\n"
        f"r.PAGE = pathlib.Path({str(tmp_path / 'metrics.md')!r})\n"
        "r.PAGE.write_text('old')\n"
        "sys.exit(r.main(['--check']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (
        1, "metrics.md is stale; run python -m api.metrics.reference",
    )  # fmt: skip


def test_the_page_lists_every_family_that_the_issue_names() -> None:
    text = page()
    for name in (
        "flows_processed_total", "drop_total", "tcp_flags_total", "dns_queries_total",
        "dns_responses_total", "dns_response_types_total", "icmp_total", "port_distribution_total",
        "http_requests_total", "http_responses_total", "http_request_duration_seconds",
        "lost_events_total",
    ):  # fmt: skip
        assert f"`hubble_{name}`" in text
    assert PAGE.name == "metrics.md"
