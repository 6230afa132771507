"""Counts of a stream that nobody has seen before are those of Hubble's own handlers."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

from api.metrics.hubble import HubbleMetrics
from parsers.framing import PayloadStream
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.world import directory_of
from tests.api.metrics.test_golden_counts import as_ours, numbers_apart, text_of
from tests.conformance.conftest import Tell

HANDLERS = (
    "dns", "drop", "flow", "flows-to-world", "http", "icmp", "kafka", "policy",
    "port-distribution", "tcp",
)  # fmt: skip


# Of the mixes without records that are cut inside a header: there Hubble counts filler.
@pytest.mark.parametrize(("mix", "count"), [("steady", 30_000), ("l7", 10_000)])
def test_every_line_is_hubbles(
    mix: str, count: int, oracle: Path, tmp_path: Path, tell: Tell
) -> None:
    seed = random.SystemRandom().getrandbits(32)
    tell(f"oracle gen --seed {seed} --mix {mix} --count {count}")
    stream, flows, world = (tmp_path / name for name in ("stream", "flows.jsonl", "world.json"))
    generate: list[str | Path] = [
        oracle, "gen", "--seed", str(seed), "--mix", mix, "--count", str(count),
        "--stream", stream, "--flows", flows, "--world", world,
    ]  # fmt: skip
    subprocess.run(generate, check=True, capture_output=True, timeout=120)
    count_them: list[str | Path] = [
        oracle, "metrics", "--stream", stream, "--world", world, "--metrics", " ".join(HANDLERS),
    ]  # fmt: skip
    told = subprocess.run(count_them, check=True, capture_output=True, timeout=120, text=True)
    hubbles = as_ours("v1.19", told.stdout).splitlines()

    ours = _our_lines(stream.read_bytes(), json.loads(world.read_bytes()))

    our_lines, our_sums = numbers_apart(sorted(ours))
    hubble_lines, hubble_sums = numbers_apart(sorted(hubbles))
    assert len(hubble_lines) > 100
    assert our_lines == hubble_lines
    assert our_sums == pytest.approx(hubble_sums, rel=1e-9)


def _our_lines(stream: bytes, world: dict[str, object]) -> list[str]:
    metrics = HubbleMetrics(HANDLERS)
    pipeline = MonitorPipeline(new_tables(), directory_of(world), Ledger(), release=(1, 19))
    framing = PayloadStream()
    framing.feed(stream)
    while (payloads := framing.take()) is not None:
        metrics.count(pipeline.parse(payloads, lambda n: n.astype(np.int64)).flows)
    lines = text_of(metrics).splitlines()
    return [line for line in lines if "hubble_lost_events" not in line]
