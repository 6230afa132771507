"""Every way in which ciliary's answer differs from Hubble's, one by one, with the reason.

The golden test applies the entries in order; afterwards the answers must be equal. An
entry says what a release made of the same record in one or both of two ways: ``record``
rewrites the record so that it says to us what the release saw in it, ``event`` rewrites
our event as the release printed it. Both change nothing where the difference has no part,
and ``event`` says whether it changed something: an entry that never does is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from api.v1.flow import flow_pb2

Event = dict[str, Any]
World = dict[str, Any]
EventRule = Callable[[Event, bytes, World], bool]
RecordRule = Callable[[bytearray, World], None]

DROP, CAPTURE, TRACE, VERDICT, SOCK = 1, 3, 4, 5, 7
LEN_CAP = slice(12, 14)
VERSION, EXT_VERSION = 14, 15
NO_SUCH_VERSION = 255


@dataclass(frozen=True, slots=True)
class Difference:
    """One entry. ``event`` changes the JSON of an event of that ``kind`` in place, ``record``
    a payload's bytes; the former is given the payload as it was.

    ``until``: the last release that differs. ``rare``: none of the generated streams shows
    it, only the one made for 1.19.
    """

    name: str
    reason: str
    until: str
    record: RecordRule | None = None
    event: EventRule | None = None
    since: str = "v1.14"
    kind: str = "flow"
    rare: bool = False

    def holds_for(self, release: str) -> bool:
        """Whether the entry is about this release."""
        return self.since <= release <= self.until


# How records were read


def _version_of_two_bytes(data: bytearray, world: World) -> None:
    if len(data) > EXT_VERSION and data[0] in (DROP, TRACE) and data[EXT_VERSION]:
        data[VERSION] = NO_SUCH_VERSION


def _trace_versions(data: bytearray, world: World) -> None:
    if data[:1] == b"\x04" and len(data) > VERSION and data[VERSION] == 2:
        data[VERSION] = NO_SUCH_VERSION


def _drop_versions(data: bytearray, world: World) -> None:
    if data[:1] == b"\x01" and len(data) > VERSION and data[VERSION] == 3:
        data[VERSION] = NO_SUCH_VERSION


def _drops_of_one_layout(data: bytearray, world: World) -> None:
    if data[:1] == b"\x01" and len(data) > VERSION:
        data[VERSION] = 1


def _trace_flags(data: bytearray, known: int) -> None:
    if data[:1] == b"\x04" and len(data) > 27:
        data[27] &= known


def _drop_flags(data: bytearray, known: int) -> None:
    if data[:1] == b"\x01" and len(data) > 36 and data[VERSION] == 2:
        data[36] &= known


def _no_overlay(data: bytearray, world: World) -> None:
    _trace_flags(data, 0x03)
    _drop_flags(data, 0x03)


def _no_l3_device(data: bytearray, world: World) -> None:
    _trace_flags(data, 0x01)


def _no_l3_device_in_verdicts(data: bytearray, world: World) -> None:
    if data[:1] == b"\x05" and len(data) > 27:
        data[27] &= 0x7F


def _no_vrrp_and_igmp(data: bytearray, world: World) -> None:
    """Gives these protocols a number nobody knows; behind Ethernet, at every header length."""
    lengths = {DROP: (36, 40), TRACE: (32, 48), VERDICT: (32,), CAPTURE: (24,)}
    for length in lengths.get(data[0] if data else 0, ()):
        kind, at = bytes(data[length + 12 : length + 14]), length + 14
        at += {b"\x08\x00": 9, b"\x86\xdd": 6}.get(kind, len(data))
        if at < len(data) and data[at] in (2, 112):
            data[at] = 253  # RFC 3692: experiments


def _filler(data: bytearray, world: World) -> None:
    if data and data[0] in (DROP, CAPTURE, TRACE, VERDICT):
        data[LEN_CAP] = b"\xff\xff"


FILLER = Difference(
    "filler is packet",
    "the perf ring rounds records up; Hubble decodes the garbage behind the captured bytes "
    "as packet, we stop at the captured length. Applied where the answers differ only",
    until="v1.20",
    record=_filler,
)

# Socket records of unknown cgroups


def _cgroup_is_unknown(data: bytes, world: World) -> bool:
    """A record in the layout until 1.18 whose cgroup has no pod with such an address."""
    if data[:1] != b"\x07" or len(data) < 38:
        return False
    version = 6 if data[37] & 1 else 4
    number = int.from_bytes(data[28:36], "little")
    pods = [c for c in world["cgroups"] if c["id"] == number]
    texts = [t for c in pods for t in c.get("ips") or () if (":" in t) == (version == 6)]
    return not texts or not _is_address(texts[0])


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _known_cgroup(data: bytearray, world: World) -> None:
    if _cgroup_is_unknown(bytes(data), world):
        pod = next(c for c in world["cgroups"] if len(c["ips"]) == 2)
        data[28:36] = pod["id"].to_bytes(8, "little")


def _no_pod(event: Event, data: bytes, world: World) -> bool:
    if not _cgroup_is_unknown(data, world):
        return False
    own, peer = ("destination", "source") if data[1] in (3, 4) else ("source", "destination")
    del event["IP"][own]
    event[own] = {"labels": ["reserved:unknown"]}
    for field in (f"{own}_names", f"{peer}_names", f"{own}_service"):
        event.pop(field, None)
    number = int.from_bytes(data[28:36], "little")
    event["cgroup_id"] = str(number)
    if not number:
        del event["cgroup_id"]
    return True


# How events were printed


def _emitter(version: str) -> EventRule:
    def rule(event: Event, data: bytes, world: World) -> bool:
        assert event["emitter"] == {"name": "ciliary", "version": "0"}
        event["emitter"] = {"name": "Hubble", "version": version}
        return True

    return rule


def _without(*paths: str) -> EventRule:
    """Fields the release did not have, dotted; ``*`` stands for each element of a list."""
    split = [path.split(".") for path in paths]

    def rule(event: Event, data: bytes, world: World) -> bool:
        return sum(_removed(event, path) for path in split) > 0  # all of them

    return rule


def _removed(value: Any, path: list[str]) -> bool:
    if path[0] == "*":
        return sum(_removed(element, path[1:]) for element in value) > 0  # all of them
    if path[0] not in value:
        return False
    if len(path) > 1:
        return _removed(value[path[0]], path[1:])
    del value[path[0]]
    return True


def _replaced(event: Event, field: str, value: Any) -> bool:
    before = event.pop(field, None)
    if value is not None:
        event[field] = value
    return bool(before != value)


def _encrypt_overlay(event: Event, data: bytes, world: World) -> bool:
    if data[:1] != b"\x04" or data[26] & 0x7F != 8:
        return False
    changed = _replaced(event, "is_reply", None)
    if int.from_bytes(data[2:4], "little"):
        changed |= _replaced(event, "traffic_direction", "EGRESS")
    return changed


def _translated_source_without_packet(event: Event, data: bytes, world: World) -> bool:
    if data[:1] != b"\x04" or data[VERSION] != 1 or "IP" in event:
        return False
    address = str(ip_address(data[32:48] if data[27] & 1 else data[32:36]))
    for endpoint in world["endpoints"]:
        if address in (endpoint.get("ipv4"), endpoint.get("ipv6")):
            event["source"] |= {
                "ID": endpoint["id"],
                "namespace": endpoint["namespace"],
                "pod_name": endpoint["pod"],
            }
            if "workload" in endpoint:
                event["source"]["workloads"] = [endpoint["workload"]]
            return True
    return False


def _translated_is_no_egress(event: Event, data: bytes, world: World) -> bool:
    """The direction without the clause for translated sources."""
    if data[:1] != b"\x04" or "traffic_direction" not in event:
        return False
    reporter = int.from_bytes(data[2:4], "little")
    is_source = event.get("source", {}).get("ID", 0) & 0xFFFF == reporter
    is_reply = data[26] & 0x7F == 2
    direction = "EGRESS" if is_source != is_reply else "INGRESS"
    return _replaced(event, "traffic_direction", direction)


NAMED_SINCE = {
    "UNENCRYPTED_TRAFFIC": "v1.15",
    "DROP_RATE_LIMITED": "v1.15",
    "IGMP_HANDLED": "v1.15",
    "IGMP_SUBSCRIBED": "v1.15",
    "MULTICAST_HANDLED": "v1.15",
    "DROP_EP_NOT_READY": "v1.15",
    "DROP_NO_EGRESS_IP": "v1.16",
    "DROP_PUNT_PROXY": "v1.18",
    "DROP_FRAG_NOT_FOUND_WORLD": "v1.20",
}


def _drop_reason_names(release: str) -> EventRule:
    unknown = {name for name, since in NAMED_SINCE.items() if since == release}

    def rule(event: Event, data: bytes, world: World) -> bool:
        if event.get("drop_reason_desc") not in unknown:
            return False
        return _replaced(event, "drop_reason_desc", event["drop_reason"])

    return rule


def _crypto_points(event: Event, data: bytes, world: World) -> bool:
    name = event.get("trace_observation_point")
    if name not in ("FROM_CRYPTO", "TO_CRYPTO"):
        return False
    return _replaced(event, "trace_observation_point", flow_pb2.TraceObservationPoint.Value(name))


# Access logs


def _unknown_dns_types(event: Event, data: bytes, world: World) -> bool:
    dns = event.get("l7", {}).get("dns", {})
    changed = False
    for field in ("qtypes", "rrtypes"):
        types = ["Unknown" if t in ("SVCB", "HTTPS") else t for t in dns.get(field, ())]
        if types:
            changed |= _replaced(event["l7"]["dns"], field, types)
    if not changed:
        return False
    text, _, types_in_text = event["Summary"].rpartition(" ")
    shown = types_in_text.replace("HTTPS", "Unknown").replace("SVCB", "Unknown")
    event["Summary"] = f"{text} {shown}"
    return True


def _server_failure_with_a_space(event: Event, data: bytes, world: World) -> bool:
    if not event.get("Summary", "").startswith("DNS Answer RCode: Server Failure TTL"):
        return False
    event["Summary"] = event["Summary"].replace("Server Failure TTL", "Server Failure  TTL")
    return True


def _passwords_are_shown(event: Event, data: bytes, world: World) -> bool:
    http = event.get("l7", {}).get("http", {})
    if "HUBBLE_REDACTED" not in http.get("url", ""):
        return False
    found = re.search(rb"//[^/:@]*:([^@/]*)@", data)
    assert found
    event["Summary"] = event["Summary"].replace("HUBBLE_REDACTED", found[1].decode())
    return True


# Debug messages

DEBUG_TYPES = {
    "DBG_L7_LB": (65, "v1.15"),
    "DBG_SKIP_POLICY": (66, "v1.15"),
    "DBG_LB6_LOOPBACK_SNAT": (67, "v1.19"),
    "DBG_LB6_LOOPBACK_SNAT_REV": (68, "v1.19"),
}
"""Number and first release."""


def _debug_types(release: str) -> EventRule:
    new = {name: number for name, (number, since) in DEBUG_TYPES.items() if since == release}

    def rule(event: Event, data: bytes, world: World) -> bool:
        if event.get("type") not in new:
            return False
        return _replaced(event, "type", new[event["type"]])

    return rule


def _no_loopback_texts(event: Event, data: bytes, world: World) -> bool:
    if data[1] not in (66, 67):
        return False
    arguments = f"arg1={event['arg1']} arg2={event['arg2']}"
    return _replaced(event, "message", f"Unknown message type={data[1]} {arguments}")


def _two_arguments(event: Event, data: bytes, world: World) -> bool:
    if event.get("type") != "DBG_GENERIC":
        return False
    return _replaced(event, "message", event["message"].partition(" arg3=")[0])


_REASONS_OF_1_20 = {
    "No device": "206, 0",
    "First logical datagram fragment not found from world": "207, 0",
}


def _reasons_of_1_20(event: Event, data: bytes, world: World) -> bool:
    """What stands for a state of connection tracking is a drop's reason, if it is one."""
    verdict = re.fullmatch(r"CT verdict: (.*), revnat=(\d+)", event["message"])
    if verdict is None or verdict[1] not in _REASONS_OF_1_20:
        return False
    return _replaced(
        event, "message", f"CT verdict: {_REASONS_OF_1_20[verdict[1]]}, revnat={verdict[2]}"
    )


def _misspelt(event: Event, data: bytes, world: World) -> bool:
    shown = event["message"].replace("neighbour solicitation", "neighbour soliciation")
    return _replaced(event, "message", shown)


# Rare ones


def _no_text(event: Event, data: bytes, world: World) -> bool:
    shown = event.get("unknown", {}).get("notification", "")
    if "\ufffd" not in shown or "\ufffd".encode() in data:
        return False
    del event["unknown"]
    return _replaced(
        event,
        "unmarshalable",
        "proto: field flow.AgentEventUnknown.notification contains invalid UTF-8",
    )


def _summary_of_the_innermost(event: Event, data: bytes, world: World) -> bool:
    ports = event.get("l4", {}).get("UDP", {}).values()
    innermost = data[-20:]
    bare_header = innermost[:1] == b"\x45" and innermost[2:4] == b"\x00\x14"
    if "tunnel" not in event or not {4789, 6081} & set(ports) or not bare_header:
        return False
    return _replaced(event, "Summary", "IPv4")


# Policies


_POLICIES = (
    "ingress_allowed_by", "egress_allowed_by", "ingress_denied_by", "egress_denied_by",
    "policy_log",
)  # fmt: skip
_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMPv4": 1, "ICMPv6": 58}


def policy_rule_of_1_20(*, wrong_way_round: bool) -> EventRule:
    """Policies as 1.20 finds them, written from its description (and not from our code)."""

    def names(event: Event, world: World) -> Event:
        verdict = event.get("verdict")
        outcome = "allowed" if verdict in ("FORWARDED", "REDIRECTED") else "denied"
        if verdict == "DROPPED" and event["drop_reason"] not in (133, 181):
            return {}
        query = _query(event)
        if query is None:
            return {}
        direction, own, peer, protocol, port = query
        s = _longest(world, own, direction, peer, protocol, port) if peer else None
        a = _longest(world, own, direction, 0, protocol, port)
        found = _better(s, a, wrong_way_round=wrong_way_round) if s and a else s or a
        return _policies_of(found, f"{direction}_{outcome}_by")

    return _policies_by(names)


def _policies_by(names: Callable[[Event, World], Event]) -> EventRule:
    """Replaces the policy fields of a verdict's flow by other ones."""

    def rule(event: Event, data: bytes, world: World) -> bool:
        if event["event_type"]["type"] != VERDICT:
            return False
        other = names(event, world)
        return (
            sum(_replaced(event, field, other.get(field)) for field in _POLICIES) > 0
        )  # all of them

    return rule


def _query(event: Event) -> tuple[str, int, int, int, int] | None:
    """Direction, local endpoint id, peer identity, protocol, port; None: not looked up."""
    direction = event["traffic_direction"].lower()
    sides = ("destination", "source") if direction == "ingress" else ("source", "destination")
    own, peer = (event.get(side, {}) for side in sides)
    for name, fields in event.get("l4", {}).items():
        port = fields.get("destination_port", fields.get("type", 0))
        if name in _PROTOCOLS and port and own.get("ID"):
            return direction, own["ID"], peer.get("identity", 0), _PROTOCOLS[name], port
    return None


def _entries(world: World, endpoint: int, direction: str) -> list[Event]:
    found = [e for e in world["endpoints"] if e["id"] == endpoint]
    entries = (found[0].get("policy") or ()) if found else ()
    return [p for p in entries if p["direction"] == direction]


def _prefix(entry: Event) -> int:
    return 25 if entry.get("port") else 9 if entry.get("proto") else 1


def _longest(
    world: World, endpoint: int, direction: str, identity: int, protocol: int, port: int
) -> Event | None:
    covering = [
        e
        for e in _entries(world, endpoint, direction)
        if e.get("identity", 0) == identity
        and e.get("proto", 0) in (0, protocol)
        and e.get("port", 0) in (0, port)
    ]
    return max(covering, key=_prefix, default=None)


def _better(s: Event, a: Event, *, wrong_way_round: bool) -> Event:
    if s.get("deny", False) != a.get("deny", False):
        return s if s.get("deny") else a
    if s.get("deny"):
        return s
    if wrong_way_round:
        return a if _prefix(s) > _prefix(a) else s
    return s if _prefix(s) >= _prefix(a) else a


def _policies_of(entry: Event | None, field: str) -> Event:
    """The policy fields of a flow for an entry of a policy map."""
    if entry is None:
        return {}
    short = {"name": "name", "namespace": "namespace", "derived-from": "kind"}
    policies = []
    for labels in entry.get("rules") or ():
        policy: Event = {"labels": labels} if labels else {}
        for label in labels:
            key, _, value = label.partition("=")
            name = short.get(key.removeprefix("k8s:io.cilium.k8s.policy."))
            if name and value:
                policy[name] = value
        if entry.get("revision"):
            policy["revision"] = str(entry["revision"])
        policies.append(policy)
    found: Event = {field: policies} if policies else {}
    if entry.get("log"):
        found["policy_log"] = list(entry["log"])
    return found


def _policies_of_match_types(*known: int) -> EventRule:
    def rule(event: Event, data: bytes, world: World) -> bool:
        if event["event_type"]["type"] != VERDICT or data[27] >> 3 & 7 in known:
            return False
        return sum(_replaced(event, field, None) for field in _POLICIES) > 0  # all of them

    return rule


def _names_without_namespace(event: Event, data: bytes, world: World) -> bool:
    policies = [p for field in _POLICIES[:4] for p in event.get(field, ())]
    nameless = [p for p in policies if "name" in p and "namespace" not in p]
    for policy in nameless:
        del policy["name"]
    return bool(nameless)


def _policies_of_1_15(event: Event, world: World) -> Event:
    query = _query(event)
    if event.get("verdict") != "FORWARDED" or query is None or query[3] not in (6, 17):
        return {}
    direction, own, peer, protocol, port = query
    keys = ((peer, protocol, port), (peer, 0, 0), (0, 0, 0))
    entries = {
        (e.get("identity", 0), e.get("proto", 0), e.get("port", 0)): e
        for e in _entries(world, own, direction)
    }
    found = next((entries[key] for key in keys if key in entries), None)
    return _policies_of(found, f"{direction}_allowed_by")


TABLE = (
    # Records
    Difference(
        "two bytes of version",
        "version and ext_version were one number until 1.18; with the second byte set it is "
        "one nobody knows. Drops were first checked in 1.17",
        until="v1.18",
        record=_version_of_two_bytes,
    ),
    Difference(
        "trace version 2",
        "new in 1.19; older agents refuse it",
        until="v1.18",
        record=_trace_versions,
    ),
    Difference(
        "drop version 3",
        "new in 1.19; older agents refuse it",
        until="v1.18",
        record=_drop_versions,
        since="v1.17",
    ),
    Difference(
        "drops of one layout",
        "until 1.16 a drop was read as one fixed struct of 36 bytes, whatever its version",
        until="v1.16",
        record=_drops_of_one_layout,
    ),
    Difference(
        "no overlay decoding",
        "the VXLAN and Geneve flags came with 1.18; before, an overlay packet was plain UDP",
        until="v1.17",
        record=_no_overlay,
    ),
    Difference(
        "no l3 devices",
        "the flag came with 1.18 and late 1.17; before, IP headers were read as Ethernet",
        until="v1.16",
        record=_no_l3_device,
    ),
    Difference(
        "no l3 devices in verdicts",
        "the flag came with 1.18",
        until="v1.17",
        record=_no_l3_device_in_verdicts,
    ),
    Difference(
        "flows of unknown cgroups",
        "1.17 began to skip socket records whose pod is not known; before, they gave flows "
        "with one address",
        until="v1.16",
        record=_known_cgroup,
        event=_no_pod,
    ),
    Difference(
        "no vrrp and igmp",
        "decoded since 1.19; before, the walk ended at their IP header",
        until="v1.18",
        record=_no_vrrp_and_igmp,
    ),
    # Events
    Difference(
        "emitter 1.20", "who speaks", until="v1.20",
        event=_emitter("1.20.2+g00000000"), since="v1.20",
    ),
    Difference(
        "emitter 1.19", "who speaks", until="v1.19",
        event=_emitter("1.19.4+g95e477fd"), since="v1.19",
    ),
    Difference("no emitter", "new in 1.19", until="v1.18", event=_without("emitter")),
    Difference(
        "policies of 1.20.2",
        "1.20.2 compares the two candidates of its look-up the wrong way round and names the "
        "broader rule; the datapath, 1.19 and we name the one for this peer and port",
        until="v1.20",
        event=policy_rule_of_1_20(wrong_way_round=True),
        since="v1.20",
    ),
    Difference(
        "no sctp chunks", "new in 1.20", until="v1.19",
        event=_without("l4.SCTP.chunk_type"),
    ),
    Difference("no vni", "new in 1.19", until="v1.18", event=_without("tunnel.vni"), since="v1.18"),
    Difference(
        "encrypt-overlay is an encapsulation",
        "from 1.16 to 1.18 trace reason 8 left is_reply unset and was egress in any case",
        until="v1.18",
        event=_encrypt_overlay,
        since="v1.16",
    ),
    Difference(
        "match types without a key",
        "until 1.17 a verdict whose match type says nothing of the key was not looked up",
        until="v1.17",
        event=_policies_of_match_types(1, 2, 3, 4, 5, 6),
        since="v1.16",
    ),
    Difference(
        "policies of any port",
        "the look-up of 1.16 does not find entries without a port",
        until="v1.16",
        event=_policies_of_match_types(2, 3),
        since="v1.16",
    ),
    Difference(
        "policies of 1.15",
        "only of forwarded TCP and UDP; the exact key, the peer alone, or the catch-all",
        until="v1.15",
        event=_policies_by(_policies_of_1_15),
        since="v1.15",
    ),
    Difference(
        "names of clusterwide policies",
        "until 1.16 a policy had a name together with a namespace only",
        until="v1.16",
        event=_names_without_namespace,
        since="v1.16",
    ),
    Difference("no policy log", "new in 1.18", until="v1.17", event=_without("policy_log")),
    Difference("no drop file", "new in 1.17", until="v1.16", event=_without("file")),
    Difference(
        "no kind of policies",
        "new in 1.17",
        until="v1.16",
        event=_without(*(f"{field}.*.kind" for field in _POLICIES[:4])),
    ),
    Difference(
        "crypto points have no name", "new in 1.18 and late 1.17", until="v1.16",
        event=_crypto_points,
    ),
    Difference(
        "no cluster names",
        "new in 1.16 (remote) and 1.17 (local)",
        until="v1.15",
        event=_without("source.cluster_name", "destination.cluster_name"),
    ),
    Difference("no node labels", "new in 1.16", until="v1.15", event=_without("node_labels")),
    Difference("no trace reason", "new in 1.16", until="v1.15", event=_without("trace_reason")),
    Difference(
        "no translated source", "new in 1.16", until="v1.15",
        event=_without("IP.source_xlated"),
    ),
    Difference(
        "a translated source names its endpoint",
        "until 1.15 the address from before translation named the source of a record without "
        "a packet, though the flow shows no address",
        until="v1.15",
        event=_translated_source_without_packet,
    ),
    Difference(
        "a translated source is no egress",
        "1.16 began to call records with an untranslated source egress",
        until="v1.15",
        event=_translated_is_no_egress,
    ),
    Difference(
        "no policies", "new in 1.15", until="v1.14",
        event=_without(*_POLICIES),
    ),
    Difference(
        "a notification that is no text",
        "an agent's text that is not UTF-8 makes a message that Hubble cannot send; ours shows "
        "the replacement character",
        until="v1.20",
        event=_no_text,
        kind="agent",
        rare=True,
    ),
    Difference(
        "summary of a tunnel in a tunnel",
        "Hubble shows addresses and summary of the innermost packet with layer 4 of the one "
        "around it; our summary is of the layer 4 that is shown",
        until="v1.20",
        event=_summary_of_the_innermost,
        since="v1.18",
        rare=True,
    ),
    Difference(
        "unknown dns types",
        "until 1.16 SVCB and HTTPS had no name",
        until="v1.16",
        event=_unknown_dns_types,
    ),
    Difference(
        "server failure with a space",
        "until 1.16 the name of DNS response code 2 ended in a space",
        until="v1.16",
        event=_server_failure_with_a_space,
    ),
    Difference(
        "passwords are shown",
        "1.14 hides the password of a URL in the record, but not in the summary",
        until="v1.14",
        event=_passwords_are_shown,
    ),
    Difference(
        "no cluster names of debug sources",
        "new in 1.16",
        until="v1.15",
        event=_without("source.cluster_name"),
        kind="debug",
    ),
    Difference(
        "two arguments of generic debug messages",
        "1.20 began to print the third",
        until="v1.19",
        event=_two_arguments,
        kind="debug",
    ),
    Difference(
        "no texts of loopback debug messages",
        "new in 1.19",
        until="v1.18",
        event=_no_loopback_texts,
        kind="debug",
    ),
    Difference(
        "drop reasons in debug messages",
        "two got their texts in 1.20; before, they printed as numbers",
        until="v1.19",
        event=_reasons_of_1_20,
        kind="debug",
        rare=True,
    ),
    Difference(
        "soliciation", "a spelling mended in 1.20", until="v1.19", event=_misspelt, kind="debug",
    ),
    *(
        Difference(
            f"debug types of {release[1:]}",
            "older agents print the number of a type they do not know",
            until=f"v1.{int(release[3:]) - 1}",
            event=_debug_types(release),
            kind="debug",
        )
        for release in ("v1.15", "v1.19")
    ),
    *(
        Difference(
            f"drop reasons of {release[1:]}",
            "older agents print the number of a reason they have no name for",
            until=f"v1.{int(release[3:]) - 1}",
            event=_drop_reason_names(release),
        )
        for release in sorted(set(NAMED_SINCE.values()))
    ),
)  # fmt: skip


def read_as(release: str, data: bytes, world: World, fired: set[str]) -> bytes:
    """The record as this release would have had to write it for us to see what it saw."""
    changed = bytearray(data)
    for entry in TABLE:
        if entry.record is not None and entry.holds_for(release):
            before = bytes(changed)
            entry.record(changed, world)
            if changed != before:
                fired.add(entry.name)
    return bytes(changed)


def print_as(release: str, result: Event, data: bytes, world: World, fired: set[str]) -> None:
    """Change the event of our result into what this release printed."""
    for entry in TABLE:
        applies = entry.kind == result["kind"] and entry.holds_for(release)
        if applies and entry.event is not None and entry.event(result["event"], data, world):
            fired.add(entry.name)
