"""What Python reads is what the compiled programs write, field by field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from native_probes.drops import DROP_RULE
from parsers import probe_records as records
from parsers.probe_dns import DNS_RECORD
from parsers.probe_drops import DROP_RECORD, VERDICT_RECORD
from parsers.probe_tcp import TCP_RECORD
from tests.native_probes.object_layouts import OBJECTS, layouts

SHARED = [
    ("traffic", "flow_key", records.FLOW_KEY),
    ("traffic", "flow_value", records.FLOW_VALUE),
    ("traffic", "flow_event", records.FLOW_EVENT),
    ("traffic", "interface_key", records.INTERFACE_KEY),
    ("traffic", "interface_value", records.INTERFACE_VALUE),
    ("drops", "drop_record", DROP_RECORD),
    ("drops", "drop_rule", DROP_RULE),
    ("tcp", "tcp_record", TCP_RECORD),
    ("sockets", "tcp_record", TCP_RECORD),
    ("netfilter", "verdict_record", VERDICT_RECORD),
    ("dns", "dns_record", DNS_RECORD),
]


@pytest.mark.parametrize(("probe", "name", "dtype"), SHARED)
def test_a_shared_struct_has_the_same_fields_on_both_sides(
    probe: str, name: str, dtype: np.dtype[Any]
) -> None:
    layout = layouts(OBJECTS / f"{probe}.bpf.o")[name]
    assert dtype.fields is not None
    assert layout.fields == {field: info[1] for field, info in dtype.fields.items()}
    assert layout.size == dtype.itemsize


@pytest.mark.parametrize("path", sorted(OBJECTS.glob("*.bpf.o")), ids=lambda path: path.name)
def test_an_object_tells_nothing_of_the_folder_it_was_built_in(path: Path) -> None:
    assert re.findall(rb"\0(/[\w.-]+/[\w./-]*)", path.read_bytes()) == []
