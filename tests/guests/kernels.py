"""Debian's kernels, booted in an emulated machine that sees this machine's files.

A kernel's packages are downloaded and unpacked below ``.cache``, never installed (that would
build boot images); they come from releases of Debian of which the system knows nothing, so
there is a list of sources of our own, at the system's mirror. virtme-ng starts QEMU on it
with our root file system read-only, so a guest runs this clone's Python and tests; one folder
can be written to. There is no KVM: a guest is ten times slower, so tests have patience, and
no time is taken from it.

Wants root, apt, qemu-system-x86, busybox-static and virtme-ng; see ``.ci/run``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / ".cache" / "kernels"
SUITES = ("bullseye", "bookworm", "trixie", "trixie-backports")  # 5.10, 6.1, 6.12, the newest
MODULES = (
    "veth", "bridge", "dummy", "8021q", "sctp", "tun", "vxlan", "cls_bpf", "cls_u32",
    "sch_ingress", "sch_netem", "sch_tbf", "nf_conntrack", "nf_nat", "nf_tables", "nft_ct",
    "nft_chain_nat", "nft_masq", "nft_reject_inet", "nf_conntrack_netlink", "iptable_filter",
)  # fmt: skip
TIMEOUT = 900  # seconds; a machine with other work takes three times what a quiet one does
_MEMORY = "2G"
# QEMU 7.2 computes AVX2 wrong: numpy's argsort of 64-bit numbers is out of order there, and right
# on real processors with AVX2 and without.
_PROCESSOR = "-cpu max,avx=off,avx2=off"
_BOOTS = 3  # an emulated machine now and then ends before it has begun

# The root file system is asked for every path again and again, which takes Linux 5.10 minutes to
# import pytest. The same files are mounted once more, so that what was read stays known (six to
# nine times faster), and the command runs there.
GUEST = """#!/bin/bash
mount -t tracefs nodev /sys/kernel/tracing
mount -t tmpfs none /run/netns 2>/dev/null || { mkdir -p /run/netns && mount -t tmpfs none /run/netns; }
for module in MODULES; do modprobe -q "$module"; done
files=/run/files
mkdir $files
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose files $files || exit
for folder in /proc /sys /dev /tmp; do mount --rbind $folder $files$folder; done
mount -t tmpfs none $files/run && mkdir $files/run/netns && mount -t tmpfs none $files/run/netns
[ -e $files/OUT/guest ] && mountpoint -q $files/OUT || mount --bind OUT $files/OUT
chroot $files COMMAND > OUT/said 2>&1 < /dev/null
echo $? > OUT/status
"""  # noqa: E501
_FILES = "-virtfs local,path=/,mount_tag=files,security_model=none,readonly=on,multidevs=remap"


class NoGuestError(Exception):
    """Why a guest cannot be started here."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command in a guest came to."""

    status: int
    said: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be booted: ``image`` and the folder of its modules."""

    release: str
    image: Path
    modules: Path


@cache
def _sources() -> tuple[str, ...]:
    """Options that let apt know the packages of ``SUITES`` and nothing else."""
    lists = KERNELS / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    sites = _run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages").split()
    site = next((site for site in sites if site.endswith("/debian")), None)
    if site is None:
        raise NoGuestError("apt knows no mirror of Debian; run: apt-get update")
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    written = "".join(f"deb {signed} {site} {suite} main\n" for suite in SUITES)
    (KERNELS / "sources").write_text(written)
    options = (
        "-o", f"Dir::Etc::SourceList={KERNELS / 'sources'}",
        "-o", "Dir::Etc::SourceParts=/dev/null",
        "-o", f"Dir::State::Lists={lists}", "-o", "Dir::Cache::pkgcache=",
        "-o", "Dir::Cache::srcpkgcache=", "-o", "APT::Sandbox::User=root",
    )  # fmt: skip
    _run("apt-get", *options, "-qq", "update")
    return options


def newest(series: str) -> str:
    """The release of the newest kernel of a series (``6.1``), or of all (``""``)."""
    names = _run("apt-cache", *_sources(), "search", "--names-only", "^linux-image-[0-9]")
    pattern = rf"^linux-image-({re.escape(series)}{r'[.]' * bool(series)}[0-9]\S*-amd64) "
    releases: list[str] = [
        release
        for release in re.findall(pattern, names, re.MULTILINE)
        if not re.search("-(cloud|rt)-", release)
    ]
    if not releases:
        raise NoGuestError(f"apt knows no kernel {series} in {', '.join(SUITES)}")
    return max(releases, key=lambda release: [int(n) for n in re.findall(r"\d+", release)])


def unpacked(release: str) -> Kernel:
    """A kernel's files; downloaded when they are not there."""
    folder = KERNELS / release
    if not folder.exists():
        loading = KERNELS / f"{release}.new"
        shutil.rmtree(loading, ignore_errors=True)
        loading.mkdir(parents=True)
        # Since 7.1 the package of the image is empty, and wants these two.
        parts = [f"linux-binary-{release}", f"linux-modules-{release}"]
        known = _run("apt-cache", *_sources(), "pkgnames", f"linux-modules-{release}").split()
        packages = parts if parts[1] in known else [f"linux-image-{release}"]
        _run("apt-get", *_sources(), "download", *packages, cwd=loading)
        for archive in loading.glob("*.deb"):
            _run("dpkg-deb", "-x", str(archive), str(loading))
            archive.unlink()
        loading.rename(folder)
    modules = next(
        path for usr in ("usr/lib", "lib") if (path := folder / usr / "modules" / release).exists()
    )
    images = (folder / "boot" / f"vmlinuz-{release}", modules / "vmlinuz")
    return Kernel(release, next(image for image in images if image.exists()), modules)


def run_in_guest(
    release: str, out: Path, command: list[str], environment: Mapping[str, str]
) -> Ran:
    """Run a command in a guest; ``out`` is the folder that it can write to."""
    kernel = unpacked(release)
    modules = Path("/lib/modules") / release
    if not modules.exists():
        modules.parent.mkdir(exist_ok=True)
        modules.unlink(missing_ok=True)  # a link to a clone that is gone
        modules.symlink_to(kernel.modules)
    if not (modules / "modules.dep").exists():
        _run("depmod", release)
    settings = [f"{key}={value}" for key, value in environment.items()]
    script = out / "guest"
    words = {
        "MODULES": " ".join(MODULES),
        "OUT": shlex.quote(str(out)),
        "COMMAND": shlex.join(["env", f"--chdir={ROOT}", *settings, *command]),
    }
    script.write_text(re.sub("|".join(words), lambda word: words[word[0]], GUEST))
    script.chmod(0o755)
    vng = [
        "vng", "--run", str(kernel.image), "--disable-kvm", f"--qemu-opts={_PROCESSOR} {_FILES}",
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
