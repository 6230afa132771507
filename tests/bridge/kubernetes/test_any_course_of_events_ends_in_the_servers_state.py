"""Whatever happens to the server and the connections, names end up as the server has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from bridge.event_log import EventLog
from bridge.kubernetes.objects import Pod
from bridge.kubernetes.source import KubernetesSource
from tests.bridge.kubernetes.model_server import PODS, Answer, ModelServer, pod
from tests.bridge.kubernetes.remembering_sink import RememberingSink

Step: TypeAlias = (
    tuple[Literal["put", "delete"], str]
    | tuple[Literal["wait"], float]
    | tuple[Literal["answer"], tuple[int, bytes]]
    | tuple[Literal["compact", "cut", "cut inside", "away", "back", "restart"], None]
)

_NAMES = st.sampled_from([f"p{i}" for i in range(6)])
_STEPS = st.one_of(
    st.tuples(st.sampled_from(["put", "put", "delete"]), _NAMES),
    st.tuples(st.just("wait"), st.floats(0, 700)),
    st.tuples(
        st.just("answer"),
        st.tuples(st.sampled_from([200, 200, 401, 403, 410, 429, 500]), st.binary(max_size=40)),
    ),
    st.tuples(
        st.sampled_from(["compact", "cut", "cut inside", "away", "back", "restart"]), st.none()
    ),
)
_CALM = 400.0  # s; the longest backoff, and an answer that never ends, are over by then


async def _play(steps: Sequence[Step]) -> None:
    sink = RememberingSink()
    ever: list[set[str]] = []
    async with trio.open_nursery() as nursery:
        server = ModelServer(nursery)
        server.gone_as_event = len(steps) % 2 == 0
        source = KubernetesSource(
            sink, EventLog(write=lambda _: None), agent="test", now=trio.current_time
        )

        async def run(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            with trio.CancelScope() as scope:
                task_status.started(scope)
                await source.run(server.access(), lambda: None)

        running = await nursery.start(run)
        for action, what in steps:
            match action, what:
                case "put", str(name):
                    server.put(PODS, pod(name, f"10.0.0.{len(ever)}"))
                case "delete", str(name) if ("default", name) in server.objects(PODS):
                    server.delete(PODS, ("default", name))
                case "compact", None:
                    server.compact()
                case "cut", None:
                    await server.cut()
                case "cut inside", None:
                    server.cut_inside_object = True
                case (("away" | "back"), None):
                    server.away = action == "away"
                case "restart", None:
                    running.cancel()
                    running = await nursery.start(run)
                case "wait", float(seconds):
                    await trio.sleep(seconds)
                case "answer", (int(status), bytes(body)):
                    server.answers.setdefault(PODS, []).append(Answer(status, body))
            ever.append({name for _, name in server.objects(PODS)})
        server.away = False
        await trio.sleep(_CALM)
        expected = {
            key: [ip["ip"] for ip in thing["status"]["podIPs"]]
            for key, thing in server.objects(PODS).items()
        }
        found = {
            key: [ip.ip for ip in thing.status.pod_ips or ()]
            for key, thing in sink.objects.get(Pod, {}).items()
            if isinstance(thing, Pod)
        }
        assert expected == found
        assert not source.complaint()
        # Nothing was taken back that was there all the time.
        always = set.intersection(*ever) if ever else set()
        assert not always & {name for _, name in sink.removed(Pod)}
        nursery.cancel_scope.cancel()


@settings(max_examples=100, deadline=None)
@given(st.lists(_STEPS, max_size=25))
def test_after_any_faults_the_sink_has_what_the_server_has(steps: list[Step]) -> None:
    trio.run(_play, steps, clock=MockClock(autojump_threshold=0))
