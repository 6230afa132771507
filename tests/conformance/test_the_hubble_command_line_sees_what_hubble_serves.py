"""The real ``hubble`` command line against our server and Hubble's own, over the same flows."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from api.history import History
from api.hubble.grpc_engine import open_engine
from api.hubble.observer import Observer
from api.hubble.peers import Peer, Peers
from api.hubble.services import services_of
from parsers.ledger import Ledger
from parsers.pipeline import ParsedBatch
from tests.api.hubble.from_json import batch_of, interfaces_of, new_tables, node_of
from tests.api.hubble.serving import serving

COMMANDS = [
    "--last 20",
    "--first 20",
    "--all",
    "--last 50 -o json",
    "--last 50 -o table",
    "--last 50 -o dict",
    "--last 50 -o compact --print-node-name",
    "--last 50 --numeric --print-policy-names --use-default-field-masks=false",
    "--since 2026-01-01T00:00:00.3Z",
    "--since 2026-01-01T00:00:00.1Z --until 2026-01-01T00:00:00.2Z -o json",
    "--verdict DROPPED",
    "--verdict DROPPED --verdict REDIRECTED --last 5",
    "--pod payments/api",
    "--from-pod shop/",
    "--to-pod default/kafka --protocol tcp",
    "--namespace payments --last 10",
    "--from-namespace shop --to-namespace payments",
    "--ip 10.0.0.0/26 --last 30",
    "--from-ip 10.0.0.91",
    "--to-ip fd00::/16",
    "--port 5432",
    "--to-port 53 --protocol udp",
    "--protocol dns -o json",
    "--protocol http",
    "--label app=kafka",
    "--from-label k8s:app=ledger --last 3",
    "--not --label app=kafka --last 30",
    "--type drop",
    "--type trace:to-endpoint --last 7",
    "--type policy-verdict --print-policy-names",
    "--type l7 --http-method GET",
    "--type l7 --http-status 5+",
    "--identity 1249 --last 5",
    "--to-identity world",
    "--fqdn *.example.com",
    "--service kube-system/kube-dns",
    "--workload Deployment/api --last 5",
    "--from-workload ledger",
    "--traffic-direction ingress --last 5",
    "--tcp-flags SYN,ACK --last 5",
    "--ip-version 6",
    "--node-name oracle/node-a --last 2",
    "--node-name nowhere",
    "--uuid 00000000-0000-4000-8000-000000000064 -o json",
    "--drop-reason-desc POLICY_DENIED",
    "--interface eth0",
    # Of flows that are no TCP, Hubble would show the port of an earlier one.
    "--field-mask time,node_name,source.pod_name,l4.TCP.destination_port -o json --protocol tcp",
    '--allowlist {"reply":[false]} --last 11',
    '--denylist {"destination_label":["reserved:world"]} --last 11',
    "--pod kube-system/coredns --not --verdict DROPPED",
    "--protocol nonsense",
    "--from-ip 10.0.0.0/99",
    "--label a!in",
]  # fmt: skip


@asynccontextmanager
async def ours(stream: Path, target: str) -> AsyncIterator[tuple[str, Observer]]:
    """Our server over the flows Hubble's parser made of the stream.

    The last is left out: Hubble's own server cannot show its newest event.
    """
    lines = [json.loads(line) for line in (stream / "flows.jsonl").read_text().splitlines()]
    flows = [line["event"] for line in lines if line["kind"] == "flow"][:-1]
    tables = new_tables()
    node = node_of(flows[0], interfaces_of(flows))
    observer = Observer(History(tables, Ledger(), 4095), node, Ledger(), version="ciliary v0.1.0")
    batch = batch_of(flows, tables)
    observer.publish(ParsedBatch(len(batch), batch))
    services = services_of(observer, Peers([Peer.of(node)]), version="0.1.0")
    async with serving(open_engine, services, target) as engine:
        yield engine.addresses[0], observer


async def run(hubble: Path, server: str, *arguments: str) -> tuple[int, str, str]:
    with trio.fail_after(30):
        done = await trio.run_process(
            [hubble, "--server", server, *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def plain(text: str, arguments: list[str]) -> Any:
    """Output to compare: parsed where Hubble writes JSON, whose blanks are random."""
    if "json" in arguments:
        return [json.loads(line) for line in text.splitlines()]
    return text


def without_details(text: str) -> str:
    """Errors up to where Go's libraries speak."""
    text = re.sub(r"^\S+ [\d:.]+ ", "", text, flags=re.MULTILINE)
    return re.split(r" in filter:|unable to parse requirement", text)[0]


@pytest.mark.parametrize("command", COMMANDS)
async def test_observe_prints_the_same(
    command: str, hubble: Path, small_stream: Path, hubble_server: str
) -> None:
    arguments = command.split()
    wanted = await run(hubble, hubble_server, "observe", *arguments)
    async with ours(small_stream, "127.0.0.1:0") as (address, _):
        got = await run(hubble, address, "observe", *arguments)
    assert got[0] == wanted[0]
    assert plain(got[1], arguments) == plain(wanted[1], arguments)
    assert without_details(got[2]) == without_details(wanted[2])


async def test_status_over_a_unix_socket(hubble: Path, small_stream: Path, tmp_path: Path) -> None:
    async with ours(small_stream, f"unix://{tmp_path}/hubble.sock") as (address, _):
        code, text, _ = await run(hubble, address, "status")
        _, shown, _ = await run(hubble, address, "status", "-o", "json")
    assert code == 0
    assert text.startswith(f"Healthcheck (via {address}): Ok\nCurrent/Max Flows: 499/4,095")
    status = json.loads(shown)
    assert (status["num_flows"], status["seen_flows"]) == ("499", "499")
    assert status["version"] == "ciliary v0.1.0"


async def test_follow_prints_history_and_then_what_comes(
    hubble: Path, small_stream: Path, tmp_path: Path
) -> None:
    async with ours(small_stream, f"unix://{tmp_path}/hubble.sock") as (address, observer):
        ((_, flows),) = observer.history.flows.pieces(0, 499, 499)
        command: list[str | Path] = [
            hubble,
            "--server",
            address,
            "observe",
            "-f",
            "--last",
            "10",
            "-o",
            "json",
        ]
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert process.stdout is not None
            seen = b""
            published = False
            with trio.fail_after(20):
                while seen.count(b"\n") < 509:
                    seen += await process.stdout.receive_some()
                    if not published and seen.count(b"\n") == 10:
                        published = True
                        observer.publish(ParsedBatch(len(flows), flows.select(np.arange(499))))
        finally:
            process.kill()
            await process.wait()
    numbers = [int(json.loads(line)["flow"]["uuid"][-12:], 16) for line in seen.splitlines()]
    assert numbers[:10] == list(range(489, 499))
    assert numbers[10:] == list(range(499))
