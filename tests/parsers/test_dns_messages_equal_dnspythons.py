"""Messages read by us and by dnspython. Of any bytes, nothing but ``ProtocolError`` is raised."""

from __future__ import annotations

import ipaddress
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.dns_message import DnsMessage, parse_message, read_name
from parsers.errors import ProtocolError

LABELS = st.binary(min_size=1, max_size=63)
NAMES = st.lists(LABELS, min_size=0, max_size=6).filter(
    lambda labels: sum(map(len, labels)) + len(labels) < 255
)
ADDRESSES = st.one_of(
    st.tuples(st.just("A"), st.ip_addresses(v=4).map(str)),
    st.tuples(st.just("AAAA"), st.ip_addresses(v=6).map(str)),
    st.tuples(st.just("TXT"), st.just('"text of no matter"')),
    st.tuples(st.just("MX"), st.just("10 mail.example.org.")),
    st.tuples(st.just("CNAME"), st.just("other.example.org.")),
)


def name_of(labels: list[bytes]) -> dns.name.Name:
    return dns.name.Name([*labels, b""])


@st.composite
def messages(draw: st.DrawFn) -> dns.message.Message:
    """A query or its answer, compressed as dnspython does."""
    qname = name_of(draw(NAMES))
    query = dns.message.make_query(
        qname, draw(st.sampled_from(["A", "AAAA", "HTTPS", "ANY"])), use_edns=draw(st.booleans())
    )
    if draw(st.booleans()):
        return query
    answer = dns.message.make_response(query)
    answer.set_rcode(dns.rcode.Rcode(draw(st.sampled_from([0, 2, 3, 5, 9]))))
    if query.edns >= 0 and draw(st.booleans()):
        answer.set_rcode(dns.rcode.BADVERS)
    for type_, text in draw(st.lists(ADDRESSES, max_size=8)):
        owner = draw(st.sampled_from([qname, name_of([b"www", *qname.labels[:-1]][-6:])]))
        answer.answer.append(
            dns.rrset.from_text(owner, draw(st.integers(0, 2**31 - 1)), "IN", type_, text)
        )
    return answer


def shown(text: bytes) -> dns.name.Name:
    """What our text of a name means to dnspython."""
    return dns.name.from_text(text.decode())


def records(message: dns.message.Message) -> list[tuple[Any, int]]:
    return [(rdata, rrset.ttl) for rrset in message.answer for rdata in rrset]


def assert_equal(expected: dns.message.Message, read: DnsMessage) -> None:
    assert expected.id == read.id
    assert bool(expected.flags & dns.flags.QR) == read.is_response
    assert expected.rcode() == read.rcode
    assert [(q.name, q.rdtype) for q in expected.question] == [
        (shown(name), type_) for name, type_ in read.queries
    ]
    of_type: dict[str, list[Any]] = {"A": [], "AAAA": [], "CNAME": []}
    ttls = []
    for rdata, ttl in records(expected):
        type_ = dns.rdatatype.to_text(rdata.rdtype)
        if type_ in of_type:
            of_type[type_].append(rdata)
            ttls.append(ttl)
    told = [ipaddress.ip_address(rdata.address) for rdata in of_type["A"] + of_type["AAAA"]]
    assert sorted(address.packed for address in told) == sorted(read.addresses)
    assert [rdata.target for rdata in of_type["CNAME"]] == list(map(shown, read.cnames))
    assert sorted(rdata.rdtype for rdata, _ in records(expected)) == sorted(read.types)
    assert read.ttl == min(ttls, default=0)
    assert read.whole


@settings(deadline=None)
@given(messages())
def test_what_dnspython_writes_we_read_alike(message: dns.message.Message) -> None:
    wire = message.to_wire(max_size=65535)
    # dnspython joins records of one set and one TTL, so its own reading is what to compare with
    assert_equal(dns.message.from_wire(wire, one_rr_per_rrset=True), parse_message(wire))


@settings(deadline=None)
@given(messages(), st.data())
def test_a_message_that_was_cut_gives_what_was_there(
    message: dns.message.Message, data: st.DataObject
) -> None:
    wire = message.to_wire(max_size=65535)
    whole = parse_message(wire)
    end = data.draw(st.integers(0, len(wire)))
    try:
        read = parse_message(wire[:end], cut=True)
    except ProtocolError:
        question = len(message.question[0].name.to_wire() or b"") + 4
        assert end < 12 + question
        return
    assert whole.queries == read.queries
    assert whole.types[: len(read.types)] == read.types
    assert whole.cnames[: len(read.cnames)] == read.cnames
    assert whole.addresses[: len(read.addresses)] == read.addresses
    if end < len(wire):
        with_all = read.types == whole.types
        assert with_all or not read.whole


@settings(deadline=None)
@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_give_a_message_or_a_protocol_error(data: bytes, cut: bool) -> None:
    try:
        read = parse_message(data, cut=cut)
    except ProtocolError:
        return
    assert len(read.types) <= len(data)


@settings(deadline=None)
@given(messages(), st.data())
def test_a_changed_message_is_read_as_dnspython_reads_it_or_refused(
    message: dns.message.Message, data: st.DataObject
) -> None:
    wire = bytearray(message.to_wire(max_size=65535))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = parse_message(bytes(wire))
    except ProtocolError:
        return
    try:
        expected = dns.message.from_wire(bytes(wire), one_rr_per_rrset=True, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return  # it knows more types than we do, and their rules
    if expected.opcode() == 0 and all(q.rdclass == 1 for q in expected.question):
        questions = [(q.name, q.rdtype) for q in expected.question]
        assert questions == [(shown(name), type_) for name, type_ in read.queries]


HEADER = bytes.fromhex("1234 8180 0001 0001 0000 0000".replace(" ", ""))
QUESTION = b"\3www\4shop\4test\0" + bytes.fromhex("00010001")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "has 0 bytes"),
        (HEADER[:11], "has 11 bytes"),
        (HEADER, "claims 1 questions"),
        (HEADER + b"\3www\4shop", "ends before"),
        (HEADER + b"\xc0\x0c" + QUESTION, "points forward"),
        (HEADER + b"\xc0\xff" + QUESTION, "points forward"),
        (HEADER + b"\x40abc" + QUESTION, "unknown type 1"),
        (HEADER + b"\x3f" + bytes(63) + (b"\x3f" + bytes(63)) * 4 + b"\0" + bytes(4), "255 bytes"),
        (
            HEADER + QUESTION + b"\xc0\x0c" + bytes.fromhex("0001000100000005000301020304"),
            "3 bytes",
        ),
        (
            HEADER + QUESTION + b"\xc0\x0c" + bytes.fromhex("001c000100000005000401020304"),
            "4 bytes",
        ),
        (HEADER + QUESTION + b"\xc0\x0c" + bytes.fromhex("0005000100000005000401010000"), "fill"),
        (HEADER + QUESTION + b"\xc0\x0c" + bytes.fromhex("000100010000000500ff"), "ends before"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        parse_message(data)


def test_a_chain_of_pointers_is_not_followed_for_long() -> None:
    targets = [0, *range(3, 3 + 2 * 40, 2)]
    data = b"\1a\0" + b"".join((0xC000 | target).to_bytes(2, "big") for target in targets)
    assert read_name(data, targets[10]) == (b"a.", targets[10] + 2)
    with pytest.raises(ProtocolError, match="pointers"):
        read_name(data, targets[40])


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (b"www", b"www."),
        (b"a.b", rb"a\.b."),
        (b'"q"', rb"\"q\"."),
        (b"a b", rb"a\ b."),
        (b"\0\xff", rb"\000\255."),
        ("\u00fc".encode(), rb"\195\188."),
    ],
)
def test_names_are_text_as_go_libraries_write_it(label: bytes, text: bytes) -> None:
    question = bytes([len(label)]) + label + b"\0" + bytes.fromhex("00010001")
    read = parse_message(bytes.fromhex("123401000001000000000000") + question)
    assert read.queries == ((text, 1),)


def test_the_root_is_a_dot() -> None:
    read = parse_message(bytes.fromhex("123401000001000000000000") + b"\0" + bytes(4))
    assert read.queries == ((b".", 0),)
