"""Writes the tables of kernels in docs/reference/probes.md from the runs of the kernel tier.

``python -m tools.kernel_table [--check] FOLDER``. The folder has a JUnit file for each kernel
(``5.10.xml`` ... ``newest.xml``, and ``here.xml`` for the build machine's own), with the release
as property ``kernel``. ``--check`` changes nothing and ends with 1 when what the page claims of
the emulated kernels is not what the runs proved; releases may differ, since distributions go
on, and so may build machines.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "probes.md"
EMULATED = ("5.10", "6.1", "6.12", "newest")
HERE = "here"
_RELEASES = re.compile(r"^Runs: .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """One kernel's: ``skipped`` and ``passed`` by file of tests, reasons and counts."""

    release: str
    passed: dict[str, int]
    skipped: dict[str, list[str]]


def read(path: Path) -> Run:
    """A JUnit file. Raises ValueError for one that is not of a run that passed."""
    suite = next(ET.parse(path).getroot().iter("testsuite"))  # noqa: S314 - our own file
    if int(suite.get("failures", "0")) or int(suite.get("errors", "0")):
        raise ValueError(f"{path}: tests failed in this run")
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    passed: dict[str, int] = defaultdict(int)
    skipped: dict[str, list[str]] = defaultdict(list)
    for case in suite.iter("testcase"):
        file = (case.get("classname") or "").rpartition(".")[2]
        skip = case.find("skipped")
        if skip is None:
            passed[file] += 1
        else:
            skipped[file].append(skip.get("message") or "")
    return Run(properties.get("kernel") or "unknown", passed, skipped)


def table(runs: dict[str, Run]) -> str:
    """Markdown: a line for each file of tests, a column for each run, then the notes."""
    notes: list[str] = []

    def cell(run: Run, file: str) -> str:
        if not (run.passed.get(file) or run.skipped.get(file)):
            return ""
        for reason in run.skipped.get(file, ()):
            if reason not in notes:
                notes.append(reason)
        marks = sorted({notes.index(reason) + 1 for reason in run.skipped.get(file, ())})
        said = "yes" if run.passed.get(file) else "no"
        return said + "".join(f" [{mark}]" for mark in marks)

    files = sorted({file for run in runs.values() for file in (*run.passed, *run.skipped)})
    lines = [
        "| tests of | " + " | ".join(runs) + " |",
        "|---" * (1 + len(runs)) + "|",
        *(
            f"| {file.removeprefix('test_').replace('_', ' ')} | "
            + " | ".join(cell(run, file) for run in runs.values())
            + " |"
            for file in files
        ),
        "",
        "Runs: " + ", ".join(f"{column} {run.release}" for column, run in runs.items()),
    ]
    if notes:
        lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """The exit code."""
    folders = [one for one in arguments if one != "--check"]
    if len(folders) != 1:
        sys.stderr.write("usage: python -m tools.kernel_table [--check] FOLDER\n")
        return 2
    found = {path.stem: read(path) for path in Path(folders[0]).glob("*.xml")}
    if missing := [column for column in (*EMULATED, HERE) if column not in found]:
        sys.stderr.write(f"{folders[0]} has no run of {', '.join(missing)}\n")
        return 1
    text = PAGE.read_text(encoding="utf-8")
    emulated = table({column: found[column] for column in EMULATED})
    wanted = _with(text, "emulated kernels", emulated)
    if "--check" not in arguments:
        PAGE.write_text(_with(wanted, "build machine", table({HERE: found[HERE]})), "utf-8")
        return 0
    if _RELEASES.sub("", wanted) == _RELEASES.sub("", text):
        return 0
    sys.stderr.write(
        f"{PAGE} claims what these runs did not prove, or lacks what they did; the table is\n"
        f"{emulated}run python -m tools.kernel_table {folders[0]}\n"
    )
    return 1


def _with(text: str, name: str, inner: str) -> str:
    """The page with a table between its marks."""
    marks = re.compile(f"(<!-- {name}: .*? -->\n).*?(<!-- end -->)", re.DOTALL)
    return marks.sub(lambda found: found[1] + inner + found[2], text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
