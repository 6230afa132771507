"""Generate ``api/v1`` from ``api/proto``: ``python -m tools.generate_stubs [--check]``.

The generators run at pinned versions in an environment of their own that uv makes (uv
and a package index are needed, nothing else). The pins are deliberately old: generated
code refuses runtimes older than its generator, so these pins are the floor of the
product's dependencies (protobuf 6.31.1, grpcio 1.74).

protoc writes imports as if each proto package were a top-level Python package; they are
rewritten to live below ``api.v1``. The registered file names (``flow/flow.proto``) stay,
as server reflection and other Cilium protos expect them.

``--check`` generates into a temporary directory and fails when the committed files differ.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "api" / "proto"
STUBS = ROOT / "api" / "v1"
GENERATORS = ("grpcio-tools==1.74.0", "mypy-protobuf==5.1.0", "setuptools==80.9.0")
PACKAGES = ("flow", "observer", "peer", "relay")
SERVICES = ("observer", "peer")

_IMPORT = re.compile(rf"^(from|import) ({'|'.join(PACKAGES)})\b", re.MULTILINE)
_DOC = '"""Generated from ``api/proto`` by ``python -m tools.generate_stubs``; do not edit."""\n'


def generate(target: Path) -> None:
    """Write all stubs below ``target``; raises ``CalledProcessError`` with protoc's text shown."""
    uv = shutil.which(
        "uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    )
    if uv is None:
        sys.exit("uv is not installed; install it with: python -m pip install uv")
    pins = [word for pin in GENERATORS for word in ("--with", pin)]
    protoc = [uv, "run", "--quiet", "--no-project", "--isolated", *pins]
    protoc += ["python", "-m", "grpc_tools.protoc", f"-I{PROTO}"]
    messages = [f"{name}/{name}.proto" for name in PACKAGES]
    services = [f"{name}/{name}.proto" for name in SERVICES]
    subprocess.run(
        [*protoc, f"--python_out={target}", f"--mypy_out=quiet:{target}", *messages], check=True
    )
    subprocess.run(
        [*protoc, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}", *services],
        check=True,
    )
    for path in target.glob("*/*.py*"):
        path.write_text(_IMPORT.sub(r"\1 api.v1.\2", path.read_text()))
    for directory in (target, *(target / name for name in PACKAGES)):
        (directory / "__init__.py").write_text(_DOC)


def stale_files(fresh: Path) -> list[str]:
    """Names of files that differ between ``fresh`` and the committed stubs, or are in one only."""
    names = {p.relative_to(base) for base in (fresh, STUBS) for p in base.rglob("*.py*")}
    return sorted(
        str(name)
        for name in names
        if "__pycache__" not in name.parts
        and not (
            (fresh / name).exists()
            and (STUBS / name).exists()
            and filecmp.cmp(fresh / name, STUBS / name, shallow=False)
        )
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when the stubs are fresh (now), 1 when ``--check`` found stale ones."""
    parser = argparse.ArgumentParser(description="generate api/v1 from api/proto")
    parser.add_argument("--check", action="store_true", help="only prove that api/v1 is fresh")
    check: bool = parser.parse_args(arguments).check
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        stale = stale_files(fresh)
        if check:
            for name in stale:
                print(f"api/v1/{name} is stale; run: python -m tools.generate_stubs")
            return 1 if stale else 0
        shutil.rmtree(STUBS, ignore_errors=True)
        shutil.copytree(fresh, STUBS)
    print(f"{len(stale)} files of api/v1 changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
