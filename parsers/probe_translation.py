"""What clients and servers know each other by, where the node translates addresses.

Records have the real ends, and ``TRANSLATION``'s columns beside them if any of them was
translated. Flows of one connection share what is said.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from parsers.addresses import address_text
from parsers.directory import Directory, Frontends
from parsers.flow_batch import FlowTables
from parsers.probe_flows import ProbeFlows
from parsers.probe_records import TRANSLATION
from parsers.windows import Columns


def known_as(records: Columns) -> Columns:
    """The ``TRANSLATION`` of each record; of length 0 if nothing is translated."""
    if "front" not in (records.dtype.names or ()):
        return np.empty(0, TRANSLATION)
    names = list(TRANSLATION.names or ())
    found: Columns = records[names].astype(TRANSLATION)
    return found


def set_translated(
    found: ProbeFlows, tables: FlowTables, directory: Directory, boot_offset: int
) -> None:
    """Have the flows, which are ``tables``' once they are assembled, say what they are known as.

    ``directory`` knows the services, at times that are ``boot_offset`` (ns) later than the
    kernel's.
    """
    flows, told = found.flows, found.known_as
    rows = ((told["front_port"] | told["masked_port"]) != 0).nonzero()[0]
    if not len(rows):
        return
    told = told[rows]
    keys: list[bytes] = told.view(f"V{TRANSLATION.itemsize}").tolist()
    times = found.time[rows] + boot_offset
    served = directory.at(np.ascontiguousarray(told["front"]), times).frontends.tolist()
    protocols = flows.flow_class["l4"].tolist()
    shared: dict[tuple[bytes, int, int], dict[str, Any]] = {}
    for index, row in enumerate(rows.tolist()):
        key = keys[index], served[index], protocols[row]
        fields = shared.get(key)
        if fields is None:
            fields = shared[key] = _translation(told[index], directory.frontends[key[1]], key[2])
        odd, site = flows.extra.get(row, {}), int(flows.site[row])
        if odd or site:
            more = *odd.get("extension", ()), *tables.extensions[site]
            extension = tuple(sorted((*more, *fields["extension"])))
            fields, flows.site[row] = odd | fields | {"extension": extension}, 0
        flows.extra[row] = fields


def _translation(told: Columns, frontends: Frontends, l4: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    extension: list[tuple[str, str | float]] = []
    side = "destination" if told["from_client"] else "source"
    if port := int(told["front_port"]):
        extension.append(("front", _end_text(told["front"].tobytes(), port)))
        service = frontends.at(l4, port)
        if service is not None:
            fields[f"{side}_service"] = service
    if port := int(told["masked_port"]):
        masked = told["masked"].tobytes()
        extension.append(("masked", _end_text(masked, port)))
        if told["from_client"]:
            fields["source_xlated"] = address_text(masked)
    return fields | {"extension": tuple(extension)}


def _end_text(address: bytes, port: int) -> str:
    text = address_text(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
