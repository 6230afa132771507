"""``ciliary demo --check``: ask the demo's own endpoints as a client would.

Each probe is a sentence and the fact behind it; a probe that fails says what it found.
The judge of the metrics page is prometheus-client's own parser.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from bridge.hubble_client import HubbleClient
from parsers.errors import UsageError

_TIMEOUT = 5.0
_FLOWS = 20


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the demo serves."""

    hubble: str
    hubble_unix: str
    hubble_metrics: str
    agent_metrics: str
    health: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One probe's result."""

    probe: str
    passed: bool
    detail: str


def probe_all(endpoints: Endpoints) -> Iterator[Finding]:
    """Probe everything, one after the other; blocks."""
    for probe, ask in {
        f"hubble status --server {endpoints.hubble}": lambda: _status(endpoints.hubble),
        f"hubble observe --last {_FLOWS} --server {endpoints.hubble}": lambda: _observe(
            endpoints.hubble
        ),
        f"hubble observe --last {_FLOWS} --server {endpoints.hubble_unix}": lambda: _observe(
            endpoints.hubble_unix
        ),
        f"curl {endpoints.hubble_metrics}": lambda: _metric(
            endpoints.hubble_metrics, "hubble_flows_processed"
        ),
        f"curl {endpoints.agent_metrics}": lambda: _metric(
            endpoints.agent_metrics, "ciliary_events_received"
        ),
        f"curl {endpoints.health}/readyz": lambda: _page(endpoints.health + "/readyz").strip(),
        f"curl {endpoints.health}/debug/ledger": lambda: _ledger(endpoints.health),
    }.items():
        yield _tried(probe, ask)


def _tried(probe: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(probe, True, ask())
    except (UsageError, OSError, ValueError) as error:
        return Finding(probe, False, str(error))


def _status(target: str) -> str:
    with HubbleClient(target, _TIMEOUT) as client:
        status = client.server_status()
    if not status.num_flows:
        raise UsageError("the server has no flows")
    return f"{status.num_flows:,} of {status.max_flows:,} flows, {status.flows_rate:,.0f} a second"


def _observe(target: str) -> str:
    with HubbleClient(target, _TIMEOUT) as client:
        flows = client.last_flows(_FLOWS)
    if len(flows) != _FLOWS:
        raise UsageError(f"{len(flows)} flows where {_FLOWS} were asked for")
    named = sum(bool(flow.source.pod_name or flow.destination.pod_name) for flow in flows)
    if not named:
        raise UsageError("no flow names a pod")
    return f"{len(flows)} flows, {named} with a pod's name"


def _metric(url: str, name: str) -> str:
    families = {family.name: family for family in text_string_to_metric_families(_page(url))}
    total = sum(sample.value for sample in families[name].samples) if name in families else 0
    if not total:
        raise UsageError(f"{name}_total is missing or zero")
    return f"{name}_total {total:,.0f}, {len(families)} families"


def _ledger(url: str) -> str:
    page = json.loads(_page(url + "/debug/ledger"))
    if not page["balanced"]:
        raise UsageError(f"the loss ledger does not balance: {page['stages']}")
    return f"balanced, {page['stages']['parser']['in']:,} records in"


def _page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:  # noqa: S310 -- our own
            text: str = answer.read().decode()
    except urllib.error.HTTPError as error:
        raise UsageError(f"{error.code}: {error.read().decode().strip()}") from None
    return text
