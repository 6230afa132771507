"""The object for aarch64 gives what that for this processor gives, under an emulator.

Calls are recorded while streams are parsed, a sample of each function, and made again by
``aarch64_calls.c``, which has the committed object's memory as an input.
"""

from __future__ import annotations

import random
import subprocess
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from parsers import compiled
from parsers.errors import ProtocolError
from tests.fixtures import release_number, stream_bytes, world
from tests.parsers.recorded import batches, facts_of
from tests.parsers.shared_object import OBJECTS, exports, image
from tests.programs import absent, program

CALLS, LARGE_CALLS = 40, 3  # kept of each function: of small ones, of large ones
LARGE = 1 << 18  # bytes of a call's columns
LARGEST = 6 << 20  # bytes
MOST_ARGUMENTS = 24  # as aarch64_calls.c has it
TOO_LARGE = {"addresses_find"}  # whose index of all /24s has 64 MiB
STREAMS = (("v1.19", "steady"), ("v1.14", "all"), ("v1.20", "hostile"), ("v1.20", "l7"))


class Call(NamedTuple):
    name: str
    before: tuple[Any, ...]
    result: int
    after: tuple[Any, ...]


class Recorder:
    """Compiled functions that keep a fair sample of their calls."""

    def __init__(self, kernels: compiled.Kernels, dice: random.Random) -> None:
        self.kept: dict[tuple[str, bool], list[Call]] = defaultdict(list)
        self._seen: dict[str, int] = defaultdict(int)
        self._kernels, self._dice = kernels, dice

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = getattr(self._kernels, name)

        def call(*taken: Any) -> int:
            size = sum(getattr(one, "nbytes", 0) for one in taken)
            if size > LARGEST:
                return int(function(*taken))
            self._seen[name] += 1
            place = self._dice.randrange(self._seen[name])
            kept, most = self.kept[name, size < LARGE], CALLS if size < LARGE else LARGE_CALLS
            if place >= most:
                return int(function(*taken))
            before = copies(taken)
            made = Call(name, before, function(*taken), copies(taken))
            kept[place : place + (len(kept) == most)] = [made]
            return made.result

        return call


def copies(taken: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.tobytes() if isinstance(one, np.ndarray) else int(one) for one in taken)


def broken(data: bytes, dice: random.Random) -> bytes:
    wrong = bytearray(data)
    for _ in range(20):
        wrong[dice.randrange(len(wrong))] = dice.randrange(256)
    return bytes(wrong)


def record(kernels: compiled.Kernels, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    dice = random.Random(1)
    recorder = Recorder(kernels, dice)
    monkeypatch.setattr(compiled, "kernels", recorder)
    for release, mix in STREAMS:
        data = stream_bytes(release, mix)[: 1 << 20]
        sizes = [*(dice.choice([100, 5_000, 60_000]) for _ in range(30)), len(data)]
        for fed in (data, broken(data, dice)):
            with suppress(ProtocolError):
                facts_of(batches(fed, sizes), world(release), release_number(release))
    assert compiled.SIGNATURES.keys() - TOO_LARGE == {name for name, _ in recorder.kept}
    return [call for calls in recorder.kept.values() for call in calls]


def word(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=number < 0)


def whole_words(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def written(call: Call, address: int) -> bytes:
    parts = [word(address), word(len(call.before))]
    for one in call.before:
        parts += (
            [word(0), word(one)]
            if isinstance(one, int)
            else [word(1), word(len(one)), whole_words(one)]
        )
    return b"".join(parts)


@pytest.fixture
def harness(tmp_path: Path) -> Path:
    clang, _ = program("clang", "clang"), program("ld.lld", "lld")
    made = tmp_path / "calls"
    subprocess.run(
        [clang, "--target=aarch64-linux-gnu", "-std=c11", "-O1", "-Wall", "-Werror",
         "-ffreestanding", "-fno-stack-protector", "-nostdlib", "-static", "-fuse-ld=lld",
         Path(__file__).with_name("aarch64_calls.c"), "-o", made],
        check=True, timeout=60,
    )  # fmt: skip
    return made


def test_recorded_calls_give_the_same(harness: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = program("qemu-aarch64-static", "qemu-user-static")
    kernels, missing = compiled.load("")
    if kernels is None:
        absent(missing)
    calls = record(kernels, monkeypatch)
    assert max(len(call.before) for call in calls) <= MOST_ARGUMENTS
    data = (OBJECTS / "aarch64.so").read_bytes()
    addresses, memory = exports(data), whole_words(image(data))
    sent = word(len(memory)) + memory
    sent += b"".join(written(call, addresses[call.name]) for call in calls)
    told = subprocess.run(
        [emulator, harness], input=sent, capture_output=True, check=True, timeout=120
    ).stdout
    for call in calls:
        columns = b"".join(one for one in call.after if isinstance(one, bytes))
        expected = word(call.result) + columns
        assert expected == told[: len(expected)], call.name
        told = told[len(expected) :]
    assert b"" == told
