"""A ring of the layout that the kernel documents, in ordinary memory."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from native_probes.ring import Ring

_PAGE, _SIZE = mmap.PAGESIZE, 4096
_BUSY, _DISCARDED = 1 << 31, 1 << 30
RECORD = np.dtype([("number", "<u8"), ("more", "<u8")])


class FakeRing:
    """The kernel's side; what it writes is there twice, as behind a double mapping."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * _PAGE + 2 * _SIZE)
        self.position = 0

    def write(self, number: int, flags: int = 0) -> int:
        """Where it was written."""
        at = self.position
        record = struct.pack("<IIQQ", RECORD.itemsize | flags, 0, number, 0)
        for offset, byte in enumerate(record):
            for copy in (0, _SIZE):
                where = 2 * _PAGE + (at + offset) % _SIZE + copy
                os.pwrite(self.fd, bytes([byte]), where)
        self.position += len(record)
        os.pwrite(self.fd, struct.pack("<Q", self.position), _PAGE)
        return at

    def submit(self, at: int) -> None:
        for copy in (0, _SIZE):
            header = struct.pack("<I", RECORD.itemsize)
            os.pwrite(self.fd, header, 2 * _PAGE + at % _SIZE + copy)

    def consumed(self) -> int:
        return int(struct.unpack("<Q", os.pread(self.fd, 8, 0))[0])


@pytest.fixture
def kernel() -> Iterator[FakeRing]:
    kernel = FakeRing()
    yield kernel
    os.close(kernel.fd)


def test_everything_comes_once_and_in_order_over_many_rounds(kernel: FakeRing) -> None:
    ring = Ring(kernel.fd, _SIZE, RECORD)
    for start in range(0, 2000, 100):
        for number in range(start, start + 100):
            kernel.write(number)
        assert list(range(start, start + 100)) == ring.read()["number"].tolist()
        assert kernel.position == kernel.consumed()
    assert len(ring.read()) == 0


def test_discarded_records_are_left_out(kernel: FakeRing) -> None:
    ring = Ring(kernel.fd, _SIZE, RECORD)
    kernel.write(1)
    kernel.write(2, _DISCARDED)
    kernel.write(3)
    assert [1, 3] == ring.read()["number"].tolist()
    assert kernel.position == kernel.consumed()


def test_nothing_behind_a_record_that_is_still_written_is_read(kernel: FakeRing) -> None:
    ring = Ring(kernel.fd, _SIZE, RECORD)
    kernel.write(1)
    at = kernel.write(2, _BUSY)
    kernel.write(3)
    assert [1] == ring.read()["number"].tolist()
    kernel.submit(at)
    assert [2, 3] == ring.read()["number"].tolist()


def test_a_batch_keeps_its_values_when_the_ring_is_written_again(kernel: FakeRing) -> None:
    ring = Ring(kernel.fd, _SIZE, RECORD)
    kernel.write(1)
    batch = ring.read()
    for number in range(2, 200):
        kernel.write(number)
    assert [1] == batch["number"].tolist()
