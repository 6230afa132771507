"""What only Cilium's agent knows, asked of its own socket: prefixes, identities, cgroups, policies.

Kubernetes' objects have no identities of prefixes and names outside the cluster (they are
valid on one node only), no cgroups, and not which rules were realised for an endpoint. Asking is
opt-in, since the socket that answers takes orders, too: whoever may connect to it may change the
agent. We send GET and nothing else.

A single address is told as a prefix: whom Kubernetes says to have it goes before, and has it still
when Cilium no longer tells of it.

Answers are snapshots, so each replaces the one before. One of some megabytes holds the event
loop for as many times 3 ms; that is why single addresses of pods, which are most of the
ipcache, are left to Kubernetes.

Source: the agent's OpenAPI description (``api/v1/openapi.yaml``, Cilium 1.14 to 1.19).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio
from msgspec import Struct

from bridge.cilium.policies import Endpoint, Selector, policies_of
from bridge.http_client import Connection, ServerAwayError
from bridge.kubernetes.objects import Number
from bridge.os_errors import reason_of
from parsers.addresses import first_of_each_family, is_prefix
from parsers.agent_events import AgentEvent, EndpointRegenerate, EndpointUpdate, PolicyUpdate
from parsers.directory import AddressRecord, Directory
from parsers.errors import UsageError

INTERVAL: Final = 30.0  # s between two questions
_SOON: Final = 1.0  # s after something changed
_LARGEST: Final = 64 << 20  # bytes of an answer
_OWN_SCOPE: Final = 1 << 24  # identities from here on are valid on one node only
_PIECE: Final = 50  # prefixes told between two checkpoints, at 40 µs each
_OK = 200

T = TypeVar("T")


class _Identity(Struct, frozen=True):
    id: Number
    labels: tuple[str, ...] | None = None


class _Prefix(Struct, frozen=True):
    cidr: str
    identity: Number = 0


class _Container(Struct, frozen=True):
    cgroup_id: int = msgspec.field(default=0, name="cgroup-id")


class _Pod(Struct, frozen=True):
    ips: tuple[str, ...] | None = None
    containers: tuple[_Container, ...] | None = None


class _Cgroups(Struct, frozen=True):
    pods: tuple[_Pod, ...] | None = msgspec.field(default=None, name="pod-metadatas")


_identities: Final = msgspec.json.Decoder(list[_Identity]).decode
_prefixes: Final = msgspec.json.Decoder(list[_Prefix]).decode
_cgroups: Final = msgspec.json.Decoder(_Cgroups).decode
_selectors: Final = msgspec.json.Decoder(list[Selector]).decode
_endpoints: Final = msgspec.json.Decoder(list[Endpoint]).decode


class CiliumApi:
    """Tells ``directory`` what the agent at ``path`` says, for as long as it runs."""

    def __init__(self, path: Path, directory: Directory) -> None:
        self._path = path
        self._directory = directory
        self._identities: frozenset[int] = frozenset()
        self._prefixes: dict[str, int] = {}
        self._changed = trio.Event()

    def observe(self, event: AgentEvent) -> None:
        """The agent tells of a change: of policies or endpoints everything is asked for soon."""
        if isinstance(event.notification, PolicyUpdate | EndpointRegenerate | EndpointUpdate):
            self._changed.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Ask now and then, and after changes.

        ``UsageError`` when there is nobody to ask, or no right to.
        """
        while True:
            self._changed = trio.Event()
            await self.ask()
            ready()
            await trio.sleep(_SOON)  # endpoints follow one another
            with trio.move_on_after(INTERVAL - _SOON):
                await self._changed.wait()

    async def ask(self) -> None:
        """Once."""
        async with await _connect(self._path) as stream:
            connection = Connection(stream, "localhost")
            identities = await _get(connection, "/v1/identity", _identities)
            prefixes = await _get(connection, "/v1/ip", _prefixes)
            cgroups = await _get(connection, "/v1/cgroup-dump-metadata", _cgroups)
            await self._tell_addresses(identities, prefixes, cgroups)
            selectors = await _get(connection, "/v1/policy/selectors", _selectors)
            endpoints = await _get(connection, "/v1/endpoint", _endpoints)
        policies = {}
        for number, rules in policies_of(endpoints, selectors):
            policies[number] = rules
            await trio.lowlevel.checkpoint()
        self._directory.set_policies(policies)

    async def _tell_addresses(
        self, identities: Iterable[_Identity], prefixes: Iterable[_Prefix], cgroups: _Cgroups
    ) -> None:
        labels = {i.id: tuple(i.labels or ()) for i in identities if i.id >= _OWN_SCOPE}
        for number in self._identities - labels.keys():
            self._directory.forget_identity(number)
        self._identities = frozenset(labels)
        self._directory.set_identities(labels)
        own = (each for each in prefixes if each.identity >= _OWN_SCOPE)
        await self._replace({each.cidr: each.identity for each in own if is_prefix(each.cidr)})
        self._directory.set_cgroups(
            {
                container.cgroup_id: first_of_each_family(pod.ips or ())
                for pod in cgroups.pods or ()
                for container in pod.containers or ()
            }
        )

    async def _replace(self, prefixes: dict[str, int]) -> None:
        before, known = self._prefixes, self._directory
        changes = [*(before.items() - prefixes.items()), *(prefixes.items() - before.items())]
        for done, (cidr, identity) in enumerate(changes):
            if prefixes.get(cidr) == identity:
                known.set_prefix(cidr, AddressRecord(identity))
                before[cidr] = identity
            elif cidr not in prefixes:
                known.set_prefix(cidr, None)
                del before[cidr]
            if done % _PIECE == 0:
                await trio.lowlevel.checkpoint()


async def _connect(path: Path) -> trio.SocketStream:
    try:
        return await trio.open_unix_socket(path)
    except OSError as error:
        raise UsageError(
            f"cannot connect to {path}: {reason_of(error)}; is Cilium's agent running, its "
            "directory mounted, and are we in the socket's group?"
        ) from None


async def _get(connection: Connection, target: str, decode: Callable[[bytearray], T]) -> T:
    head = await connection.get(target, {"Accept": "application/json"})
    body = await connection.read_all(_LARGEST)
    if head.status != _OK:
        raise ServerAwayError(f"GET {target}: {head.status} {bytes(body[:200])!r}")
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ServerAwayError(f"GET {target}: {error}") from None
