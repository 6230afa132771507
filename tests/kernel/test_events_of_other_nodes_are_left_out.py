"""Two nodes on one machine, as in a cluster of containers: each sees its own drops."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from native_probes import drops
from native_probes.source import SourceSettings
from parsers.probe_drops import DROP_RECORD
from parsers.windows import Columns
from tests.kernel.covered import chosen
from tests.kernel.lab import Lab
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


def foreign(probes: Running) -> int:
    return sum(batch.ignored.get((drops.NAME, "foreign"), 0) for batch in probes.batches)


async def test_drops_in_pods_are_told_by_their_own_node_alone(lab: Lab, other_lab: Lab) -> None:
    ours = [lab.add_pod(), lab.add_pod()]
    theirs = [other_lab.add_pod(), other_lab.add_pod()]
    families = {drops.NAME: partial(drops.DropProbe, settings=drops.DropSettings())}
    async with running(lab, SourceSettings(families=families)) as probes:
        probe = probes.source._families._running[drops.NAME]
        late = lab.add_pod()
        assert isinstance(probe, drops.DropProbe)
        await probes.until(lambda: inode(late.namespace) in probe._namespaces._listed)
        before = foreign(probes)
        send_udp(theirs[0].namespace, (theirs[1].ipv4, CLOSED), [10] * 5)
        send_udp(ours[0].namespace, (ours[1].ipv4, CLOSED), [10] * 3)
        send_udp(ours[0].namespace, (late.ipv4, CLOSED), [10] * 2)
        await probes.until(lambda: len(dropped(probes)) >= 5)
        await probes.until(lambda: foreign(probes) >= before + 5)
    assert 5 == len(dropped(probes))
    assert {inode(ours[1].namespace), inode(late.namespace)} == set(dropped(probes)["netns"])
