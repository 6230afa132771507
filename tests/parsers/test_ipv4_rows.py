"""Numbers of IPv4 addresses are those of a plain mapping, whatever comes and goes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parsers.address_table import ADDRESS
from parsers.addresses import MAPPED
from parsers.ipv4_rows import Ipv4Rows

_FEW = [0, 1, 255]
V4 = st.tuples(*[st.sampled_from(_FEW)] * 4).map(lambda octets: MAPPED + bytes(octets))
V6 = st.sampled_from(
    [bytes(16), bytes(10) + b"\xff\xfe" + bytes(4), b"\xfd" + MAPPED[1:] + b"1234"]
)
STEPS = st.lists(st.dictionaries(st.one_of(V4, V6), st.integers(0, 3), min_size=1, max_size=9))


@given(steps=STEPS, asked=st.lists(st.one_of(V4, V6), min_size=1))
def test_any_changes_leave_what_a_mapping_has(
    steps: list[dict[bytes, int]], asked: list[bytes]
) -> None:
    rows, plain = Ipv4Rows(), dict[bytes, int]()
    empty = rows.nbytes()
    for step in steps:
        rows.put(packed(list(step)), np.fromiter(step.values(), dtype=np.uint32))
        plain |= step
    found, others = rows.find(packed(asked))
    assert [n for n, a in enumerate(asked) if not a.startswith(MAPPED)] == others.tolist()
    for address, number in zip(asked, found.tolist(), strict=True):
        assert not address.startswith(MAPPED) or plain.get(address, 0) == number
    known = [a for a, number in plain.items() if number and a.startswith(MAPPED)]
    pages = len({address[:15] for address in known})
    assert empty * (1 + pages) == rows.nbytes()


def packed(addresses: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(addresses), dtype=ADDRESS)
