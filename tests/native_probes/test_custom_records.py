from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from native_probes.custom import CustomSettings, FieldType, as_reports, record_layout
from parsers.errors import UsageError


def settings(**record: FieldType) -> CustomSettings:
    return CustomSettings("mine", Path("mine.c"), "ring", tuple(record.items()))


def test_fields_with_a_columns_name_become_that_column() -> None:
    layout = record_layout(
        settings(time_ns="u64", source="ipv4", destination="ipv4", destination_port="u16",
                 mine="u16", bytes="u32")
    )  # fmt: skip
    records = np.zeros(1, layout)
    records["source"], records["destination"] = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    records["destination_port"], records["mine"], records["bytes"] = 80, 7, 1500
    records["time_ns"] = 99
    (report,) = as_reports(records)
    assert ip_address("::ffff:10.0.0.1").packed == bytes(report["source"])
    assert (4, 80, 1500, 1, 99) == tuple(
        int(report[n]) for n in ("family", "destination_port", "bytes", "packets", "last_ns")
    )


def test_addresses_of_sixteen_bytes_have_the_family_that_they_are_of() -> None:
    records = np.zeros(2, record_layout(settings(source="ip", destination="ip")))
    records["source"][0] = ip_address("fd00::1").packed
    records["source"][1] = ip_address("::ffff:1.2.3.4").packed
    assert [6, 4] == as_reports(records)["family"].tolist()


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"source": "ip"}, "has no destination"),
        ({"source": "ip", "destination": "ip", "mine": "u32"}, "pad it to a multiple of 8"),
        ({"source": "u64", "destination": "ip"}, "source of mine cannot be of type u64"),
        ({"source": "ip", "destination": "ip", "bytes": "ip"}, "bytes of mine cannot be"),
    ],
)
def test_what_cannot_be_a_record_is_said(record: dict[str, FieldType], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        record_layout(settings(**record))
