"""Hubble's own parser and ours make the same of streams that nobody has seen before."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from tests.parsers.comparison import compare

COUNT = {"steady": 30_000, "all": 20_000, "l7": 10_000, "hostile": 30_000}
RELEASE = "v1.19"  # of the program


@pytest.mark.parametrize("mix", COUNT)
def test_a_random_stream_gives_what_hubble_gives(mix: str, oracle: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"oracle gen --seed {seed} --mix {mix} --count {COUNT[mix]}")  # noqa: T201
    stream, flows, world = (tmp_path / name for name in ("stream", "flows.jsonl", "world.json"))
    _run(
        oracle, "gen", "--seed", str(seed), "--mix", mix, "--count", str(COUNT[mix]),
        "--stream", stream, "--flows", flows, "--world", world,
    )  # fmt: skip
    # What ``gen`` says of cut records knows the bytes behind the cut; a reader does not.
    _run(oracle, "flows", "--stream", stream, "--world", world, "--flows", flows)
    expected = [json.loads(line) for line in flows.read_text().splitlines()]
    assert len(expected) == COUNT[mix]
    unexplained = compare(
        RELEASE, stream.read_bytes(), expected, json.loads(world.read_bytes()), set()
    )
    assert unexplained[:3] == [], f"{len(unexplained)} of {COUNT[mix]} records, seed {seed}"


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=120)
