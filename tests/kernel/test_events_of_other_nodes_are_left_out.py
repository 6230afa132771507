"""Two nodes on one machine, as in a cluster of containers: each sees its own drops."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from native_probes import drops, source
from native_probes.links import Link
from native_probes.node_namespaces import node_namespaces
from native_probes.source import SourceSettings
from parsers.probe_drops import DROP_RECORD
from parsers.windows import Columns
from tests.kernel.covered import chosen
from tests.kernel.lab import Lab, Pod, run
from tests.kernel.running import Running, running
from tests.kernel.senders import send_udp
from tests.kernel.tracing import inode

CLOSED = 81


@pytest.fixture
def other_lab() -> Iterator[Lab]:
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


def dropped(probes: Running) -> Columns:
    found = [batch.drops for batch in probes.batches if len(batch.drops)]
    rows: Columns = np.concatenate([np.empty(0, DROP_RECORD), *found])
    return chosen(rows, destination_port=CLOSED)


def drop_families() -> SourceSettings:
    probe = partial(drops.DropProbe, settings=drops.DropSettings())
    return SourceSettings(families={drops.NAME: probe})


def listed(probes: Running) -> frozenset[int]:
    probe = probes.source._families._running[drops.NAME]
    assert isinstance(probe, drops.DropProbe)
    return probe._namespaces._listed


def foreign(probes: Running) -> int:
    return sum(batch.ignored.get((drops.NAME, "foreign"), 0) for batch in probes.batches)


async def test_drops_in_pods_are_told_by_their_own_node_alone(lab: Lab, other_lab: Lab) -> None:
    ours = [lab.add_pod(), lab.add_pod()]
    theirs = [other_lab.add_pod(), other_lab.add_pod()]
    async with running(lab, drop_families()) as probes:
        late = lab.add_pod()
        await probes.until(lambda: inode(late.namespace) in listed(probes))
        before = foreign(probes)
        send_udp(theirs[0].namespace, (theirs[1].ipv4, CLOSED), [10] * 5)
        send_udp(ours[0].namespace, (ours[1].ipv4, CLOSED), [10] * 3)
        send_udp(ours[0].namespace, (late.ipv4, CLOSED), [10] * 2)
        await probes.until(lambda: len(dropped(probes)) >= 5)
        await probes.until(lambda: foreign(probes) >= before + 5)
    assert 5 == len(dropped(probes))
    assert {inode(ours[1].namespace), inode(late.namespace)} == set(dropped(probes)["netns"])


async def test_a_pod_that_comes_while_others_are_looked_for_is_found(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Pod] = []

    def slowly(links: list[Link]) -> frozenset[int]:
        found = node_namespaces(links)
        if len(links) == 1 and not late:
            late.append(lab.add_pod())
        return found

    monkeypatch.setattr(source, "node_namespaces", slowly)
    async with running(lab, drop_families()) as probes:
        lab.add_pod()
        await probes.until(lambda: late and inode(late[0].namespace) in listed(probes))


async def test_an_interface_whose_other_end_moves_into_a_pod_leads_there(lab: Lab) -> None:
    run("ip", "netns", "add", f"{lab.prefix}p9")
    lab.pods.append(Pod(f"{lab.prefix}p9", "veth9", "", ""))
    async with running(lab, drop_families()) as probes:
        lab.ip("link", "add", "veth9", "type", "veth", "peer", "name", "eth9")
        await probes.covers(lab.ifindex("veth9"))
        lab.ip("link", "set", "eth9", "netns", f"{lab.prefix}p9")
        lab.ip("link", "set", "veth9", "up")
        run("ip", "-n", f"{lab.prefix}p9", "link", "set", "eth9", "up")
        await probes.until(lambda: inode(f"{lab.prefix}p9") in listed(probes))
