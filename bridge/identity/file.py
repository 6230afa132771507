"""The static identity file: who has which address, for hosts without Kubernetes and tests.

JSON or YAML, told by the suffix, plain or compressed with gzip or xz. The schema is the
classes below; unknown keys are refused. A recording's world is such a file, with the
clock and uuid rule of the recording besides. What is validated here is handed on as plain
data for ``parsers.world``, which finds nothing wrong with it any more.
"""

from __future__ import annotations

import lzma
import zlib
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from bridge.os_errors import reason_of
from bridge.recording import open_decompressed
from parsers.addresses import parse_address
from parsers.errors import UsageError

U16 = Annotated[int, Meta(ge=0, lt=1 << 16)]
U32 = Annotated[int, Meta(ge=0, lt=1 << 32)]
U64 = Annotated[int, Meta(ge=0)]
Labels = list[str] | None


class _Record(Struct, forbid_unknown_fields=True, kw_only=True):
    pass


def _check_address(key: str, text: str) -> None:
    # A ValueError of ``__post_init__`` is told by msgspec with the place in the file.
    if parse_address(text) is None:
        raise ValueError(f"{key} '{text}' is not an ip address")


class NodeRecord(_Record):
    """This node; ``labels`` are ``key=value`` and go with every flow."""

    name: str = ""
    cluster: str = ""
    labels: Labels = None
    ipv4: str = ""
    ipv6: str = ""


class IdentityRecord(_Record):
    """A security identity and its labels, ``source:key=value``."""

    id: U32
    labels: Labels = None


class WorkloadRecord(_Record):
    """The owner of a pod as people know it."""

    kind: str
    name: str


class PolicyRecord(_Record):
    """An entry of an endpoint's policy map; zero identity, protocol or port means any.

    ``rules`` are the label sets of the rules behind it.
    """

    direction: Literal["ingress", "egress"]
    identity: U32 = 0
    proto: Annotated[int, Meta(ge=0, lt=256)] = 0
    port: U16 = 0
    rules: list[list[str]] | None = None
    log: Labels = None
    revision: U64 = 0
    deny: bool = False


class EndpointRecord(_Record):
    """A pod, or the host, on this node. ``pod_meta`` is accepted and not read."""

    id: U16
    ipv4: str = ""
    ipv6: str = ""
    identity: U32 = 0
    namespace: str = ""
    pod: str = ""
    labels: Labels = None
    workload: WorkloadRecord | None = None
    policy: list[PolicyRecord] | None = None
    pod_meta: Any = None

    def __post_init__(self) -> None:
        for key, text in (("ipv4", self.ipv4), ("ipv6", self.ipv6)):
            if text:
                _check_address(key, text)


class AddressPrefix(_Record):
    """Who is behind a prefix; pod and namespace count for single addresses only."""

    cidr: str
    identity: U32 = 0
    namespace: str = ""
    pod: str = ""

    def __post_init__(self) -> None:
        try:
            ip_network(self.cidr, strict=False)
        except ValueError:
            raise ValueError(
                f"cidr '{self.cidr}' is not a prefix, such as 10.0.0.0/8 or 10.0.1.7/32"
            ) from None


class ServiceRecord(_Record):
    """A frontend, whatever the protocol."""

    ip: str
    port: U16
    name: str
    namespace: str = ""

    def __post_init__(self) -> None:
        _check_address("ip", self.ip)


class NamesRecord(_Record):
    """Names by which an endpoint asked for an address."""

    endpoint: U32
    ip: str
    names: list[str]

    def __post_init__(self) -> None:
        _check_address("ip", self.ip)


class LinkRecord(_Record):
    """A network interface."""

    index: U32
    name: str


class CgroupRecord(_Record):
    """The pod of a control group, for socket traces."""

    id: U64
    namespace: str = ""
    pod: str = ""
    ips: Labels = None


class World(_Record):
    """The whole file; everything is optional.

    ``release``, ``base_time``, ``step_ns`` and ``uuid_prefix`` belong to a recording:
    payload i was read at ``base_time`` + i * ``step_ns``.
    """

    node: NodeRecord | None = None
    identities: list[IdentityRecord] | None = None
    endpoints: list[EndpointRecord] | None = None
    ips: list[AddressPrefix] | None = None
    services: list[ServiceRecord] | None = None
    dns: list[NamesRecord] | None = None
    links: list[LinkRecord] | None = None
    cgroups: list[CgroupRecord] | None = None
    release: str = ""
    base_time: str = ""
    step_ns: Annotated[int, Meta(ge=0, lt=1 << 40)] = 0
    uuid_prefix: str = ""

    def __post_init__(self) -> None:
        if not self.base_time:
            return
        try:
            known = 1970 <= datetime.fromisoformat(self.base_time).year < 2200  # ns fit int64
        except ValueError:
            known = False
        if not known:
            raise ValueError(
                f"base_time '{self.base_time}' is not a time, such as 2026-01-31T12:00:00Z"
            )


def load_identity_file(path: Path) -> dict[str, Any]:
    """The file as plain data, validated; ``UsageError`` names the place that is wrong."""
    try:
        with open_decompressed(path) as file:
            raw = file.read()
    except OSError as error:
        raise UsageError(
            f"cannot read identity file {path}: {reason_of(error)}; name a file that can be read"
        ) from None
    except (EOFError, lzma.LZMAError, zlib.error):
        raise UsageError(
            f"identity file {path}: its compressed data is damaged; copy it again"
        ) from None
    plain = path.with_suffix("") if path.suffix in {".gz", ".xz"} else path
    return parse_identity(raw, str(path), yaml=plain.suffix in {".yaml", ".yml"})


def parse_identity(raw: bytes, name: str, *, yaml: bool = False) -> dict[str, Any]:
    """As ``load_identity_file``, of bytes called ``name``."""
    try:
        plain = msgspec.yaml.decode(raw) if yaml else msgspec.json.decode(raw)
        msgspec.convert(plain, World)
    except msgspec.MsgspecError as error:
        raise UsageError(f"identity file {name}: {_plain(error)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"identity file {name}: it is no UTF-8 text ({error.reason}); save it as UTF-8"
        ) from None
    found: dict[str, Any] = plain
    return found


def _plain(error: msgspec.MsgspecError) -> str:
    text = str(error)
    return text if text.startswith("JSON") else text[:1].lower() + text[1:]
