"""Network namespaces with veths between them, as a CNI would make them; gone at the end.

A lab is one node and its pods: each pod's veth has its other end in the node, on a bridge
that has the node's address. All names are the lab's own, so that several labs may exist
on one kernel.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_numbers = itertools.count()
_CLONE_NEWNET = 0x40000000


def run(*command: str, given: str = "") -> str:
    """The output of a command that must succeed; ``given`` is what it reads."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, input=given
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done.stdout


def ip_lines(namespace: str, *lines: str) -> None:
    """Many commands of ``ip`` by one process, as each costs a second in an emulated guest."""
    run("ip", "-n", namespace, "-batch", "-", given="".join(f"{line}\n" for line in lines))


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """The calling thread is in a network namespace; sockets made there stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _set_namespace(there)
        try:
            yield
        finally:
            _set_namespace(home)
    finally:
        os.close(there)
        os.close(home)


def _set_namespace(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(frozen=True, slots=True)
class Pod:
    """``interface`` is the node's end of its veth; the pod's is eth0."""

    namespace: str
    interface: str
    ipv4: str
    ipv6: str


@dataclass(slots=True)
class Lab:
    """``node`` is a namespace with a bridge of 10.77.0.1/24 and fd77::1/64."""

    prefix: str = field(default_factory=lambda: f"cy{os.getpid()}x{next(_numbers)}")
    pods: list[Pod] = field(default_factory=list)

    def __post_init__(self) -> None:
        run("ip", "netns", "add", self.node)
        self.quiet(self.node)
        ip_lines(
            self.node,
            "link add br0 type bridge mcast_snooping 0",
            "addr add 10.77.0.1/24 dev br0",
            "addr add fd77::1/64 dev br0 nodad",
            "link set br0 up",
            "link set lo up",
        )

    @property
    def node(self) -> str:
        """The node's namespace."""
        return f"{self.prefix}n"

    def ip(self, *arguments: str) -> str:
        """``ip`` in the node."""
        return run("ip", "-n", self.node, *arguments)

    def tc(self, *arguments: str) -> str:
        """``tc`` in the node."""
        return run("tc", "-n", self.node, *arguments)

    def quiet(self, namespace: str) -> None:
        """No packets of the kernel's own: no router solicitations, no DAD, no link-local."""
        with inside(namespace):
            for name in ("all", "default"):
                for setting, value in (
                    ("accept_dad", "0"),
                    ("router_solicitations", "0"),
                    ("addr_gen_mode", "1"),
                ):
                    Path(f"/proc/sys/net/ipv6/conf/{name}/{setting}").write_text(value)

    def add_pod(self, before_up: Callable[[Pod], None] = lambda pod: None) -> Pod:
        """A namespace with a veth to the node; ``before_up`` runs before any packet."""
        number = len(self.pods) + 2
        pod = Pod(
            f"{self.prefix}p{number}", f"veth{number}", f"10.77.0.{number}", f"fd77::{number:x}"
        )
        run("ip", "netns", "add", pod.namespace)
        self.pods.append(pod)
        self.quiet(pod.namespace)
        veth = f"link add {pod.interface} type veth peer name eth0 netns {pod.namespace}"
        self.ip(*veth.split())
        before_up(pod)
        ip_lines(
            pod.namespace,
            f"addr add {pod.ipv4}/24 dev eth0",
            f"addr add {pod.ipv6}/64 dev eth0 nodad",
            "link set lo up",
            "link set eth0 up",
            "route add default via 10.77.0.1",
        )
        ip_lines(self.node, f"link set {pod.interface} master br0", f"link set {pod.interface} up")
        return pod

    def add_uplink(self, name: str, number: int = 1) -> Pod:
        """A namespace outside, to which a veth of the node leads; no route goes there yet.

        The node has .1 of 10.88.``number``.0/24 and fd88:``number``::/64 there, the outside .2.
        """
        there = Pod(f"{self.prefix}u{number}", name, f"10.88.{number}.2", f"fd88:{number}::2")
        run("ip", "netns", "add", there.namespace)
        self.pods.append(there)
        self.quiet(there.namespace)
        self.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns",
                there.namespace)  # fmt: skip
        for where, interface, last in ((self.node, name, 1), (there.namespace, "eth0", 2)):
            for address in (f"10.88.{number}.{last}/24", f"fd88:{number}::{last}/64"):
                run("ip", "-n", where, "addr", "add", address, "dev", interface)
            run("ip", "-n", where, "link", "set", interface, "up")
        return there

    def introduce(self, newcomer: Pod) -> None:
        """Let it and the other pods know each other's addresses, so that nothing is asked first."""
        macs = {pod.namespace: self.mac(pod.namespace, "eth0") for pod in self.pods}
        for one in self.pods:
            for pod, other in ((newcomer, one), (one, newcomer)):
                if pod is not other:
                    ip_lines(
                        pod.namespace,
                        *(
                            f"neigh replace {address} lladdr {macs[other.namespace]} dev eth0"
                            " nud permanent"
                            for address in (other.ipv4, other.ipv6)
                        ),
                    )

    def mac(self, namespace: str, interface: str) -> str:
        """The address of an interface."""
        (shown,) = json.loads(run("ip", "-n", namespace, "-j", "link", "show", interface))
        return str(shown["address"])

    def ifindex(self, interface: str) -> int:
        """Of an interface of the node."""
        return int(self.ip("-o", "link", "show", interface).split(":")[0])

    def close(self) -> None:
        """Remove everything."""
        for pod in self.pods:
            subprocess.run(["ip", "netns", "del", pod.namespace], check=False)
        subprocess.run(["ip", "netns", "del", self.node], check=False)
