"""The source against a model of the API server, in virtual time, with faults."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from bridge.event_log import EventLog
from bridge.http_client import Connection, ServerAwayError
from bridge.kubernetes.objects import CiliumIdentity, EndpointSlice, Node, Pod
from bridge.kubernetes.resources import PIECE
from bridge.kubernetes.source import KubernetesSource
from bridge.kubernetes.watch import PAGE, PAGE_BYTES
from tests.bridge.kubernetes.model_server import (
    CILIUM,
    IDENTITIES,
    PODS,
    Answer,
    ModelServer,
    pod,
)
from tests.bridge.kubernetes.remembering_sink import RememberingSink

_HOUR = 3600.0
FORBIDDEN = Answer(403, b'{"code": 403, "message": "it is forbidden"}')


@dataclass(slots=True)
class Scene:
    server: ModelServer
    sink: RememberingSink
    source: KubernetesSource
    log: list[str]
    ready: trio.Event

    async def heard(self) -> None:
        """Until all that the server did is heard of, and nothing waits but for time."""
        await trio.testing.wait_all_tasks_blocked(0.001)


@contextlib.asynccontextmanager
async def scene(tokens: list[str] | None = None, pods: int = 0) -> AsyncIterator[Scene]:
    log: list[str] = []
    sink = RememberingSink()
    async with trio.open_nursery() as nursery:
        server = ModelServer(nursery)
        for i in range(pods):
            server.put(PODS, pod(f"p{i}"))
        source = KubernetesSource(
            sink,
            EventLog(write=log.append),
            agent="test",
            clock=lambda: round(trio.current_time() * 1e9),
            now=trio.current_time,
        )
        ready = trio.Event()
        nursery.start_soon(source.run, server.access(tokens), ready.set)
        made = Scene(server, sink, source, log, ready)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_list_comes_in_pages_and_is_told_in_pieces_as_valid_since_ever(
    autojump_clock: MockClock,
) -> None:
    count = 2 * PAGE + 7
    async with scene(pods=count) as it:
        await it.ready.wait()
        assert 3 == len(it.server.requests(PODS, watch=False))
        assert count == len(it.sink.objects[Pod])
        told = [call for call in it.sink.told if call[0] is Pod]
        assert {0} == {at for *_, at in told}
        assert PIECE >= max(len(changed) for _, changed, _, _ in told)
        assert it.sink.synced_after is not None


async def test_slices_of_a_hundred_endpoints_are_told_in_pieces_of_few(
    autojump_clock: MockClock,
) -> None:
    slices = [("/apis/discovery.k8s.io/v1/endpointslices", f"s{n}") for n in range(20)]
    async with scene() as it:
        for path, name in slices[:10]:
            it.server.put(path, {"metadata": {"name": name}})
        await it.ready.wait()
        for path, name in slices[10:]:
            it.server.put(path, {"metadata": {"name": name}})
        await it.heard()
        for path, name in slices[:10]:
            it.server.delete(path, ("", name))
        it.server.compact()
        await it.server.cut()
        await trio.sleep(10)
        told = [call for call in it.sink.told if call[0] is EndpointSlice]
        assert {name for _, name in slices[10:]} == it.sink.names(EndpointSlice)
        assert 4 == max(max(len(changed), len(gone)) for _, changed, gone, _ in told)


async def test_changes_are_told_as_they_happen_with_their_time(autojump_clock: MockClock) -> None:
    async with scene(pods=2) as it:
        await it.ready.wait()
        await trio.sleep(5)
        it.server.put(PODS, pod("new", "10.0.0.9"))
        it.server.delete(PODS, ("default", "p0"))
        now = round(trio.current_time() * 1e9)
        await it.heard()
        assert {"p1", "new"} == it.sink.names(Pod)
        assert {now} == {at for _, changed, removed, at in it.sink.told[-2:]}


async def test_what_lives_between_two_reads_is_told_nevertheless(
    autojump_clock: MockClock,
) -> None:
    async with scene() as it:
        await it.ready.wait()
        it.server.put(PODS, pod("short"))
        it.server.delete(PODS, ("default", "short"))
        it.server.put(PODS, pod("short"))
        await it.heard()
        story = [
            (bool(changed), bool(gone)) for kind, changed, gone, _ in it.sink.told if kind is Pod
        ]
        assert [(True, False), (False, True), (True, False)] == story[-3:]


async def test_a_watch_that_is_cut_inside_an_object_goes_on_where_it_was(
    autojump_clock: MockClock,
) -> None:
    async with scene(pods=1) as it:
        await it.ready.wait()
        it.server.put(PODS, pod("a"))
        await it.heard()
        it.server.cut_inside_object = True
        it.server.put(PODS, pod("b"))
        await trio.sleep(5)
        assert {"p0", "a", "b"} == it.sink.names(Pod)
        assert 1 == len(it.server.requests(PODS, watch=False))
        assert not it.source.complaint()


async def test_a_watch_goes_on_after_the_last_bookmark(autojump_clock: MockClock) -> None:
    async with scene(pods=1) as it:
        await it.ready.wait()
        it.server.put("/api/v1/nodes", {"metadata": {"name": "n"}})  # moves the version on
        version = it.server.version
        await trio.sleep(90)
        await it.server.cut()
        await trio.sleep(5)
        assert str(version) == it.server.requests(PODS, watch=True)[-1].query["resourceVersion"]


@pytest.mark.parametrize("as_event", [False, True], ids=["as a status", "as an event"])
async def test_a_compacted_version_means_a_new_list_that_forgets_only_what_is_gone(
    autojump_clock: MockClock, *, as_event: bool
) -> None:
    async with scene(pods=PAGE + 10) as it:
        await it.ready.wait()
        it.server.gone_as_event = as_event
        await trio.sleep(100)
        it.server.put(PODS, pod("p4"))
        await it.heard()
        last = round(trio.current_time() * 1e9)
        await trio.sleep(10)
        it.server.away = True
        await it.server.cut()
        it.server.delete(PODS, ("default", "p3"))
        it.server.put(PODS, pod("late"))
        it.server.compact()
        it.server.away = False
        await trio.sleep(60)
        assert {"p3"} == {name for _, name in it.sink.removed(Pod)}
        # Nobody knows when it went; it was last there when the server last said anything.
        assert {last} == {at for _, _, removed, at in it.sink.told if removed}
        assert "late" in it.sink.names(Pod)
        assert PAGE + 10 == len(it.sink.names(Pod))
        (pods,) = [watch for watch in it.source.watches if watch.resource.kind is Pod]
        assert {"first": 1, "expired": 1} == dict(pods.counts.lists)
        assert not it.source.complaint()


async def test_a_list_whose_pages_expire_is_begun_again_and_at_last_asked_for_whole(
    autojump_clock: MockClock,
) -> None:
    gone = Answer(410, b'{"code": 410, "message": "the continue parameter is too old"}')
    async with scene(pods=PAGE + 1) as it:
        page = '{"metadata":{"resourceVersion":"5","continue":"x"},"items":[]}'
        first = Answer(200, page.encode())
        it.server.answers[PODS] = [first, gone] * 3
        await it.ready.wait()
        lists = it.server.requests(PODS, watch=False)
        assert "limit" not in lists[-1].query
        assert PAGE + 1 == len(it.sink.names(Pod))


async def test_a_server_that_asks_to_wait_is_left_alone_that_long(
    autojump_clock: MockClock,
) -> None:
    async with scene(pods=1) as it:
        busy = Answer(429, b'{"code": 429}', (("Retry-After", "17"),))
        it.server.answers[PODS] = [busy, busy]
        await it.ready.wait()
        first, second, third, *_ = [asked.at for asked in it.server.requests(PODS)]
        assert second - first >= 17
        assert third - second >= 17


async def test_a_token_that_is_refused_is_asked_for_again(autojump_clock: MockClock) -> None:
    async with scene(tokens=["Bearer good", "Bearer better"], pods=1) as it:
        await it.ready.wait()
        it.server.tokens = {"Bearer better"}
        await it.server.cut()
        it.server.put(PODS, pod("new"))
        await trio.sleep(5)
        assert "new" in it.sink.names(Pod)
        assert not it.source.complaint()


async def test_an_object_that_cannot_be_decoded_costs_itself_alone(
    autojump_clock: MockClock,
) -> None:
    async with scene(pods=3) as it:
        it.server.objects(PODS)["default", "p1"]["spec"] = "nonsense"
        await it.ready.wait()
        assert {"p0", "p2"} == it.sink.names(Pod)
        known = pod("p2")
        known["status"] = []
        it.server.put(PODS, known)
        it.server.put(PODS, pod("after"))
        await it.heard()
        assert {"p0", "p2", "after"} == it.sink.names(Pod)
        (pods,) = [watch for watch in it.source.watches if watch.resource.kind is Pod]
        assert 2 == pods.counts.malformed
        it.server.compact()  # also in a list what is malformed stays as it was
        await trio.sleep(60)
        assert {"p0", "p2", "after"} == it.sink.names(Pod)


async def test_names_outlive_a_server_that_is_away_for_hours_and_say_their_age(
    autojump_clock: MockClock,
) -> None:
    async with scene(pods=5) as it:
        await it.ready.wait()
        it.server.away = True
        await it.server.cut()
        await trio.sleep(6 * _HOUR)
        assert 5 == len(it.sink.names(Pod))
        assert "names are 21600 s old" in it.source.complaint()
        assert "connection refused" in it.source.complaint()
        assert 1 == sum("kubernetes.behind" in line for line in it.log)
        it.server.put(PODS, pod("new"))
        it.server.away = False
        await trio.sleep(60)
        assert 6 == len(it.sink.names(Pod))
        assert not it.source.complaint()


async def test_a_server_that_takes_connections_and_says_nothing_is_given_up(
    autojump_clock: MockClock,
) -> None:
    async with scene(pods=1) as it:
        it.server.silent = True
        await trio.sleep(30)
        it.server.silent = False
        await it.ready.wait()
        assert trio.current_time() < 150
        assert {"p0"} == it.sink.names(Pod)


async def test_a_server_that_hangs_and_keeps_its_connections_is_found_out(
    autojump_clock: MockClock,
) -> None:
    async with scene(pods=1) as it:
        await it.ready.wait()
        it.server.silent = True
        await trio.sleep(300)
        assert "did not answer in time" in it.source.complaint()
        assert 240 <= it.source.age() <= 300  # bookmarks come each minute
        it.server.put(PODS, pod("new"))
        it.server.silent = False
        await trio.sleep(120)
        assert {"p0", "new"} == it.sink.names(Pod)
        assert not it.source.complaint()


async def test_a_server_that_has_nothing_to_tell_is_asked_again_and_not_complained_of(
    autojump_clock: MockClock,
) -> None:
    async with scene(pods=1) as it:
        await it.ready.wait()
        it.server.bookmarks = False
        await trio.sleep(_HOUR)
        assert not any("kubernetes.behind" in line for line in it.log)
        assert 1 == len(it.server.requests(PODS, watch=False))
        assert len(it.server.requests(PODS, watch=True)) < 30


async def test_a_watch_that_the_server_ends_at_once_is_not_asked_for_in_a_storm(
    autojump_clock: MockClock,
) -> None:
    async with scene(pods=1) as it:
        await it.ready.wait()
        before = len(it.server.asked)
        it.server.answers[PODS] = [Answer(200, b"\n")] * 1000
        await it.server.cut()
        await trio.sleep(600)
        assert len(it.server.requests(PODS, watch=True)) - before < 100


async def test_definitions_of_cilium_are_found_and_lost_while_running(
    autojump_clock: MockClock,
) -> None:
    async with scene() as it:
        await it.ready.wait()
        assert it.sink.synced_after is not None
        it.server.resources[CILIUM] = ["ciliumidentities"]
        identity = {"metadata": {"name": "1234"}, "security-labels": {"k8s:app": "a"}}
        it.server.put(IDENTITIES, identity)
        await trio.sleep(90)
        assert {"1234"} == it.sink.names(CiliumIdentity)
        it.server.resources.clear()
        await it.server.cut()
        await trio.sleep(90)
        assert not it.sink.names(CiliumIdentity)
        assert 1 == it.sink.cilium_went
        assert not it.source.complaint()


async def test_a_server_that_forbids_for_a_while_to_look_for_definitions_takes_no_names_away(
    autojump_clock: MockClock,
) -> None:
    async with scene() as it:
        it.server.resources[CILIUM] = ["ciliumidentities"]
        it.server.put(IDENTITIES, {"metadata": {"name": "1234"}})
        it.server.answers[CILIUM] = [FORBIDDEN] * 2
        await it.ready.wait()
        await trio.sleep(5)
        assert {"1234"} == it.sink.names(CiliumIdentity)
        it.server.answers[CILIUM] = [FORBIDDEN] * 3
        while it.server.answers[CILIUM]:
            await trio.sleep(10)
            assert {"1234"} == it.sink.names(CiliumIdentity)
        assert not it.sink.cilium_went


async def test_a_missing_right_is_named(autojump_clock: MockClock) -> None:
    async with scene() as it:
        it.server.answers["/api/v1/nodes"] = [FORBIDDEN] * 100
        await trio.sleep(20)
        assert "the agent's role needs list and watch on nodes" in it.source.complaint()
        assert not it.ready.is_set()
        assert Node not in it.sink.objects or not it.sink.names(Node)


async def test_without_a_right_to_one_kind_the_others_serve(autojump_clock: MockClock) -> None:
    async with scene(pods=2) as it:
        for path in ("/api/v1/nodes", "/api/v1/services"):
            it.server.answers[path] = [FORBIDDEN] * 100
        await trio.sleep(20)
        assert [False] == it.sink.synced_with_everything
        assert "names do without (nodes, services)" in it.source.complaint()
        for place in (it.source.complaint(), it.log[-1]):
            assert "role needs list and watch on nodes" in place
            assert "role needs list and watch on services" in place
        it.server.answers.clear()  # the right is given
        await it.ready.wait()
        assert [False, True] == it.sink.synced_with_everything
        assert not it.source.complaint()


async def test_without_a_right_to_pods_there_are_no_names(autojump_clock: MockClock) -> None:
    async with scene() as it:
        it.server.answers[PODS] = [FORBIDDEN] * 100
        await trio.sleep(20)
        assert it.sink.synced_after is None
        assert "no names yet (pods)" in it.source.complaint()


_PACKED = gzip.compress(b'{"metadata":{"resourceVersion":"1"}}', mtime=0)


@pytest.mark.parametrize(
    "body",
    [b"not gzip", _PACKED[:-9], _PACKED + b"more", _PACKED + bytes(1 << 17)],
    ids=["not", "cut", "more", "much more"],
)
async def test_an_answer_that_is_packed_wrongly_is_asked_for_again(
    autojump_clock: MockClock, body: bytes
) -> None:
    async with scene(pods=1) as it:
        it.server.answers[PODS] = [Answer(200, body, (("Content-Encoding", "gzip"),))] * 3
        await it.ready.wait()
        assert {"p0"} == it.sink.names(Pod)
        assert 4 == len(it.server.requests(PODS, watch=False))


async def test_an_answer_that_unpacks_to_a_thousand_times_its_size_leaves_others_turns() -> None:
    server, turns = _Says(gzip.compress(bytes(32 << 20))), 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    connection = Connection(server, "h")
    async with trio.open_nursery() as nursery:
        await connection.get("/", {})
        nursery.start_soon(take_turns)
        assert bytes(32 << 20) == await connection.read_all(32 << 20)
        nursery.cancel_scope.cancel()
    assert turns > 16  # between 32 of 1 MiB each, whoever is first
    connection = Connection(_Says(gzip.compress(bytes(32 << 20))), "h")
    await connection.get("/", {})
    with pytest.raises(ServerAwayError, match="more than 1048576 bytes"):
        await connection.read_all(1 << 20)


class _Says(trio.abc.Stream):
    """A server that has answered already."""

    def __init__(self, packed: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}"
        self._left = f"{head}\r\n\r\n".encode() + packed

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        given, self._left = self._left[:max_bytes], self._left[max_bytes or len(self._left) :]
        return given

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...

    async def wait_send_all_might_not_block(self) -> None: ...

    async def aclose(self) -> None: ...


async def test_large_objects_come_in_smaller_pages(autojump_clock: MockClock) -> None:
    async with scene() as it:
        for i in range(300):
            large = pod(f"p{i}")
            large["metadata"]["annotations"] = {"note": "x" * 50_000}
            it.server.put(PODS, large)
        await it.ready.wait()
        first, *others = it.server.requests(PODS, watch=False)
        assert str(PAGE) == first.query["limit"]
        assert {str(PAGE_BYTES // 50_000)} == {asked.query["limit"] for asked in others}


async def test_a_part_that_is_started_again_goes_on_with_what_it_knew(
    autojump_clock: MockClock,
) -> None:
    sink = RememberingSink()
    async with trio.open_nursery() as nursery:
        server = ModelServer(nursery)
        server.resources[CILIUM] = ["ciliumidentities"]
        server.put(IDENTITIES, {"metadata": {"name": "7"}})
        for name in ("stays", "goes"):
            server.put(PODS, pod(name))
        source = KubernetesSource(
            sink, EventLog(write=lambda _: None), agent="test", now=trio.current_time
        )
        with trio.move_on_after(10):
            await source.run(server.access(), lambda: None)
        server.delete(PODS, ("default", "goes"))
        server.resources.clear()
        with trio.move_on_after(10):
            await source.run(server.access(), lambda: None)
        assert {"stays"} == sink.names(Pod)
        assert not sink.names(CiliumIdentity)
        assert [("default", "goes")] == sink.removed(Pod)
        nursery.cancel_scope.cancel()


async def test_who_may_not_know_what_is_defined_does_without_cilium(
    autojump_clock: MockClock,
) -> None:
    async with scene(pods=1) as it:
        it.server.answers[CILIUM] = [Answer(403, b'{"code": 403}')] * 100
        await it.ready.wait()
        assert {"p0"} == it.sink.names(Pod)
        assert not it.source.complaint()


async def test_a_server_that_does_not_say_what_is_defined_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with scene(pods=1) as it:
        it.server.answers[CILIUM] = [Answer(500, b'{"code": 500, "message": "etcd is ill"}')] * 3
        await trio.sleep(0.01)
        assert "etcd is ill" in it.source.complaint()
        assert it.sink.synced_after is None
        await it.ready.wait()
        assert not it.source.complaint()
