"""A part of the kernel tier again, under kernels that lack what this machine's has, or have more.

5.10 has no drop reasons and no type information of modules, 5.10 and 6.1 no TCX (clsact takes
its place); all of them load fexit programs and have netem, which this machine's kernel does not.
"""

from __future__ import annotations

import os
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.guests.kernels import ROOT, newest, obstacle, run_in_guest

SKIPPED_THERE = {
    "5.10": (
        "TCX needs Linux 6.6",
        "the hook of a drop needs Linux 5.13",
        "none says what it has",  # netfilter's modules, of their types
    ),
    "6.1": ("TCX needs Linux 6.6",),
    "6.12": (),
    "newest": (),
}
"""Why tests may skip in a guest; any other reason is a failure."""

TESTS = (
    "test_traffic_counts_known_packets",
    "test_the_packet_behind_vlan_tags",
    "test_a_vlans_packets",
    "test_fragments_of_a_large_datagram",
    "test_large_tcp_packets",
    "test_function_exits",
    "netem",
    "closed_port_is_dropped",
    "test_netfilter_drops_name_their_hook",
    "both_iptables",
    "retransmits_equal_what_the_socket_reports",
    "segment_that_waits_to_be_sent",
    "both_ends_tell_of_an_open_and_of_a_close",
    "refused_connection_is_a_reset",
    "a_query_and_its_answer_are_told_once",
    "both_ways_of_a_connection_to_a_service",
    "test_pods_there_before_and_pods_that_come",
    "test_names_are_those_of_the_running_kernel",
)
"""What a guest runs: that every program loads and tells the truth. It takes ten times longer
there than here, so rights, storms and hundreds of interfaces are left to this machine's kernel."""

PROVED = ROOT / ".cache" / "proved"
"""Where ``tools.kernel_table`` finds what a run has shown."""


@pytest.mark.parametrize("series", SKIPPED_THERE)
def test_the_kernel_tier_passes(series: str, tmp_path: Path) -> None:
    if problem := obstacle():
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    release = newest("" if series == "newest" else series)
    results = tmp_path / "results.xml"
    command = [
        sys.executable, "-m", "pytest", "tests/kernel", "-k", " or ".join(TESTS), "-q",
        "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0",
        f"--junitxml={results}", "--basetemp=/tmp/guest",
    ]  # fmt: skip
    environment = {
        "PYTHONPATH": ".", "PYTHONDONTWRITEBYTECODE": "1", "CI": "true",
        "CILIARY_GUEST": series, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }  # fmt: skip
    ran = run_in_guest(release, tmp_path, command, environment)
    print(ran.said[-4000:])  # noqa: T201
    assert ran.status == 0, f"{release}: {ran.said[-8000:]}"
    cases = list(ET.parse(results).getroot().iter("testcase"))
    skipped = {
        case.get("name"): (case.find("skipped").get("message") or "")  # type: ignore[union-attr]
        for case in cases
        if case.find("skipped") is not None
    }
    unexpected = {
        name: why
        for name, why in skipped.items()
        if not any(known in why for known in SKIPPED_THERE[series])
    }
    assert not unexpected
    assert len(cases) > len(skipped)
    PROVED.mkdir(parents=True, exist_ok=True)
    shutil.copy(results, PROVED / f"{series}.xml")
