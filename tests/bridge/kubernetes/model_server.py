"""An API server in memory: versions, pages, watches, compaction, and faults on request.

It is a model of what Kubernetes documents (API concepts), over the wire format of HTTP/1.1;
the same behaviour is asked of a real server in tests/cluster.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h11
import trio
import trio.testing

from bridge.http_client import ServerAwayError
from bridge.kubernetes.credentials import Access

PODS = "/api/v1/pods"
IDENTITIES = "/apis/cilium.io/v2/ciliumidentities"
CILIUM = "/apis/cilium.io/v2"

Json = dict[str, Any]


def pod(name: str, address: str = "", **labels: str) -> Json:
    return {
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: when it came (s), and what it was."""

    at: float
    path: str
    query: Mapping[str, str]
    authorization: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A scripted answer: a status with headers and a body, of which it may send a part only."""

    status: int
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()
    then_cut: bool = False


@dataclass(slots=True)
class _Event:
    version: int
    path: str
    type: str
    object: Json


@dataclass(slots=True)
class ModelServer:
    """``answers`` by path are used up, first to last, before it answers as it should."""

    nursery: trio.Nursery
    away: bool = False
    silent: bool = False  # takes connections and says nothing on them, nor on those it has
    bookmarks: bool = True
    gone_as_event: bool = False
    cut_inside_object: bool = False  # the next event, once
    tokens: set[str] = field(default_factory=lambda: {"Bearer good"})
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    resources: dict[str, list[str]] = field(default_factory=dict)
    version: int = 100
    compacted: int = 0
    _objects: dict[str, dict[tuple[str, str], Json]] = field(default_factory=dict)
    _log: list[_Event] = field(default_factory=list)
    _snapshots: dict[str, tuple[int, list[Json]]] = field(default_factory=dict)
    _changed: trio.Event = field(default_factory=trio.Event)
    _streams: set[trio.abc.Stream] = field(default_factory=set)

    def access(self, tokens: list[str] | None = None) -> Access:
        """Logs in with ``tokens``, one after another as they are refused."""
        left = tokens if tokens is not None else ["Bearer good"]

        async def authorization(renew: bool) -> str:
            if renew and len(left) > 1:
                del left[0]
            return left[0]

        return Access("model:443", self._dial, authorization)

    def objects(self, path: str) -> dict[tuple[str, str], Json]:
        return self._objects.setdefault(path, {})

    def put(self, path: str, thing: Json) -> None:
        self.version += 1
        thing = json.loads(json.dumps(thing))
        meta = thing["metadata"]
        meta["resourceVersion"] = str(self.version)
        key = (meta.get("namespace", ""), meta["name"])
        kind = "MODIFIED" if key in self.objects(path) else "ADDED"
        self.objects(path)[key] = thing
        self._happens(path, kind, thing)

    def delete(self, path: str, key: tuple[str, str]) -> None:
        self.version += 1
        thing = self.objects(path).pop(key)
        thing = {**thing, "metadata": {**thing["metadata"], "resourceVersion": str(self.version)}}
        self._happens(path, "DELETED", thing)

    def compact(self) -> None:
        """Forget all that happened: versions before now are gone, tokens of pages too."""
        self.version += 1
        self.compacted = self.version
        self._log.clear()
        self._snapshots.clear()

    async def cut(self) -> None:
        """Break all connections."""
        for stream in list(self._streams):
            await trio.aclose_forcefully(stream)

    def requests(self, path: str, *, watch: bool | None = None) -> list[Asked]:
        return [
            asked
            for asked in self.asked
            if asked.path == path and (watch is None or watch == ("watch" in asked.query))
        ]

    def _happens(self, path: str, kind: str, thing: Json) -> None:
        self._log.append(_Event(self.version, path, kind, thing))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _dial(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise ServerAwayError("connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self._streams.add(stream)
        connection = h11.Connection(h11.SERVER)
        if self.silent:
            await trio.sleep_forever()
        try:
            while await self._serve_one(stream, connection):
                connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._streams.discard(stream)
            await trio.aclose_forcefully(stream)

    async def _serve_one(self, stream: trio.abc.Stream, connection: h11.Connection) -> bool:
        request = None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        headers = {name.decode(): value.decode() for name, value in request.headers}
        parts = urlsplit(request.target.decode())
        query = {key: value[0] for key, value in parse_qs(parts.query).items()}
        asked = Asked(trio.current_time(), parts.path, query, headers.get("authorization", ""))
        self.asked.append(asked)
        if "watch" in query and not self.answers.get(parts.path):
            version = int(query["resourceVersion"])
            if asked.authorization in self.tokens and (
                version >= self.compacted or self.gone_as_event
            ):
                return await self._watch(stream, connection, asked, version)
        answer = self._answer(asked)
        if "gzip" in headers.get("accept-encoding", "") and not answer.headers:
            coded = (("Content-Encoding", "gzip"),)
            answer = replace(answer, body=gzip.compress(answer.body), headers=coded)
        await stream.send_all(
            (connection.send(_response(answer.status, answer.headers)) or b"")
            + (connection.send(h11.Data(data=answer.body)) or b"")
        )
        if answer.then_cut:
            return False
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
        return True

    def _answer(self, asked: Asked) -> Answer:
        if asked.authorization not in self.tokens:
            return _status(401, "Unauthorized")
        if scripted := self.answers.get(asked.path):
            return scripted.pop(0)
        if asked.path in self.resources:
            names = [{"name": name} for name in self.resources[asked.path]]
            return Answer(200, json.dumps({"resources": names}).encode())
        group, _, plural = asked.path.rpartition("/")
        if group.startswith("/apis/cilium.io") and plural not in self.resources.get(group, ()):
            return _status(404, "the server could not find the requested resource")
        if "watch" in asked.query:
            return _status(410, "too old resource version")
        return self._list(asked)

    def _list(self, asked: Asked) -> Answer:
        if token := asked.query.get("continue"):
            if token not in self._snapshots:
                return _status(410, "the provided continue parameter is too old")
            version, left = self._snapshots.pop(token)
        else:
            version, left = self.version, list(self.objects(asked.path).values())
        limit = int(asked.query.get("limit", len(left) or 1))
        meta: Json = {"resourceVersion": str(version)}
        if len(left) > limit:
            meta["continue"] = f"{asked.path}-{version}-{len(left)}"
            self._snapshots[meta["continue"]] = version, left[limit:]
        return Answer(200, json.dumps({"metadata": meta, "items": left[:limit]}).encode())

    async def _watch(
        self, stream: trio.abc.Stream, connection: h11.Connection, asked: Asked, version: int
    ) -> bool:
        await stream.send_all(connection.send(_response(200, ())) or b"")
        end = trio.current_time() + float(asked.query["timeoutSeconds"])
        while trio.current_time() < end:
            changed = self._changed
            if version < self.compacted:
                expired = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
                await self._send(stream, connection, expired)
                break
            if self.silent:
                await trio.sleep_forever()
            for event in [e for e in self._log if e.path == asked.path and e.version > version]:
                version = event.version
                await self._send(stream, connection, {"type": event.type, "object": event.object})
            with trio.move_on_at(min(end, trio.current_time() + 60)):
                await changed.wait()
                continue
            if self.bookmarks and changed is self._changed:  # all that happened was sent
                version = max(version, self.version)
                bookmark = {"metadata": {"resourceVersion": str(version)}}
                await self._send(stream, connection, {"type": "BOOKMARK", "object": bookmark})
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
        return True

    async def _send(self, stream: trio.abc.Stream, connection: h11.Connection, event: Json) -> None:
        data = connection.send(h11.Data(data=json.dumps(event).encode() + b"\n")) or b""
        middle = len(data) // 2
        await stream.send_all(data[:middle])
        if self.cut_inside_object:
            self.cut_inside_object = False
            raise trio.BrokenResourceError
        await stream.send_all(data[middle:])


def _response(status: int, headers: tuple[tuple[str, str], ...]) -> h11.Response:
    return h11.Response(status_code=status, headers=[("Transfer-Encoding", "chunked"), *headers])


def _status(code: int, message: str) -> Answer:
    body = {"kind": "Status", "code": code, "message": message}
    return Answer(code, json.dumps(body).encode())
