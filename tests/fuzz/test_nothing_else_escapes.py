"""Each target runs for a while, guided by the coverage of our code.

``CILIARY_FUZZ_SECONDS`` says how long each; what is found is printed with the bytes that
show it, in base 64.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

TARGETS = ("monitor_stream", "monitor_records", "flow_requests", "settings", "http_requests")
SECONDS = int(os.environ.get("CILIARY_FUZZ_SECONDS", "30"))
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_nothing(target: str, tmp_path: Path) -> None:
    if find_spec("atheris") is None:
        if os.environ.get("CI"):
            pytest.fail("atheris is missing; install it: ./dev setup fuzz")
        pytest.skip("atheris is missing; install it: ./dev setup fuzz")
    options = (f"-max_total_time={SECONDS}", "-timeout=30", "-max_len=4096")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, tmp_path / "corpus", *options,
         f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT, check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-8000:]
    assert "Done " in ran.stderr
