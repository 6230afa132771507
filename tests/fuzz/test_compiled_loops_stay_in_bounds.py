"""Compiled loops read and write what they were given and nothing else, whatever comes.

The sources are built with AddressSanitizer and UndefinedBehaviorSanitizer, and tests with
hostile input run with that object in a Python whose allocations all have guarded ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from parsers import compiled
from tests.programs import ROOT, program

SOURCES = Path(compiled.__file__).parent
TESTS = ROOT / "tests" / "parsers"
FLAGS = (
    "-std=c11", "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all", "-shared", "-fPIC",
)  # fmt: skip
# What takes longest under sanitizers; the rest reads the same bytes in as many ways.
LEFT_OUT = (
    "byte_by_byte", "odd_", "growing_table", "one_byte_changed", "nothing_is_read", "invented",
    "v1.19-mutated", "release1", "release2",
)  # fmt: skip
WANTED = " and ".join(f"not {name}" for name in LEFT_OUT)
OVERRUN = "long long overrun(const char *at, long long count) { return at[count]; }\n"
READ_TOO_FAR = """
import ctypes, sys
import numpy as np
column = np.empty(3000, dtype=np.uint8)
function = ctypes.PyDLL(sys.argv[1]).overrun
function.argtypes = (ctypes.c_void_p, ctypes.c_int64)
function(column.ctypes.data, 2999)
print("inside", flush=True)
function(column.ctypes.data, 3000)
"""


def build(out: Path, *sources: Path) -> Path:
    subprocess.run([program("gcc", "gcc"), *FLAGS, *sources, "-o", out], check=True, timeout=120)
    return out


def run(loaded: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Python with the sanitizer's allocator."""
    asked = ["gcc", "-print-file-name=libasan.so"]
    library = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    environment = {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, at its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # small objects have guards as well
        "PYTHONPATH": str(ROOT),
        compiled.SWITCH: str(loaded),
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_a_read_of_one_byte_too_far_is_caught(tmp_path: Path) -> None:
    source = tmp_path / "overrun.c"
    source.write_text(OVERRUN)
    loaded = build(tmp_path / "overrun.so", source)
    ran = run(loaded, "-c", READ_TOO_FAR, loaded)
    assert "inside\n" == ran.stdout, ran.stderr[-2000:]
    assert "heap-buffer-overflow" in ran.stderr
    assert ran.returncode


def test_hostile_input_is_read_within_its_bounds(tmp_path: Path) -> None:
    loaded = build(tmp_path / "guarded.so", *sorted(SOURCES.glob("*.c")))
    names = ("test_hostile_input.py", "test_intern.py", "test_access_log_walk.py")
    files = [*(TESTS / name for name in names), *sorted(TESTS.glob("test_compiled*equal*.py"))]
    options = (
        "-q", "-p", "no:cacheprovider", "-p", "tests.fuzz.exact_columns", "-k", WANTED,
        "--capture=sys",  # the sanitizer ends the process, and says why on the real stderr
    )  # fmt: skip
    ran = run(loaded, "-m", "pytest", *options, *files)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-8000:]
