"""However late changes are heard of, in the end every flow has the name of its time.

A plain model knows who has which address when: one pod after the other, with a second between
them at least. Changes are heard in their order, up to four seconds late; flows are read and
named as they happen, by what is known then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.history import History
from api.history.corrector import Corrector
from bridge.kubernetes.names import Names
from bridge.kubernetes.objects import (
    Container,
    ContainerPort,
    Key,
    Metadata,
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    Pod,
    PodSpec,
    PodStatus,
)
from parsers.addresses import parse_address
from parsers.directory import EXPIRED, KNOWN, UNKNOWN_ADDRESS, Directory
from parsers.flow_batch import CONVERSATION, FLOW_CLASS, L4_TCP, L4_UDP, FlowBatch
from parsers.ledger import Ledger
from parsers.pipeline import new_tables
from tests.bridge.kubernetes.times import SECOND, text_of

START = 1_790_000_000 * SECOND
TICK = SECOND // 20
LATEST = 4 * SECOND
REUSED = SECOND  # that an address is nobody's at least
ADDRESSES = [f"10.0.0.{n}" for n in range(1, 6)]


@dataclass(frozen=True, slots=True)
class Life:
    """Of a pod: for how long its address was free before it, how long it lives (both ns), and how
    late the API server's word of its begin and of its end is.
    """

    free: int
    lasts: int
    begin_late: int
    end_late: int


_MOMENTS = st.integers(0, 40).map(lambda n: n * TICK)
LIVES = st.builds(
    Life,
    # Mostly the least there is.
    free=st.one_of(st.just(REUSED), st.just(REUSED), _MOMENTS.map(lambda ns: REUSED + ns)),
    lasts=st.integers(10, 80).map(lambda n: n * TICK),
    begin_late=st.integers(0, LATEST),
    end_late=st.integers(0, LATEST),
)
COURSES = st.lists(st.lists(LIVES, max_size=6), min_size=1, max_size=len(ADDRESSES))
"""One pod after the other, by address."""


class PlainModel:
    """Owners of addresses, each with its begin and end (ns)."""

    def __init__(self, course: Sequence[Sequence[Life]]) -> None:
        self.owners: dict[str, list[tuple[int, int, str]]] = {a: [] for a in ADDRESSES}
        self.changes: list[tuple[int, int, Pod | Key]] = []  # when, by how much late, what
        for address, lives in zip(ADDRESSES, course, strict=False):
            at = START
            for number, life in enumerate(lives):
                begin, name = at + life.free, f"pod-{address}-{number}"
                at = begin + life.lasts
                self.owners[address].append((begin, at, name))
                pod = Pod(
                    Metadata(name, "shop", creation_timestamp=text_of(begin)),
                    PodSpec(node_name="elsewhere"),
                    PodStatus("Running", pod_ip=address),
                )
                self.changes += [(begin, life.begin_late, pod), (at, life.end_late, pod.key)]
        self.changes.sort(key=lambda change: change[0])

    def owner(self, address: str, time: int) -> str:
        return next((n for b, e, n in self.owners[address] if b <= time < e), "")


class Agent:
    """Names, a history, and what corrects it; a flow is from an address to nowhere known."""

    def __init__(self) -> None:
        self.directory = Directory(synced=False)
        self.names = Names(self.directory, node="here")
        self.names.synced(everything=True)
        self.tables = new_tables()
        self.history = History(self.tables, Ledger(), 100_000, 0)
        self.corrector = Corrector(self.history, self.directory)

    def hear(self, change: Pod | Key, now: int) -> None:
        if isinstance(change, Pod):
            self.names.apply(Pod, [change], [], now)
        else:
            self.names.apply(Pod, [], [change], now)

    def read(self, flows: list[tuple[int, str]], port: int = 0, l4: int = 0) -> None:
        """Flows from an address, and a port of it."""
        keys = np.zeros(len(flows), dtype=CONVERSATION)
        keys["ip_version"] = 1
        for row, (_, text) in enumerate(flows):
            address = parse_address(text)
            assert address is not None
            keys["source_ip"][row] = np.frombuffer(address, dtype=np.uint8)
        time = np.array([at for at, _ in flows], dtype=np.int64)
        zeros = np.zeros(len(flows), dtype=np.uint32)
        rows = self.tables.conversations.lookup(keys, time, self.directory)
        ports = zeros + np.uint32(l4 << 16 | port)
        rows = self.tables.conversations.lookup_host_ports(
            keys, rows, (ports, zeros), time, self.directory
        )
        flow_class = np.zeros(len(flows), dtype=FLOW_CLASS)
        flow_class["l4"] = l4
        classes, _ = self.tables.classes.lookup(flow_class)
        self.history.append(
            FlowBatch(
                self.tables, time, np.arange(len(flows), dtype=np.uint64), classes, rows,
                ports.astype(np.uint16), zeros.astype(np.uint16), zeros,
            )
        )  # fmt: skip

    def named(self) -> list[tuple[str, int]]:
        """Pod and reason of each flow's source."""
        conversations = self.tables.conversations
        return [
            (
                conversations.entities[int(conversations.source_entity[row])].pod_name,
                int(conversations.unknown[row]) & 15,
            )
            for _, batch in self.history.flows.pieces(0, self.history.flows.end, 10_000)
            for row in batch.conversation.tolist()
        ]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(course=COURSES, prompt=st.booleans())
def test_every_flow_ends_with_the_name_of_its_time(
    course: list[list[Life]], *, prompt: bool
) -> None:
    model, agent = PlainModel(course), Agent()
    waiting: deque[tuple[int, Pod | Key]] = deque()
    heard = START
    for at, late, change in model.changes:
        heard = max(heard, at + (0 if prompt else late))  # in the order in which they were made
        waiting.append((heard, change))
    truth: list[str] = []
    for now in range(START, heard + 2 * TICK, TICK):
        while waiting and waiting[0][0] <= now:
            agent.hear(waiting.popleft()[1], now)
        flows = [(now + n, a) for n, a in enumerate(ADDRESSES) if model.owner(a, now + n)]
        if flows:
            agent.read(flows)
            truth += [model.owner(a, at) for at, a in flows]
        for _ in agent.corrector.sweep(START):
            pass
    named = agent.named()
    assert truth == [name for name, _ in named]
    assert {KNOWN} >= {reason for _, reason in named}


def test_an_address_of_pods_is_unknown_for_a_reason_until_its_pod_is_heard_of() -> None:
    agent = Agent()
    agent.names.apply(
        Node, [Node(Metadata("elsewhere"), NodeSpec(pod_cidrs=("10.0.0.0/24",)))], [], START
    )
    agent.read([(START + SECOND, ADDRESSES[0])])
    assert agent.named() == [("", UNKNOWN_ADDRESS)]
    pod = Pod(Metadata("late", "shop"), PodSpec(), PodStatus("Running", pod_ip=ADDRESSES[0]))
    agent.hear(pod, START + 2 * SECOND)
    agent.hear(pod.key, START + 3 * SECOND)
    agent.read(
        [(START + at * SECOND // 4, ADDRESSES[0]) for at in (8, 11, 13, 14, 15)],
    )
    for _ in agent.corrector.sweep(START):
        pass
    # Its begin is not known; its name is kept for half a second more.
    late = [("late", KNOWN)] * 3
    assert agent.named() == [("", UNKNOWN_ADDRESS), *late, ("", EXPIRED), ("", EXPIRED)]
    assert agent.corrector.corrected == 0


def test_ports_of_nodes_are_corrected_as_addresses_are() -> None:
    agent, node, at = Agent(), "192.168.0.1", START
    addresses = NodeStatus(addresses=(NodeAddress("InternalIP", node),))
    agent.names.apply(Node, [Node(Metadata("far"), status=addresses)], [], START)

    def exporter(name: str, began: int) -> Pod:
        return Pod(
            Metadata(name, "shop", creation_timestamp=text_of(began)),
            PodSpec("far", host_network=True, containers=(Container((ContainerPort(9100),)),)),
            PodStatus("Running", pod_ip=node, host_ip=node),
        )

    for second in (5, 15, 25):
        for port, l4 in ((9100, L4_TCP), (9100, L4_UDP), (22, L4_TCP)):
            agent.read([(at + second * SECOND, node)], port, l4)
    agent.hear(exporter("first", at + 10 * SECOND), at + 30 * SECOND)
    for _ in agent.corrector.sweep(START):
        pass
    assert ["", "first", "first"] == [name for name, _ in agent.named()[::3]]
    # Another one took its place meanwhile.
    agent.hear(exporter("second", at + 20 * SECOND), at + 31 * SECOND)
    agent.hear(("shop", "first"), at + 19 * SECOND)
    for _ in agent.corrector.sweep(START):
        pass
    assert ["", "first", "second"] == [name for name, _ in agent.named()[::3]]
    assert [""] * 6 == [name for n, (name, _) in enumerate(agent.named()) if n % 3]
    assert 3 == agent.corrector.corrected
    assert not list(agent.corrector.sweep(START))


def test_flows_are_not_looked_at_for_what_none_of_them_can_have() -> None:
    agent = Agent()
    agent.read([(START + SECOND, ADDRESSES[0])])
    for _ in agent.corrector.sweep(START):
        pass
    agent.directory.set_identities({4711: ("k8s:app=new",)})
    assert not list(agent.corrector.sweep(START))
    pod = Pod(Metadata("late", "shop"), PodSpec(), PodStatus("Running", pod_ip=ADDRESSES[0]))
    agent.names.apply(Pod, [pod], [], START)
    assert list(agent.corrector.sweep(START))
    assert agent.named() == [("late", KNOWN)]
