"""Hubble's own parser and ours make the same of streams that nobody has seen before."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from tests import fixtures
from tests.conformance import make_rare_fixture as make
from tests.parsers.comparison import compare
from tests.parsers.redaction_settings import redaction_of
from tests.telling import Tell

COUNT = {"steady": 30_000, "all": 20_000, "l7": 10_000, "hostile": 30_000}
RELEASE = "v1.19"  # of the program


@pytest.mark.parametrize("mix", COUNT)
def test_a_random_stream_gives_what_hubble_gives(
    mix: str, oracle: Path, tmp_path: Path, tell: Tell
) -> None:
    seed = random.SystemRandom().getrandbits(32)
    tell(f"oracle gen --seed {seed} --mix {mix} --count {COUNT[mix]}")
    stream, flows, world = (tmp_path / name for name in ("stream", "flows.jsonl", "world.json"))
    _run(
        oracle, "gen", "--seed", str(seed), "--mix", mix, "--count", str(COUNT[mix]),
        "--stream", stream, "--flows", flows, "--world", world,
    )  # fmt: skip
    # What ``gen`` says of cut records knows the bytes behind the cut; a reader does not.
    _run(oracle, "flows", "--stream", stream, "--world", world, "--flows", flows)
    # Go's protobuf writes its errors now with a space, now with a no-break one, so that
    # nobody depends on them.
    text = flows.read_text(encoding="utf-8").replace("proto:\u00a0", "proto: ")
    expected = [json.loads(line) for line in text.splitlines()]
    assert len(expected) == COUNT[mix]
    unexplained = compare(
        RELEASE, stream.read_bytes(), expected, json.loads(world.read_bytes()), set()
    )
    assert unexplained[:3] == [], f"{len(unexplained)} of {COUNT[mix]} records, seed {seed}"


def test_random_records_are_redacted_as_hubble_does(
    oracle: Path, tmp_path: Path, tell: Tell
) -> None:
    seed = random.SystemRandom().getrandbits(32)
    tell(f"oracle gen --seed {seed} --mix l7 --count 3000, redacted")
    stream, flows, world = (tmp_path / name for name in ("stream", "flows.jsonl", "world.json"))
    _run(
        oracle, "gen", "--seed", str(seed), "--mix", "l7", "--count", "3000",
        "--stream", stream, "--flows", flows, "--world", world,
    )  # fmt: skip
    _run(oracle, "redacted", "--stream", stream, "--world", world, "--out", tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "settings.json").read_bytes())
    assert len(settings) == 6
    for name, setting in settings.items():
        text = (tmp_path / "out" / f"{name}.flows.jsonl").read_text(encoding="utf-8")
        expected = [json.loads(line) for line in text.splitlines()]
        known = json.loads(world.read_bytes())
        unexplained = compare(
            RELEASE, stream.read_bytes(), expected, known, set(), redaction_of(setting)
        )
        assert unexplained[:3] == [], f"{name}, seed {seed}"


TCP = bytes.fromhex("9c40 1f90 00000001 00000002 b012 ffff 0000 0000")
OPTIONS = bytes.fromhex("020405b4 0402 080a0000000100000002 01 030307 00000000")
MULTIPATH = [
    bytes.fromhex(text)
    for text in (
        "1e0c0081 0000000000000001 1e0c1001 000000010000002a",
        "1e142005 00000001 00000002 00000003 0004abcd 1e044002",  # DSS, REMOVE_ADDR
        "1e103101 0a000001 0000000000000001 1e083102 0a000002",  # ADD_ADDR, both ways
        "1e035101 1e0c6000 0000000000000001 1e048001 01010101",  # MP_PRIO, FAIL, TCPRST
    )
]
HOP_BY_HOP = bytes.fromhex("0600 0502 0000 0100")


def packets() -> list[tuple[bytes, int]]:
    """Sound packets of every form, and the flags of the trace that carries them."""
    plain = [
        make.ipv4(6, TCP + OPTIONS),
        *(make.ipv4(6, TCP + multipath) for multipath in MULTIPATH),
        make.ipv4(17, make.udp(b"\0\0")),
        make.ipv4(132, bytes.fromhex("9c40 1f90 00000001 00000002 01000004")),
        make.ipv4(1, bytes.fromhex("0800 0000 0001 0002")),
        make.ipv4(2, bytes.fromhex("1600 0000 ef010203")),
        make.ipv4(112, bytes.fromhex("2133 6401 0001 ba52 0a000001")),
        make.ipv4(4, make.ipv4(6, TCP + OPTIONS)),
        b"\x47" + make.ipv4(1, bytes.fromhex("9404 0000 0104 0100 0800 0000 0001 0002"))[1:],
    ]
    six = [
        make.ipv6(6, TCP + OPTIONS),
        make.ipv6(58, bytes.fromhex("8000 0000 0001 0002")),
        make.ipv6(0, HOP_BY_HOP + TCP + OPTIONS),
        make.ipv6(44, bytes(8) + TCP),
    ]
    found = [(make.ethernet(p), 0) for p in plain] + [(make.ethernet(p, 0x86DD), 0) for p in six]
    found += [(plain[0], 2), (six[0], 3)]  # devices without a link header
    for packet in (make.ethernet(plain[0]), make.ethernet(six[0], 0x86DD)):
        for header, flag in ((make.VXLAN_HEADER, make.VXLAN), (make.GENEVE_HEADER, make.GENEVE)):
            outer = make.ethernet(make.ipv4(17, make.udp(header + packet)))
            found += [(outer, flag), (make.ethernet(make.ipv6(17, outer[34:]), 0x86DD), flag)]
    return found


def test_packets_with_changed_bytes_give_what_hubble_gives(
    oracle: Path, tmp_path: Path, tell: Tell
) -> None:
    seed = random.SystemRandom().getrandbits(64)
    tell(f"seed {seed}")
    dice = random.Random(seed)
    sound = packets()
    records = []
    for _ in range(30_000):
        packet, flags = dice.choice(sound)
        changed = bytearray(packet)
        for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
            # Every length is small and many bytes are: those are the values that matter.
            value = dice.choice([dice.randrange(256), dice.randrange(70), dice.randrange(5)])
            changed[dice.randrange(12, len(packet))] = value
        end = dice.choice([len(packet), len(packet), dice.randrange(len(packet))])
        records.append(make.trace(bytes(changed[:end]), flags=flags))
    stream, flows, world = (tmp_path / name for name in ("stream", "flows.jsonl", "world.json"))
    stream.write_bytes(make.stream_of(records))
    world.write_text(json.dumps(fixtures.world(RELEASE)))
    _run(oracle, "flows", "--stream", stream, "--world", world, "--flows", flows)
    expected = [json.loads(line) for line in flows.read_text().splitlines()]
    unexplained = compare(RELEASE, stream.read_bytes(), expected, fixtures.world(RELEASE), set())
    shown = [(records[number].hex(), found) for number, found in unexplained[:3]]
    assert shown == [], f"{len(unexplained)} of {len(records)} records"


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=120)
