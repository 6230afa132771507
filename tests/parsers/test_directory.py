"""The directory names an address by who had it at the time, or says why it cannot."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parsers.address_table import ADDRESS
from parsers.addresses import parse_address
from parsers.details import Service
from parsers.directory import (
    EXPIRED,
    KNOWN,
    NOT_SYNCED,
    UNKNOWN_ADDRESS,
    AddressRecord,
    Directory,
    LocalEndpoint,
    shown_labels,
)
from parsers.entities import Entity, Workload


def packed(text: str) -> bytes:
    address = parse_address(text)
    assert address is not None
    return address


POD, NEXT_POD = (
    LocalEndpoint(
        id=number,
        identity=1000 + number,
        namespace="shop",
        pod_name=f"cart-{number}",
        labels=("k8s:app=cart", "k8s:io.cilium.k8s.policy.cluster=blue"),
        workloads=(Workload("cart", "Deployment"),),
    )
    for number in (7, 8)
)
HERE = packed("10.0.0.1")


def asked(address: bytes, time: int) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(address, dtype=ADDRESS), np.array([time], dtype=np.int64)


def valid_between(directory: Directory, time: int) -> tuple[int, int]:
    """Since and until when the answer for ``HERE`` holds."""
    found = directory.at(*asked(HERE, time))
    return int(found.since[0]), int(found.until[0])


def around(directory: Directory, address: str) -> int:
    """The identity of the longest prefix around an address."""
    return directory.entity(packed(address), 0, 0).identity


def services_at(directory: Directory, address: bytes, time: int) -> dict[int, Service]:
    """What is served at an address, by port."""
    (row,) = directory.at(*asked(address, time)).frontends
    return dict(directory.frontends[int(row)].by_port)


def test_a_local_endpoint_knows_itself_and_the_datapaths_identity_wins() -> None:
    directory = Directory()
    directory.set_endpoint(POD, (HERE,))
    own = directory.entity(HERE, 0, 5)
    assert own == Entity(7, 1007, "shop", "cart-7", POD.labels, POD.workloads, "blue")
    assert directory.entity(HERE, 42, 5).identity == 42


def test_an_address_that_changed_hands_is_named_by_its_owner_of_the_time() -> None:
    directory = Directory()
    directory.set_endpoint(POD, (HERE,), since=10)
    directory.set_endpoint(None, (HERE,), since=20, endpoint_id=7)
    directory.set_endpoint(NEXT_POD, (HERE,), since=30)
    names = [directory.entity(HERE, 0, time).pod_name for time in (9, 10, 19, 20, 29, 30, 99)]
    assert names == ["", "cart-7", "cart-7", "", "", "cart-8", "cart-8"]
    assert directory.endpoint_by_id(7, 15) == POD
    assert directory.endpoint_by_id(7, 25) is None
    assert valid_between(directory, 15) == (10, 20)
    assert valid_between(directory, 5) == (-(2**63), 10)


def test_reasons_tell_unknown_from_not_yet_and_no_longer() -> None:
    directory = Directory(synced=False)
    assert directory.reason(HERE, 15) == NOT_SYNCED
    directory.synced = True
    assert directory.reason(HERE, 15) == UNKNOWN_ADDRESS
    assert directory.reason(None, 15) == UNKNOWN_ADDRESS
    directory.set_endpoint(POD, (HERE,), since=10)
    directory.set_endpoint(None, (HERE,), since=20, endpoint_id=7)
    assert [directory.reason(HERE, t) for t in (5, 15, 25)] == [UNKNOWN_ADDRESS, KNOWN, EXPIRED]
    directory.set_address("10.0.0.0/24", AddressRecord(2))
    assert directory.reason(HERE, 25) == KNOWN


def test_only_single_addresses_name_a_pod() -> None:
    directory = Directory()
    directory.set_address("10.1.0.0/16", AddressRecord(2, "never", "shown"))
    directory.set_address("10.1.2.3/32", AddressRecord(1009, "shop", "cart-9"))
    directory.set_identities({2: ("reserved:world",), 1009: ("k8s:app=cart",)})
    inside, single = (directory.entity(packed(a), 0, 0) for a in ("10.1.2.4", "10.1.2.3"))
    assert inside == Entity(identity=2, labels=("reserved:world",))
    assert single == Entity(
        identity=1009, namespace="shop", pod_name="cart-9", labels=("k8s:app=cart",)
    )


v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
v6 = st.integers(0, 2**128 - 1).map(IPv6Address)
prefixes = st.one_of(st.tuples(v4, st.integers(0, 32)), st.tuples(v6, st.integers(0, 128))).map(
    lambda pair: ip_network(f"{pair[0]}/{pair[1]}", strict=False)
)


@settings(deadline=None)
@given(networks=st.lists(prefixes, max_size=8, unique=True), data=st.data())
def test_the_longest_prefix_wins(
    networks: list[IPv4Network | IPv6Network], data: st.DataObject
) -> None:
    directory = Directory()
    for number, network in enumerate(networks, start=1):
        directory.set_address(str(network), AddressRecord(number))
    pool = [st.sampled_from([n[0], n[-1]]) for n in networks] or [v4]
    address = data.draw(st.one_of(v4, v6, *pool))
    assume(int(address) or address.version == 4)  # nobody has the unspecified one
    # Such an address is the IPv4 one here, and in no IPv6 prefix.
    assume(not (isinstance(address, IPv6Address) and address.ipv4_mapped))
    containing = [(n.prefixlen, i) for i, n in enumerate(networks, start=1) if address in n]
    assert around(directory, str(address)) == max(containing, default=(0, 0))[1]


def test_a_prefix_that_is_taken_back_is_unknown() -> None:
    directory = Directory()
    directory.set_address("10.0.0.0/8", AddressRecord(2))
    directory.set_address("10.0.0.0/8", None)
    assert around(directory, "10.0.0.1") == 0
    assert directory.reason(HERE, 0) == UNKNOWN_ADDRESS


def test_services_names_links_and_cgroups_are_found_by_key() -> None:
    directory = Directory()
    directory.set_services({(HERE, 80): Service("web", "shop")})
    directory.set_names({(7, HERE): ("web.shop",)})
    directory.set_links({2: "eth0"})
    directory.set_cgroups({99: (HERE,)})
    assert services_at(directory, HERE, 0) == {80: Service("web", "shop")}
    assert services_at(directory, packed("10.0.0.2"), 0) == {}
    assert directory.names_of(7, HERE) == ("web.shop",)
    assert directory.names_of(8, HERE) == directory.names_of(7, None) == ()
    assert (directory.link_name(2), directory.link_name(3)) == ("eth0", "")
    assert (directory.pod_addresses(99), directory.pod_addresses(1)) == ((HERE,), ())


def test_of_nested_cidr_labels_of_a_local_identity_only_the_longest_is_shown() -> None:
    labels = ("reserved:world", "cidr:10.0.0.0/8", "cidr:10.1.0.0/16", "cidr:0.0.0.0/0")
    local = 0x01000001
    assert shown_labels(labels, local) == ("cidr:10.1.0.0/16", "reserved:world")
    assert shown_labels(labels, 2) == tuple(sorted(labels))
    assert shown_labels(("cidr:fd00--/8", "cidr:fd00-1--/32"), local) == ("cidr:fd00-1--/32",)


def test_addresses_are_16_bytes() -> None:
    assert packed("10.0.0.1") == bytes(10) + b"\xff\xff" + ip_address("10.0.0.1").packed
    assert packed("fd00::1") == ip_address("fd00::1").packed
    assert parse_address("pod-7") is None
