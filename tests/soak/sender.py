"""A monitor socket that breaks in every way, and knows how many records it got out whole.

``python -m tests.soak.sender SOCKET RECORDS SEED``: one client after another gets a recorded
stream, over and over, until it ends: cleanly, within a message, in garbage, byte by
byte, or because the socket is replaced by a new one. When ``RECORDS`` have been sent, the
number that was sent whole is printed as JSON, with that of each kind of end.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from collections import Counter
from fcntl import ioctl
from pathlib import Path
from struct import unpack
from termios import TIOCOUTQ

from tests.fixtures import gob_uint, stream_bytes

ENDS = ("clean", "torn", "garbage", "replaced", "drip")
GARBAGE = (b"\0", b"\x80", b"\xf8" + b"\xff" * 8, b"\x04\xff\xfe\0\0")
MOST_ROUNDS = 50  # of the stream, on one connection


def message_starts(stream: bytes) -> tuple[list[int], int]:
    """Where each message begins and the last one ends, and how many define types."""
    starts, at, definitions = [0], 0, 0
    while at < len(stream):
        length, content = gob_uint(stream, at)
        type_id, _ = gob_uint(stream, content)
        definitions += type_id & 1  # sent as a negative number
        at = content + length
        starts.append(at)
    return starts, definitions


class Sender:
    """``sent`` counts records that went out whole."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._dice = random.Random(seed)
        self._stream = stream_bytes("v1.19", "steady")
        self._starts, self._definitions = message_starts(self._stream)
        self._listener = self._listen()
        self.sent = 0
        self.ends: Counter[str] = Counter()

    def run(self, records: int) -> None:
        """Serve one client after another until so many records are sent."""
        while self.sent < records:
            client, _ = self._listener.accept()
            with client:
                self._serve(client, records)
        self._path.unlink()

    def _listen(self) -> socket.socket:
        new = self._path.with_suffix(".new")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(os.fspath(new))
        listener.listen(1)
        new.rename(self._path)
        return listener

    def _serve(self, client: socket.socket, records: int) -> None:
        end = ENDS[self.ends.total() % len(ENDS)]
        self.ends[end] += 1
        every = len(self._starts) - 1
        client.sendall(self._stream[: self._starts[self._definitions]])
        # Short runs have enough connections for every end, too.
        most = min(MOST_ROUNDS, 1 + records // (10 * every))
        for _ in range(self._dice.randrange(most)):
            if self.sent >= records:
                break
            self._send(client, self._definitions, every)
        some = self._dice.randrange(self._definitions, every)
        self._send(client, self._definitions, some)
        torn = self._stream[self._starts[some] : self._starts[some + 1] - 1]
        if end == "torn":
            client.sendall(torn[: self._dice.randrange(1, len(torn))])
        elif end == "garbage":
            client.sendall(self._dice.choice(GARBAGE))
        elif end == "drip":
            for at in range(min(100, len(torn))):
                client.sendall(torn[at : at + 1])
                time.sleep(0.001)
        elif end == "replaced":
            # What the client has not read yet when it finds out is lost, and nobody counts it.
            while unpack("i", ioctl(client, TIOCOUTQ, bytes(4)))[0]:
                time.sleep(0.001)
            self._listener.close()
            self._listener = self._listen()
            client.recv(1)

    def _send(self, client: socket.socket, first: int, stop: int) -> None:
        client.sendall(memoryview(self._stream)[self._starts[first] : self._starts[stop]])
        self.sent += stop - first


def main() -> None:
    """Be the agent of the command line."""
    path, records, seed = sys.argv[1:]
    sender = Sender(Path(path), int(seed))
    sender.run(int(records))
    json.dump({"sent": sender.sent, "ends": sender.ends}, sys.stdout)


if __name__ == "__main__":
    main()
