"""Counts of streams that nobody has seen before are those of Hubble's own handlers.

Under each option of each handler, and under options put together at random. The mix ``all``
has records that are cut inside a header, where Hubble counts filler of the perf ring: there
ours count the flows that Hubble's parser made, and so only the counting is compared.
"""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from api.metrics.exposition import Format
from api.metrics.hubble import HubbleMetrics
from parsers.flow_batch import FlowBatch
from parsers.framing import PayloadStream
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.world import directory_of
from tests.api.metrics.recorded_flows import batches
from tests.api.metrics.test_golden_counts import as_ours, numbers_apart, text_of
from tests.conformance.conftest import serving_hubble
from tests.programs import program
from tests.telling import Tell

HANDLERS = (
    "dns", "drop", "flow", "flows-to-world", "http", "icmp", "kafka", "policy",
    "port-distribution", "tcp",
)  # fmt: skip
OPTIONS = {
    "dns": ("query", "ignoreAAAA"),
    "flows-to-world": ("any-drop", "port", "syn-only"),
}
IDENTIFIERS = (
    "identity", "namespace", "pod", "pod-name", "dns", "ip", "reserved-identity", "workload",
    "workload-name", "app",
)  # fmt: skip
SIDES = ("ip", "pod", "namespace", "workload", "workload_kind", "app")
LABELS = (*(f"{end}_{s}" for end in ("source", "destination") for s in SIDES), "traffic_direction")
CONTEXTS = tuple(
    f"{end}{direction}Context"
    for end in ("source", "destination")
    for direction in ("", "Egress", "Ingress")
)
RANDOM_OPTIONS = 25
DNS_LINE = re.compile(r"^(hubble_dns_(?:queries|responses)_total)\{(.*)\}", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def each_option() -> Iterator[str]:
    """Every option at least once, alone where that says something."""
    yield " ".join(HANDLERS)
    yield "httpV2"
    yield from ("dns:query", "dns:ignoreAAAA", "dns:query;ignoreAAAA")
    yield from (f"flows-to-world:{option}" for option in OPTIONS["flows-to-world"])
    for identifier in IDENTIFIERS:
        yield f"flow:sourceContext={identifier};destinationContext={identifier}"
    for context in CONTEXTS:
        yield f"drop:{context}=pod tcp:{context}=workload|reserved-identity"
    for label in LABELS:
        yield f"flow:labelsContext={label} httpV2:labelsContext={label}"


def random_option(choose: random.Random) -> str:
    """Some handlers, each with some options."""
    names = choose.sample(HANDLERS, choose.randint(1, 5))
    return " ".join(_with_options(name, choose) for name in names)


def _with_options(name: str, choose: random.Random) -> str:
    if name == "http" and choose.random() < 0.5:
        name = "httpV2"
    options = [option for option in OPTIONS.get(name, ()) if choose.random() < 0.4]
    options += [
        f"{context}={'|'.join(choose.sample(IDENTIFIERS, choose.randint(1, 3)))}"
        for context in CONTEXTS
        if choose.random() < 0.25
    ]
    if choose.random() < 0.4:
        options.append(f"labelsContext={','.join(choose.sample(LABELS, choose.randint(1, 5)))}")
    choose.shuffle(options)
    return f"{name}:{';'.join(options)}" if options else name


class Recorded(NamedTuple):
    """A stream of the oracle, and the batches of it that we count."""

    stream: Path
    world: Path
    batches: list[FlowBatch]


@pytest.fixture(scope="module", params=[("steady", 15_000), ("l7", 4_000), ("all", 6_000)])
def recorded(
    request: pytest.FixtureRequest,
    oracle: Path,
    tell: Tell,
    tmp_path_factory: pytest.TempPathFactory,
) -> Recorded:
    mix, count = request.param
    seed = random.SystemRandom().getrandbits(32)
    folder = tmp_path_factory.mktemp(mix)
    stream, flows, world = (folder / name for name in ("stream", "flows.jsonl", "world.json"))
    generate: list[str | Path] = [
        oracle, "gen", "--seed", str(seed), "--mix", mix, "--count", str(count),
        "--stream", stream, "--flows", flows, "--world", world,
    ]  # fmt: skip
    subprocess.run(generate, check=True, capture_output=True, timeout=120)
    tell(f"oracle gen --seed {seed} --mix {mix} --count {count}")
    if mix == "all":
        lines = [json.loads(line) for line in flows.read_text().splitlines()]
        events = [line["event"] for line in lines if line["kind"] == "flow"]
        return Recorded(stream, world, list(batches(new_tables(), events)))
    return Recorded(stream, world, list(_parsed(stream, json.loads(world.read_bytes()))))


@pytest.mark.parametrize("recorded", [("l7", 3_000)], indirect=True)
@pytest.mark.parametrize(
    "option", ["httpV2:exemplars=true", "http:exemplars=true;sourceContext=pod"]
)
def test_exemplars_and_the_openmetrics_form_are_hubbles(
    recorded: Recorded, oracle: Path, option: str
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    request = urllib.request.Request(
        f"http://{address}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0"},
    )
    options = ("--metrics-listen", address, "--open-metrics", "--metrics", option)
    with serving_hubble(oracle, recorded.stream, recorded.world, *options):
        theirs = _until_all_are_counted(request)
    metrics = HubbleMetrics(option)
    for batch in recorded.batches:
        metrics.count(batch)
    ours = text_of(metrics, Format.OPENMETRICS)
    assert " # {traceID=" in theirs
    _assert_equal(_of_requests(ours), _of_requests(theirs), option)


def _until_all_are_counted(request: urllib.request.Request) -> str:
    """Hubble counts while it serves: its text once two scrapes say the same."""
    last = text = ""
    deadline = time.monotonic() + 30
    while (not text or _of_requests(text) != _of_requests(last)) and time.monotonic() < deadline:
        last = text
        with suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
            text = answer.read().decode()
        time.sleep(0.5)
    return text


def _of_requests(text: str) -> list[str]:
    return [_without_time(line) for line in text.splitlines() if "hubble_http_" in line]


def _without_time(line: str) -> str:
    """An exemplar's time is that of counting."""
    head, mark, exemplar = line.partition(" # {")
    return head + mark + exemplar.rpartition(" ")[0] if mark else line


def test_every_line_is_hubbles(recorded: Recorded, oracle: Path, tell: Tell) -> None:
    seed = random.SystemRandom().getrandbits(32)
    tell(f"metric options of seed {seed}")
    choose = random.Random(seed)
    options = [*each_option(), *(random_option(choose) for _ in range(RANDOM_OPTIONS))]
    assert len(options) >= 40

    def counted_by_hubble(option: str) -> str:
        command: list[str | Path] = [
            oracle, "metrics", "--stream", recorded.stream, "--world", recorded.world,
            "--metrics", option,
        ]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, timeout=120, text=True)
        return _with_rcode(as_ours("v1.19", done.stdout))

    with ThreadPoolExecutor(2) as pool:
        for option, theirs in zip(options, pool.map(counted_by_hubble, options), strict=True):
            ours = _counted_by_us(recorded.batches, option)
            _assert_equal(ours, theirs.splitlines(), option)
            _assert_promtool_agrees(ours, option)


def _with_rcode(text: str) -> str:
    """Hubble's text with a wrong label name put right.

    Its DNS handler appends the names of two metrics' labels to one slice. Where that has room
    left, which depends on how many context labels there are, the second overwrites the first,
    and ``rcode`` of queries and responses is called ``type``.
    """

    def renamed(line: re.Match[str]) -> str:
        labels = [f'{"rcode" if n == "type" else n}="{v}"' for n, v in LABEL.findall(line[2])]
        return f"{line[1]}{{{','.join(sorted(labels))}}}"

    return re.sub(
        r"^(hubble_dns_(?:queries|responses)_total)\{(.*)\}", renamed, text, flags=re.MULTILINE
    )


def _assert_equal(ours: Sequence[str], theirs: Sequence[str], option: str) -> None:
    our_lines, our_sums = numbers_apart(sorted(ours))
    hubble_lines, hubble_sums = numbers_apart(sorted(theirs))
    assert set(our_lines) ^ set(hubble_lines) == set(), option
    assert our_lines == hubble_lines, option
    assert our_sums == pytest.approx(hubble_sums, rel=1e-9), option


def _assert_promtool_agrees(lines: Sequence[str], option: str) -> None:
    command = [program("promtool", "prometheus"), "check", "metrics"]
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=text, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, ""), option


def _counted_by_us(recorded: Sequence[FlowBatch], option: str) -> list[str]:
    metrics = HubbleMetrics(option, series=1 << 20)
    for batch in recorded:
        metrics.count(batch)
    return [line for line in text_of(metrics).splitlines() if "hubble_lost_events" not in line]


def _parsed(stream: Path, world: dict[str, object]) -> Iterator[FlowBatch]:
    pipeline = MonitorPipeline(new_tables(), directory_of(world), Ledger(), release=(1, 19))
    pipeline.label_queries(wanted=True)
    framing = PayloadStream()
    framing.feed(stream.read_bytes())
    while (payloads := framing.take()) is not None:
        yield pipeline.parse(payloads, lambda n: n.astype(np.int64)).flows
