from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_probes import leftovers, syscalls
from native_probes.interfaces import InterfacePatterns
from native_probes.pins import PinFolder
from native_probes.report import ProbeUnavailableError
from native_probes.source import SourceSettings
from native_probes.tc import TcHooks
from native_probes.traffic import TrafficSettings
from parsers.probe_records import POINT_INGRESS
from tests.kernel.lab import Lab, inside, run
from tests.kernel.running import Running, running
from tests.kernel.senders import send_udp
from tests.kernel.tracing import wait_for


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[PinFolder]:
    run("mount", "-t", "bpf", "bpf", str(tmp_path))
    folder = PinFolder(tmp_path / "ciliary")
    try:
        yield folder
    finally:
        folder.remove_all()
        subprocess.run(["umount", str(tmp_path)], check=True)


def settings(pins: PinFolder, flows: int = 8192) -> SourceSettings:
    return SourceSettings(traffic=TrafficSettings(pins=pins, flows=flows))


def seen(probes: Running) -> int:
    """Packets that were sent to the tests' port."""
    reports = probes.traffic(destination_port=9999, point=POINT_INGRESS)
    return int(reports["skbs"].sum())


@pytest.mark.parametrize("tcx", [True, False])
async def test_what_is_sent_between_two_runs_is_told_once(
    lab: Lab, pins: PinFolder, *, tcx: bool
) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    indices = lab.ifindex(pod.interface), lab.ifindex(other.interface)
    sizes = [100] * 40

    async with running(lab, settings(pins), TcHooks(tcx=tcx, pins=pins)) as first:
        await first.covers(*indices)
        send_udp(pod.namespace, (other.ipv4, 9999), sizes)
        await first.until(lambda: seen(first) == 40)
    assert 40 == seen(first)
    send_udp(pod.namespace, (other.ipv4, 9999), sizes)  # nobody runs
    async with running(lab, settings(pins), TcHooks(tcx=tcx, pins=pins)) as second:
        await second.covers(*indices)
        send_udp(pod.namespace, (other.ipv4, 9999), sizes)
        await second.until(lambda: seen(second) == 80)
    assert 80 == seen(second)
    assert second.lost() == {}
    with inside(lab.node):
        leftovers.remove(leftovers.find_leftovers())


async def test_interfaces_that_are_gone_or_unwanted_are_let_go_of(
    lab: Lab, pins: PinFolder
) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    indices = lab.ifindex(pod.interface), lab.ifindex(other.interface)
    async with running(lab, settings(pins)) as probes:
        await probes.covers(*indices)
    assert 4 == len(list(pins.path.glob("link_*")))
    lab.ip("link", "del", pod.interface)
    wanted = SourceSettings(
        traffic=TrafficSettings(pins=pins), interfaces=InterfacePatterns(pods=("none",))
    )
    async with running(lab, wanted) as probes:
        await probes.until(lambda: not list(pins.path.glob("link_*")))
    with inside(lab.node):
        # The kernel takes a link away a moment after the last who held it.
        wait_for(lambda: not syscalls.attached(indices[1], syscalls.TCX_INGRESS))


async def test_maps_that_do_not_fit_are_made_anew(lab: Lab, pins: PinFolder) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    for flows in (2048, 4096):
        async with running(lab, settings(pins, flows=flows)) as probes:
            await probes.covers(lab.ifindex(pod.interface), lab.ifindex(other.interface))
            send_udp(pod.namespace, (other.ipv4, 9999), [10] * 5)
        sent = probes.traffic(destination_port=9999, first=True)
        assert 5 == sent["skbs"].sum()


def test_another_file_system_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ProbeUnavailableError, match="not in a BPF file system"):
        PinFolder(tmp_path / "pins").prepare()
