"""Probes that cannot start, or fail while they run, come back beside those that work."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from native_probes.dns import DnsProbe, DnsSettings
from native_probes.drops import DropProbe, DropSettings
from native_probes.engine import LibbpfEngine, LoadedProbe
from native_probes.family import Drained, Family, Place
from native_probes.report import ProbeUnavailableError
from native_probes.source import ProbeSource, SourceSettings
from native_probes.spec import ProbeSpec
from native_probes.traffic import NAME as TRAFFIC
from native_probes.traffic import TrafficProbe, TrafficSettings
from tests.kernel.lab import Lab
from tests.kernel.running import Running, running
from tests.kernel.senders import send_udp

WHY = "the machine is out of order"


class MomentaryEngine:
    """Refuses a probe a few times."""

    name = "momentary"

    def __init__(self, refuses: str, times: int) -> None:
        self._refuses = refuses
        self._times = times

    def load(self, spec: ProbeSpec) -> LoadedProbe:
        if spec.name == self._refuses and self._times:
            self._times -= 1
            raise ProbeUnavailableError(WHY, "wait")
        return LibbpfEngine().load(spec)


class Failing(DropProbe):
    """Cannot be read the first time."""

    failures = 1

    def drain(self, *, now_ns: int) -> Drained:
        if type(self).failures:
            type(self).failures -= 1
            raise OSError(errno.EIO, "broken")
        return super().drain(now_ns=now_ns)


def drop_probe(place: Place) -> Family:
    return DropProbe(place, DropSettings())


SETTINGS = SourceSettings(families={"drops": drop_probe}, retry_seconds=0.2)


def said(probes: Running, event: str) -> list[str]:
    return [fields["probe"] for name, fields in probes.log.lines if name == event]


def states(source: ProbeSource) -> dict[str, str]:
    return {finding.probe: finding.state for finding in source.findings()}


async def test_one_that_could_not_start_starts_later_and_both_are_said_once(lab: Lab) -> None:
    async with running(lab, SETTINGS, engine=MomentaryEngine("drops", 3)) as probes:
        assert states(probes.source) == {"drops": "no", TRAFFIC: "works"}
        await probes.until(lambda: states(probes.source)["drops"] == "works")
    assert said(probes, "probe.unavailable") == ["drops"]
    assert said(probes, "probe.recovered") == ["drops"]
    assert said(probes, "probe.loaded") == [TRAFFIC]


async def test_traffic_that_starts_later_covers_what_is_there(lab: Lab) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    async with running(lab, SETTINGS, engine=MomentaryEngine(TRAFFIC, 2)) as probes:
        assert states(probes.source) == {"drops": "works", TRAFFIC: "no"}
        await probes.until(lambda: states(probes.source)[TRAFFIC] == "works")
        await probes.covers(*(lab.ifindex(each.interface) for each in (pod, other)))
        send_udp(pod.namespace, (other.ipv4, 9999), [100] * 7)
        await probes.until(
            lambda: probes.traffic(destination_port=9999, first=True)["skbs"].sum() == 7
        )
    assert ("traffic", "not_covered") not in probes.lost()


async def test_one_that_cannot_be_read_any_more_comes_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failing, "failures", 1)
    families = {"drops": lambda place: Failing(place, DropSettings())}
    async with running(lab, replace(SETTINGS, families=families)) as probes:
        await probes.until(lambda: said(probes, "probe.unavailable") == ["drops"])
        await probes.until(lambda: said(probes, "probe.recovered") == ["drops"])
        assert states(probes.source) == {"drops": "works", TRAFFIC: "works"}


def test_dns_programs_that_find_no_place_are_a_sentence_of_their_probe() -> None:
    traffic = TrafficProbe(LibbpfEngine(), TrafficSettings())
    try:
        with Path(os.devnull).open() as no_map:
            os.dup2(no_map.fileno(), traffic.loaded.map_fd("dns_programs"))
        with pytest.raises(ProbeUnavailableError) as refused:
            DnsProbe(Place(LibbpfEngine(), traffic), DnsSettings())
    finally:
        traffic.close()
    assert refused.value.why == "the kernel refused the dns probe (Invalid argument)"
