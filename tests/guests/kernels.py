"""Debian's kernels, booted in an emulated machine that sees this machine's files.

A kernel's package is downloaded and unpacked below ``.cache``, never installed (that would
build boot images). virtme-ng starts QEMU on it with our root file system read-only, so a
guest runs this clone's Python and tests; one folder can be written to. There is no KVM:
a guest is ten times slower, so tests have patience, and no time is taken from it.

Wants root, apt, qemu-system-x86, busybox-static and virtme-ng; see ``.ci/run``.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / ".cache" / "kernels"
MODULES = (
    "veth", "bridge", "dummy", "8021q", "sctp", "tun", "vxlan", "cls_bpf", "cls_u32",
    "sch_ingress", "sch_netem", "sch_tbf", "nf_conntrack", "nf_nat", "nf_tables", "nft_ct",
    "nft_chain_nat", "nft_masq", "nft_reject_inet", "nf_conntrack_netlink", "iptable_filter",
)  # fmt: skip
TIMEOUT = 900  # seconds; a machine with other work takes three times what a quiet one does
_MEMORY = "2G"
_BOOTS = 3  # an emulated machine now and then ends before it has begun

GUEST = """#!/bin/bash
mount -t tracefs nodev /sys/kernel/tracing
mount -t tmpfs none /run/netns 2>/dev/null || { mkdir -p /run/netns && mount -t tmpfs none /run/netns; }
for module in MODULES; do modprobe -q "$module"; done
cd ROOT || exit
COMMAND > OUT/said 2>&1 < /dev/null
echo $? > OUT/status
"""  # noqa: E501


class NoGuestError(Exception):
    """Why a guest cannot be started here."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command in a guest came to."""

    status: int
    said: str


def newest(series: str) -> str:
    """The release of the newest kernel of a series (``6.1``) that apt knows."""
    names = _run("apt-cache", "search", "--names-only", rf"^linux-image-{re.escape(series)}\.")
    pattern = rf"linux-image-({re.escape(series)}\.[0-9]\S*-amd64) "
    releases: list[str] = [
        r for r in re.findall(pattern, names) if "cloud" not in r and "rt" not in r
    ]
    if not releases:
        raise NoGuestError(f"apt knows no kernel {series}; run: apt-get update")
    return max(releases, key=lambda release: [int(n) for n in re.findall(r"\d+", release)])


def unpacked(release: str) -> Path:
    """The folder of a kernel's files; downloaded when they are not there."""
    folder = KERNELS / release
    if not folder.exists():
        KERNELS.mkdir(parents=True, exist_ok=True)
        package = f"linux-image-{release}"
        _run("apt-get", "download", package, cwd=KERNELS)
        (archive,) = KERNELS.glob(f"{package}_*.deb")
        _run("dpkg-deb", "-x", str(archive), f"{folder}.new")
        Path(f"{folder}.new").rename(folder)
        archive.unlink()
    return folder


def run_in_guest(
    release: str, out: Path, command: list[str], environment: Mapping[str, str]
) -> Ran:
    """Run a command in a guest; ``out`` is the folder that it can write to."""
    folder = unpacked(release)
    modules = Path("/lib/modules") / release
    if not modules.exists():
        modules.parent.mkdir(exist_ok=True)
        modules.unlink(missing_ok=True)  # a link to a clone that is gone
        modules.symlink_to(folder / "lib" / "modules" / release)
    if not (modules / "modules.dep").exists():
        _run("depmod", release)
    settings = [f"{key}={value}" for key, value in environment.items()]
    script = out / "guest"
    words = {
        "MODULES": " ".join(MODULES),
        "ROOT": shlex.quote(str(ROOT)),
        "OUT": shlex.quote(str(out)),
        "COMMAND": shlex.join(["env", *settings, *command]),
    }
    script.write_text(re.sub("|".join(words), lambda word: words[word[0]], GUEST))
    script.chmod(0o755)
    vng = [
        "vng", "--run", str(folder / "boot" / f"vmlinuz-{release}"), "--disable-kvm",
        "--cpus", "2", "--memory", _MEMORY, "--rwdir", str(out), "--", str(script),
    ]  # fmt: skip
    status, said, console = out / "status", out / "said", out / "console"
    for _ in range(_BOOTS):
        with console.open("wb") as file:
            # A session of its own, as QEMU would outlive who started it.
            booted = subprocess.Popen(
                vng, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=out,
                start_new_session=True,
            )  # fmt: skip
            try:
                booted.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                text = said.read_text(errors="replace") if said.exists() else ""
                raise AssertionError(
                    f"the guest took more than {TIMEOUT} s: {text[-4000:]}"
                ) from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(booted.pid, signal.SIGKILL)
                booted.wait()
        if status.exists():
            break
    if not status.exists():
        raise NoGuestError(f"the guest did not run: {console.read_text(errors='replace')[-4000:]}")
    return Ran(int(status.read_text()), said.read_text(errors="replace"))


def obstacle() -> str:
    """Why no guest can be started here; "" when one can."""
    if os.geteuid():
        return "guests want root"
    path = os.environ["PATH"].split(os.pathsep)
    for program, remedy in (
        ("vng", "./dev setup guests"),
        ("qemu-system-x86_64", "apt-get install qemu-system-x86"),
        ("busybox", "apt-get install busybox-static"),
        ("depmod", "apt-get install kmod"),
    ):
        if not any((Path(folder) / program).exists() for folder in (*path, "/sbin")):
            return f"{program} is missing; install it: {remedy}"
    return ""


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        raise NoGuestError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout
