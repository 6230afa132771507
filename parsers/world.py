"""A ``Directory`` of one snapshot: what an identity file, or a recording's world, says.

The mapping is plain JSON data of the file's schema (``docs/reference/identity-file.md``);
whoever read the file has validated it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsers.addresses import first_of_each_family, parse_address
from parsers.details import Service
from parsers.directory import AddressRecord, Directory, LocalEndpoint
from parsers.entities import Workload
from parsers.errors import UsageError
from parsers.policies import EGRESS, INGRESS, PolicyEntry, PolicyMap, policy_from_labels


def directory_of(world: Mapping[str, Any]) -> Directory:
    """Everything the snapshot knows, valid since ever."""
    directory = Directory()
    for record in world.get("ips") or ():
        directory.set_address(
            record["cidr"],
            AddressRecord(
                record.get("identity", 0), record.get("namespace", ""), record.get("pod", "")
            ),
        )
    # After the prefixes: an endpoint knows itself.
    for record in world.get("endpoints") or ():
        endpoint, addresses = _endpoint(record)
        directory.set_endpoint(endpoint, addresses)
    directory.set_identities(
        {i["id"]: tuple(i.get("labels") or ()) for i in world.get("identities") or ()}
    )
    directory.set_services(
        {
            (_address(s["ip"]), s["port"]): Service(s["name"], s.get("namespace", ""))
            for s in world.get("services") or ()
        }
    )
    directory.set_names(
        {(d["endpoint"], _address(d["ip"])): tuple(d["names"]) for d in world.get("dns") or ()}
    )
    directory.set_links({k["index"]: k["name"] for k in world.get("links") or ()})
    directory.set_cgroups(
        {c["id"]: first_of_each_family(c.get("ips") or ()) for c in world.get("cgroups") or ()}
    )
    return directory


def node_name_of(world: Mapping[str, Any]) -> str:
    """``cluster/node``, or the bare node in the cluster called ``default``."""
    node = world.get("node") or {}
    name, cluster = str(node.get("name", "")), str(node.get("cluster", ""))
    return name if cluster in ("", "default") else f"{cluster}/{name}"


def _endpoint(record: Mapping[str, Any]) -> tuple[LocalEndpoint, tuple[bytes, ...]]:
    workload = record.get("workload")
    policy = record.get("policy")
    return LocalEndpoint(
        id=record["id"],
        identity=record.get("identity", 0),
        namespace=record.get("namespace", ""),
        pod_name=record.get("pod", ""),
        labels=tuple(record.get("labels") or ()),
        workloads=(Workload(workload["name"], workload["kind"]),) if workload else (),
        policy=PolicyMap(map(_policy_entry, policy)) if policy else None,
    ), tuple(_address(record[f]) for f in ("ipv4", "ipv6") if record.get(f))


def _policy_entry(record: Mapping[str, Any]) -> PolicyEntry:
    revision = record.get("revision", 0)
    return PolicyEntry(
        direction=EGRESS if record["direction"] == "egress" else INGRESS,
        identity=record.get("identity", 0),
        protocol=record.get("proto", 0),
        port=record.get("port", 0),
        policies=tuple(policy_from_labels(tuple(r), revision) for r in record.get("rules") or ()),
        log=tuple(record.get("log") or ()),
        deny=record.get("deny", False),
    )


def _address(text: str) -> bytes:
    address = parse_address(text)
    if address is None:
        raise UsageError(f"'{text}' is not an ip address")
    return address
