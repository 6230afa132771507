"""``python -m tests.fuzz TARGET CORPUS [-OPTION=VALUE...]``: fuzz one target.

Inputs that are worth keeping are added to the folder ``CORPUS``, which is given the
target's seeds first. The options are libFuzzer's, such as ``-max_total_time=60``.
"""

from __future__ import annotations

import hashlib
import sys
from importlib import import_module
from pathlib import Path

import atheris


def main() -> None:
    """Run the target of the command line until it fails or its time is over."""
    name, corpus, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["api", "bridge", "parsers"]):
        target = import_module(f"tests.fuzz.{name}")
    folder = Path(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (folder / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(folder), *options], target.check)
    atheris.Fuzz()


main()
