from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from native_probes import leftovers
from tests.kernel.lab import Lab, inside
from tests.kernel.senders import send_udp

ROOT = Path(__file__).resolve().parents[2]


def program(lab: Lab, rights: str, *arguments: str) -> subprocess.Popen[str]:
    """The probes in the node, in a process that has these capabilities and can get no others."""
    limits = [f"--{name}=-all,{rights}" for name in ("bounding-set", "inh-caps")]
    command = ["ip", "netns", "exec", lab.node, "setpriv", *limits,
               sys.executable, "-m", "tests.kernel.source_program", *arguments]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def answer(running: subprocess.Popen[str]) -> str:
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write("\n")
    running.stdin.flush()
    return running.stdout.readline()


@pytest.mark.parametrize("way", ["--tcx", "--clsact"])
def test_exactly_these_capabilities_suffice(lab: Lab, way: str) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    with program(lab, "+bpf,+perfmon,+net_admin", way) as running:
        assert "covered\n" == answer(running)
        send_udp(pod.namespace, (other.ipv4, 9998), [100] * 11)
        said, _ = running.communicate(timeout=60)
    found = json.loads(said)
    assert 22 == found["skbs_by_port"]["9998"]  # at both pods
    expected = "degraded" if way == "--clsact" else "works"
    states = {probe: state for probe, state, _ in found["findings"]}
    assert {"traffic": expected, "drops": "works", "tcp": "works"} == states


@pytest.mark.parametrize("missing", ["bpf", "perfmon", "net_admin"])
def test_each_of_them_is_wanted_and_asked_for_in_a_sentence(lab: Lab, missing: str) -> None:
    lab.add_pod()
    rights = ",".join(f"+{name}" for name in ("bpf", "perfmon", "net_admin") if name != missing)
    with program(lab, rights) as running:
        said = answer(running)
        output, _ = running.communicate(timeout=60)
    found = json.loads((said + output).splitlines()[-1])
    (traffic,) = [f for f in found["findings"] if f[0] == "traffic"]
    assert traffic[1] in {"no", "degraded"}
    assert "ermi" in traffic[2]  # permission denied, operation not permitted
    assert "\n" not in traffic[2]


def test_filters_of_a_killed_agent_run_on_and_are_removed_by_the_next(lab: Lab) -> None:
    lab.add_pod()
    with program(lab, "+bpf,+perfmon,+net_admin", "--clsact") as first:
        assert "covered\n" == answer(first)
        first.kill()
    with inside(lab.node):
        assert 2 == len(leftovers.find_leftovers())
    with program(lab, "+bpf,+perfmon,+net_admin") as second:
        assert "covered\n" == answer(second)
        with inside(lab.node):
            assert leftovers.find_leftovers() == []
        second.communicate(timeout=60)
