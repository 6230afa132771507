"""What objects other than a pod's own say of it: Cilium's, and endpoint slices."""

from __future__ import annotations

from typing import NamedTuple

from bridge.kubernetes.objects import (
    CiliumEndpoint,
    CiliumEndpointSlice,
    CiliumIdentity,
    EndpointNetworking,
    EndpointSlice,
    Key,
)
from bridge.kubernetes.pods import addresses_of, label_text


class EndpointFacts(NamedTuple):
    """What Cilium says of a pod; 0 and empty for what it does not."""

    id: int
    identity: int
    labels: tuple[str, ...]
    addresses: tuple[bytes, ...]
    node: tuple[bytes, ...]


def endpoint_facts(endpoint: CiliumEndpoint) -> EndpointFacts | None:
    """Of an endpoint's own object; None for one that has no status yet."""
    status = endpoint.status
    if status is None:
        return None
    number, labels = 0, ()  # type: int, tuple[str, ...]
    if status.identity is not None:
        number, labels = status.identity.id, tuple(sorted(status.identity.labels or ()))
    return EndpointFacts(status.id, number, labels, *_networking(status.networking))


def slice_facts(each: CiliumEndpointSlice) -> dict[Key, EndpointFacts]:
    """Of the endpoints in a slice, whose numbers are those of identities."""
    return {
        (each.namespace, member.name): EndpointFacts(
            0, member.id, (), *_networking(member.networking)
        )
        for member in each.endpoints or ()
    }


def identity_labels(identity: CiliumIdentity) -> tuple[int, tuple[str, ...]]:
    """A number and its labels; 0 for a name that is no number."""
    texts = (
        label_text(source, key, value)
        for text, value in (identity.security_labels or {}).items()
        for source, _, key in [text.partition(":")]
    )
    return number_of(identity.metadata.name), tuple(sorted(texts))


def number_of(name: str) -> int:
    """The number that a CiliumIdentity stands for; 0 for a name that is none."""
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else 0


def backends_of(each: EndpointSlice) -> dict[Key, tuple[bytes, ...]]:
    """The addresses of the pods in a slice: of its own namespace, as nobody of another one may say
    where they are.
    """
    namespace = each.metadata.namespace
    return {
        (namespace, point.target_ref.name): addresses
        for point in each.endpoints or ()
        if point.target_ref is not None and point.target_ref.kind == "Pod"
        if point.target_ref.namespace in {"", namespace}
        if (addresses := addresses_of(*(point.addresses or ())))
    }


def _networking(
    networking: EndpointNetworking | None,
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Addresses of an endpoint, and of its node."""
    if networking is None:
        return (), ()
    pairs = networking.addressing or ()
    addresses = addresses_of(*(text for pair in pairs for text in (pair.ipv4, pair.ipv6)))
    return addresses, addresses_of(networking.node)
