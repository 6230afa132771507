"""With the recorded world as Kubernetes' and Cilium's objects, flows are the same as with a file.

But for what such objects cannot say: ``world_objects`` has the closed list. And for one thing
that Hubble does not say: the workloads of pods of other nodes.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.kubernetes import objects
from bridge.kubernetes.names import Names
from bridge.kubernetes.sink import SINCE_EVER
from parsers.directory import Directory
from tests.fixtures import release_number, stream_bytes, streams, world
from tests.parsers.recorded import Parser, batches, differences
from tests.world_objects import objects_of, without_what_kubernetes_does_not_know

KINDS = {kind.__name__: kind for kind in objects.KINDS}


def named(known: dict[str, Any], *, cilium: bool = True) -> Directory:
    """A directory that was told of a world by its objects, a kind at a time."""
    directory = Directory(synced=False)
    names = Names(directory, node=known["node"]["name"], cluster=known["node"]["cluster"])
    by_kind: dict[type[objects.Object], list[objects.Object]] = {}
    for each in objects_of(known, cilium=cilium):
        kind = KINDS[each["kind"]]
        by_kind.setdefault(kind, []).append(
            msgspec.json.decode(msgspec.json.encode(each), type=kind)
        )
    for kind, some in by_kind.items():
        names.apply(kind, some, (), SINCE_EVER)
    names.synced(everything=True)
    while names.step():
        pass
    return directory


def results(release: str, mix: str, known: dict[str, Any], directory: Directory | None) -> Any:
    parser = Parser(known, release_number(release), directory=directory)
    shown = {}
    for batch in batches(stream_bytes(release, mix)):
        for number, result in parser.results(parser.parse(batch)):
            shown[number] = result()
            event = shown[number].get("event", {})
            for side in ("source", "destination"):
                if isinstance(event.get(side), dict) and "ID" not in event[side]:
                    event[side].pop("workloads", None)
    return shown


@pytest.mark.parametrize(("release", "mix"), streams())
def test_flows_are_those_of_the_file_without_what_kubernetes_does_not_know(
    release: str, mix: str
) -> None:
    whole = world(release)
    want = results(release, mix, without_what_kubernetes_does_not_know(whole), None)
    got = results(release, mix, whole, named(whole))
    found = [(n, differences(want[n], got[n])) for n in want if want[n] != got[n]]
    assert found[:3] == []
