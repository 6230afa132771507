"""What an access log costs: ``python -m tests.bench.bench_access_log``.

L7 records are three in a hundred of a stream and may cost 9 µs each, all in.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from parsers.access_log import AccessLogDecoder
from tests.fixtures import expected, payloads

ROUNDS = 15


def microseconds(call: Callable[[bytes], object], records: list[bytes]) -> float:
    """CPU time a record; the best of some rounds, as others use the machine too."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for record in records:
            call(record)
        best = min(best, time.process_time() - begun)
    return best / len(records) * 1e6


def main() -> None:
    """Print a line for each recording: decoded, and decoded and read."""
    for mix in ("steady", "l7"):
        lines = zip(payloads("v1.19", mix), expected("v1.19", mix), strict=True)
        logs = [p.data for p, e in lines if p.data[:1] == b"\x81" and e["kind"] == "flow"]
        decoder = AccessLogDecoder((1, 19))
        decoded = microseconds(decoder.decode, logs)
        read = microseconds(lambda record, d=decoder: d.decode(record).l7.content(), logs)  # type: ignore[misc]
        print(f"{mix:8} {len(logs):5} records  {decoded:5.1f} µs decoded  {read:5.1f} µs read")  # noqa: T201


if __name__ == "__main__":
    main()
