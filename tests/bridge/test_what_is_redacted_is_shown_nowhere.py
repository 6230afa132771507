"""Hubble's own parser, under six settings of ``hubble-redact-*``, over the same L7 records."""

from __future__ import annotations

import json
import lzma
from typing import Any

import pytest

from api.history import History
from api.hubble.node import LocalNode
from api.hubble.observer import Observer
from api.metrics.exposition import Format, render
from api.metrics.hubble import HubbleMetrics
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from bridge.config import ConfigError
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.redaction import Redaction
from parsers.world import directory_of
from tests.fixtures import FIXTURES, stream_bytes, world
from tests.parsers.comparison import compare
from tests.parsers.recorded import batches
from tests.parsers.redaction_settings import config_of, redaction_of

GOLDEN = FIXTURES / "v1.19" / "redacted-l7"
SETTINGS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "settings.json").read_bytes())
STRICTEST = {
    "enabled": True,
    "http": {"url_query": True, "headers": {"allow": ["accept"]}},
    "kafka": {"api_key": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_flow_is_redacted_as_hubble_does(name: str) -> None:
    packed = (GOLDEN / f"{name}.flows.jsonl.xz").read_bytes()
    expected = [json.loads(line) for line in lzma.decompress(packed).splitlines()]
    redaction = redaction_of(SETTINGS[name])
    found = compare(
        "v1.19", stream_bytes("v1.19", "l7"), expected, world("v1.19"), set(), redaction
    )
    assert found[:3] == []


def test_what_is_not_enabled_redacts_nothing_but_passwords() -> None:
    assert config_of({"http": {"url_query": True}}).hubble.redact.redaction == Redaction()
    assert config_of({"http": {"user_info": False}}).hubble.redact.redaction == Redaction()


def test_headers_are_allowed_or_denied() -> None:
    with pytest.raises(ConfigError, match="not in both"):
        config_of({"http": {"headers": {"allow": ["a"], "deny": ["b"]}}})


async def test_no_output_shows_a_secret() -> None:
    redaction = config_of(STRICTEST).hubble.redact.redaction
    tables, ledger = new_tables(), Ledger()
    pipeline = MonitorPipeline(
        tables, directory_of(world("v1.19")), ledger, release=(1, 19), redaction=redaction
    )
    observer = Observer(History(tables, ledger, 10_000), LocalNode("node"), ledger)
    metrics = HubbleMetrics(["http", "kafka", "dns"])
    for payloads in batches(stream_bytes("v1.19", "l7")):
        parsed = pipeline.parse(payloads, pipeline.numbers.live_clock(0))
        metrics.count(parsed.flows)
        observer.publish(parsed)
    metrics.fold()
    shown = b"".join(render(metrics.families, Format.CLASSIC))

    async def flows(**filters: Any) -> list[bytes]:
        request = observer_pb2.GetFlowsRequest(
            whitelist=[flow_pb2.FlowFilter(**filters)] if filters else []
        )
        return [data async for chunk in observer.get_flows(request) for data in chunk]

    shown += b"".join(await flows())
    assert shown.count(b"HUBBLE_REDACTED") > 500
    for secret in (b"secret@", b"currency=EUR", b"#frag", b"loadgen/1.2", b"heartbeat"):
        assert secret in stream_bytes("v1.19", "l7")
        assert secret not in shown
    # Nor can it be guessed.
    assert await flows(http_url=["^http://bob:"])
    assert not await flows(http_url=["secret"])
    assert not await flows(http_url=["currency=EUR"])
    assert not await flows(http_header=[{"key": "User-Agent", "value": "loadgen/1.2"}])
