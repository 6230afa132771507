"""A real name server in a pod, and a real client."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kernel.lab import Pod, inside
from tests.kernel.tracing import wait_for


@contextmanager
def dnsmasq(pod: Pod) -> Iterator[None]:
    """Once it answers."""
    assert shutil.which("dnsmasq"), "dnsmasq is wanted: dnsmasq-base"
    command = [
        "ip", "netns", "exec", pod.namespace, "dnsmasq", "--keep-in-foreground", "--no-resolv",
        "--no-hosts", "--edns-packet-max=4096", "--conf-file=/dev/null", "--user=root",
        "--pid-file=", "--local=/test/",
        "--host-record=www.shop.test,192.0.2.7,2001:db8::7,300",
        "--host-record=www.shop.test,192.0.2.8",
        "--cname=alias.shop.test,www.shop.test,60",
        "--txt-record=long.shop.test," + ",".join(["x" * 200] * 12),
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: server.poll() is not None or _listens(pod))
        assert server.poll() is None, server.stderr.read() if server.stderr else ""
        yield
    finally:
        server.kill()
        server.communicate()


def _listens(pod: Pod) -> bool:
    with inside(pod.namespace):
        return ":0035 " in Path("/proc/thread-self/net/udp6").read_text()


def dig(source: Pod, *arguments: str) -> str:
    """What it prints."""
    assert shutil.which("dig"), "dig is wanted: bind9-dnsutils"
    done = subprocess.run(
        ["ip", "netns", "exec", source.namespace, "dig", "+tries=1", "+timeout=2", *arguments],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return done.stdout
