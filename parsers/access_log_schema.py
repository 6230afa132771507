"""Cilium's ``LogRecord``: the fields of an access log, by the names its releases give them.

Fields that nothing is made of are here too, as Hubble refuses a record in which one of them
has another type. Source: cilium pkg/proxy/accesslog, 1.14 to 1.20.
"""

from __future__ import annotations

from typing import Any

from parsers.go_text import text
from parsers.go_url import accepts_url
from parsers.gob_schema import (
    Bytes,
    Dict,
    Either,
    Kept,
    List,
    Marshalled,
    Repeated,
    Signed,
    Struct,
    Text,
    Unsigned,
)  # fmt: skip


def _accepts_address(address: bytes) -> bool:
    return len(address) in (0, 4) or len(address) >= 16


def _endpoint_labels(shaped: tuple[int, list[Any]]) -> tuple[tuple[str, ...], str]:
    """Sorted labels, and the cluster's name if a label says it."""
    shape, found = shaped
    if shape == 0:
        labels = [text(label) for label in found]
    else:
        labels = [
            f"{text(source)}:{text(key)}" + (f"={text(value)}" if value else "")
            for key, value, source, _ in found
        ]
    prefix = "k8s:io.cilium.k8s.policy.cluster="
    cluster = next((x[len(prefix) :] for x in labels if x.startswith(prefix)), "")
    return tuple(sorted(labels)), cluster


_LABEL = Struct({"Key": Text(), "Value": Text(), "Source": Text()})
ENDPOINT = Struct(
    {
        "ID": Unsigned(64),
        "IPv4": Text(),
        "IPv6": Text(),
        "Port": Unsigned(16),
        "Identity": Unsigned(64),
        "Labels": Repeated(Either(List(Text()), List(_LABEL)), _endpoint_labels),
    }
)
_HEADERS = Dict(List(Text()))
PARTS = {
    "HTTP": Kept(
        Struct(
            {
                "Code": Signed(64), "Method": Text(), "URL": Marshalled(accepts_url),
                "Protocol": Text(), "Headers": _HEADERS, "MissingHeaders": _HEADERS,
                "RejectedHeaders": _HEADERS,
            }
        )
    ),
    "Kafka": Kept(
        Struct(
            {
                "ErrorCode": Signed(64), "APIVersion": Signed(16), "APIKey": Text(),
                "CorrelationID": Signed(32), "Topic": Struct({"Topic": Text()}),
            }
        )
    ),
    "DNS": Kept(
        Struct(
            {
                "Query": Text(), "IPs": Either(List(Bytes()), List(Marshalled(_accepts_address))),
                "TTL": Unsigned(32), "CNAMEs": List(Text()), "ObservationSource": Text(),
                "RCode": Signed(64), "QTypes": List(Unsigned(16)),
                "AnswerTypes": List(Unsigned(16)),
            }
        )
    ),
    "L7": Kept(Struct({"Proto": Text(), "Fields": Dict(Text())})),
}  # fmt: skip
RECORD = Struct(
    {
        "Type": Text(),
        "Timestamp": Text(),
        "ObservationPoint": Text(),
        "SourceEndpoint": ENDPOINT,
        "DestinationEndpoint": ENDPOINT,
        "IPVersion": Unsigned(8),
        "Verdict": Text(),
        "TransportProtocol": Unsigned(16),
        **PARTS,
        # Not shown, but wrong ones make a record a wrong one.
        "NodeAddressInfo": Struct({"IPv4": Text(), "IPv6": Text()}),
        "Info": Text(),
        "Metadata": List(Text()),
        "FlowEvent": Text(),
        "ServiceInfo": Struct(
            {"Name": Text(), "IPPort": Struct({"IP": Text(), "Port": Unsigned(16)})}, optional=True
        ),
        "DropReason": Unsigned(16),
    }
)
"""Values come in this order; the parts are None when absent."""
