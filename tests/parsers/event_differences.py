"""How older releases printed access logs and debug messages; see ``hubble_differences``.

Each entry rewrites our event as the release printed it, and says whether it had to.
"""

from __future__ import annotations

import re

from tests.parsers.hubble_differences import Difference, Event, World


def _no_cluster_names(event: Event, data: bytes, world: World) -> bool:
    sides = [event.get(name, {}) for name in ("source", "destination")]
    return any([side.pop("cluster_name", None) is not None for side in sides])  # noqa: C419


def _fewer_dns_types(event: Event, data: bytes, world: World) -> bool:
    before = repr(event)
    dns = event["l7"].get("dns", {})
    for field in ("qtypes", "rrtypes"):
        if field in dns:
            dns[field] = ["Unknown" if t in ("HTTPS", "SVCB") else t for t in dns[field]]
    if event.get("Summary", "").startswith("DNS"):
        event["Summary"] = re.sub(r"\b(HTTPS|SVCB)\b", "Unknown", event["Summary"])
    return repr(event) != before


def _server_failure(event: Event, data: bytes, world: World) -> bool:
    before = event.get("Summary", "")
    event["Summary"] = before.replace("RCode: Server Failure TTL", "RCode: Server Failure  TTL")
    if not before:
        del event["Summary"]
        return False
    return bool(event["Summary"] != before)


def _passwords_in_summaries(event: Event, data: bytes, world: World) -> bool:
    found = re.search(rb"//[^:/@]*:([^/@]+)@", data)
    if found is None:
        return False
    before = event["Summary"]
    event["Summary"] = before.replace("HUBBLE_REDACTED", found[1].decode())
    return bool(event["Summary"] != before)


ACCESS_LOGS = (
    Difference(
        "no cluster names in access logs", "new in 1.16", until="v1.15", event=_no_cluster_names
    ),
    Difference(
        "two types of DNS without a name",
        "HTTPS and SVCB got their names in 1.17; before, they printed as Unknown",
        until="v1.16",
        event=_fewer_dns_types,
    ),
    Difference(
        "a space behind a server failure",
        "until 1.16 the text of response code 2 ended in a space",
        until="v1.16",
        event=_server_failure,
    ),
    Difference(
        "passwords in summaries",
        "1.15 began to redact them there too; showing secrets is nothing to imitate",
        until="v1.14",
        event=_passwords_in_summaries,
    ),
)


def _two_arguments(event: Event, data: bytes, world: World) -> bool:
    if event.get("type") != "DBG_GENERIC":
        return False
    event["message"] = re.sub(r" arg3=.*", "", event["message"])
    return True


def _soliciation(event: Event, data: bytes, world: World) -> bool:
    before = event["message"]
    event["message"] = before.replace("solicitation", "soliciation")
    return bool(event["message"] != before)


def _no_loopback6(event: Event, data: bytes, world: World) -> bool:
    if data[1] not in (66, 67):
        return False
    event["message"] = f"Unknown message type={data[1]} arg1={event['arg1']} arg2={event['arg2']}"
    return True


DEBUG_MESSAGES = (
    Difference("generic messages of two arguments", "the third came with 1.20", until="v1.19",
               event=_two_arguments),
    Difference("a misspelt word", "corrected in 1.20", until="v1.19", event=_soliciation),
    Difference("no IPv6 loopback texts", "new in 1.19", until="v1.18", event=_no_loopback6),
)  # fmt: skip
