"""What Python declares is what the header declares, and what the objects have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from parsers import compiled
from tests.parsers.shared_object import OBJECTS, PROCESSORS, exports, has_relocations

HEADER = Path(compiled.__file__).parent / "kernels.h"


COLUMNS = {"u8": "b", "u16": "h", "u32": "i", "u64": "q", "i64": "q", "struct": "b"}


def declared() -> dict[str, str]:
    """The prototypes of the header, as ``SIGNATURES`` writes them."""
    code = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    found: dict[str, str] = {}
    for result, name, taken in re.findall(r"^EXPORT ([^(]+?)(\w+)\(([^)]*)\);", code, re.MULTILINE):
        assert "i64 " == result, name
        found[name] = "".join(map(kind_of, taken.split(",")))
    assert code.count("EXPORT") == len(found) + 1  # its own definition
    return found


def kind_of(argument: str) -> str:
    kind, *rest = argument.replace("const ", "").split()
    if "*" in argument:
        return COLUMNS[kind]
    assert kind == "i64", argument
    assert len(rest) == 1, argument
    return "n"


def test_signatures_are_those_of_the_header() -> None:
    assert declared() == compiled.SIGNATURES


@pytest.mark.parametrize("processor", PROCESSORS)
def test_an_object_has_the_functions_and_wants_nothing(processor: str) -> None:
    data = (OBJECTS / f"{processor}.so").read_bytes()
    found = exports(data)
    assert sorted(compiled.SIGNATURES) == sorted(found)
    assert [] == [name for name, address in found.items() if not address]
    assert not has_relocations(data)  # which a table of pointers would need


def test_there_is_an_object_for_each_processor_that_is_tested() -> None:
    assert {f"{name}.so" for name in PROCESSORS} == {path.name for path in OBJECTS.iterdir()}
