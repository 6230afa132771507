"""How fast the pipeline is beside Hubble's own path, over one stream in one run.

A figure to read, printed, and no threshold: machines differ and are noisy. The rounds of
both take turns, so that a change of the machine's speed meets both; medians are compared.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from statistics import median

from tests.conformance.conftest import ROOT
from tests.telling import Tell

RECORDS = 500_000
ROUNDS = 3
PATH = "decode+parse+metrics+ring"


def test_the_ratio_is_told(oracle: Path, tmp_path: Path, tell: Tell) -> None:
    stream, flows, world = (tmp_path / name for name in ("stream", "flows.jsonl", "world.json"))
    seed = str(random.SystemRandom().getrandbits(32))
    generate: list[str | Path] = [
        oracle, "gen", "--seed", seed, "--mix", "steady", "--count", str(RECORDS),
        "--stream", stream, "--flows", flows, "--world", world,
    ]  # fmt: skip
    subprocess.run(generate, check=True, capture_output=True, timeout=600)
    flows.unlink()
    bench: list[str | Path] = [
        sys.executable, "-m", "bridge", "bench", "pipeline", "--json", "--release", "1.19",
        "--stream", stream, "--world", world,
    ]  # fmt: skip
    ours, datapath, hubbles = [], [], []
    for _ in range(ROUNDS):
        ours.append(_figures(bench))
        hubbles.append(_hubble(oracle, stream, world))
        datapath.append(_figures([*bench, "--datapath-only"]))
    rate = median(figures["events_per_cpu_second"] for figures in ours)
    alone = median(figures["events_per_cpu_second"] for figures in datapath)
    tell(
        f"seed {seed}: ciliary {rate:,} events a CPU second ({alone:,} on datapath records), "
        f"Hubble {median(hubbles):,.0f}: ratio {rate / median(hubbles):.1f}; "
        f"last run {json.dumps(ours[-1])}"
    )
    assert all(f["records"] == RECORDS and not f["imbalance"] for f in ours)
    assert rate > median(hubbles)


def _figures(command: list[str | Path]) -> dict[str, float]:
    done = subprocess.run(
        [str(part) for part in command],
        check=True, capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _hubble(oracle: Path, stream: Path, world: Path) -> float:
    """Events a CPU second of Hubble's own path; the figure of one core."""
    command: list[str | Path] = [
        oracle, "bench", "--stream", stream, "--world", world, "--rounds", "1", "--per", "1s",
        "--only", PATH,
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    (figure,) = json.loads(done.stdout.splitlines()[-1])["figures"]
    return float(figure["per_cpu_second"])
