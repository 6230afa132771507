"""Random flow filters over flows that are known: the questions of a differential test.

Values are taken from the flows, cut and changed, so that a filter selects some of them; and
each field that can refuse a value has some it refuses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

Flow: TypeAlias = dict[str, Any]
Value: TypeAlias = Any
Field: TypeAlias = tuple[str, ...]
"""The way to a field of ``FlowFilter``."""

VERDICTS = (
    "VERDICT_UNKNOWN", "FORWARDED", "DROPPED", "ERROR", "AUDIT", "REDIRECTED", "TRACED",
    "TRANSLATED",
)  # fmt: skip
PROTOCOLS = ("icmp", "ICMPv4", "icmpv6", "tcp", "TCP", "udp", "sctp", "vrrp", "igmp", "dns", "HTTP")
TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS")
NODES = (
    "oracle/node-a", "node-a", "node-*", "oracle/", "*/node-a", "default/node-a", "other/node-a",
    "node-a.", "NODE-A", "o*/n*", "n*-*a", "node_a",
)  # fmt: skip
NODE_LABELS = (
    "topology.kubernetes.io/zone=z1", "kubernetes.io/arch in (amd64, arm64)", "!gpu", "gpu",
    "kubernetes.io/arch!=amd64", "zone", "topology.kubernetes.io/zone notin (z2)",
)  # fmt: skip
CONDITIONS = (
    "_flow.verdict == Verdict.DROPPED",
    "_flow.verdict in [Verdict.FORWARDED, Verdict.AUDIT]",
    "_flow.l4.TCP.destination_port == uint(8080)",
    "_flow.l4.TCP.destination_port < 1024u && has(_flow.l4.TCP)",
    "_flow.source.namespace == 'shop'",
    "_flow.source.pod_name.startsWith('cart')",
    "_flow.destination.labels.exists(l, l == 'reserved:world')",
    "_flow.source.labels.all(l, l.startsWith('k8s:'))",
    "has(_flow.l7) && _flow.l7.type == L7FlowType.RESPONSE",
    "_flow.l7.http.code >= 400u",
    "_flow.l7.dns.query.matches('example[.]com')",
    "_flow.is_reply == true",
    "!has(_flow.is_reply)",
    "_flow.IP.source.contains('10.0.') || _flow.IP.encrypted",
    "_flow.time > timestamp('2026-01-01T00:00:01.5Z')",
    "_flow.event_type.type == 4 && _flow.event_type.sub_type != 0",
    "size(_flow.destination_names) > 0",
    "_flow.source.workloads[0].name == 'cart'",  # fails where there is none
    "_flow.traffic_direction == TrafficDirection.EGRESS ? _flow.source.ID > 0u : true",
    "_flow.Summary.matches('SYN')",
    "_flow.drop_reason_desc == DropReason.POLICY_DENIED",
    "1 / size(_flow.source_names) >= 0",
    "_flow.interface.name in ['eth0', 'lo']",
    "true",
    "false",
    "_flow == Flow{}",
)

BAD_NAME = ("",)
BAD_FQDN = ("", " ", "a b", "a..", "ä.example", "a/b", ".", "a,b")
BAD_LABEL = (
    "a in (", "a in", "=", "a==", "a b", "a=b,", "!a=b", "a>x", "k8s:a=b:c", "a=(b)", "a in b",
    "-a", "a=-b", "a!", "&a", "a=b c", "a,=b", "a,,b", "(", ",", "!", "a=b=c", ">5", "!=x", "a,",
    "a in (x y)", "a notin", ",a", "a,!", "a in (x", "a in (x,", "a=(", "a in x)", "!!a", "a>",
    "a:b:c", ":a", "a in (x),", "a=b)", "a in ((x))", "x a in (b)", "a=>5",
)  # fmt: skip
BAD_EXPRESSION = (
    "(", "(?=a)", r"\1", "a**", "[z-a]", "a{1001}", r"\C", "[[:foo:]]", ")", "a\\", "[a", "*a",
)  # fmt: skip
BAD_PORT = ("", "x", "-1", "65536", "80-90", "0x50", "+80", "80 ", "99999999999999999999", "1_0")
BAD_IP = (
    "", "x", "10.0.0", "10.0.0.256", "10.0.0.0/33", "fd00::/129", "10.0.0.0/255.0.0.0", "010.0.0.1",
    "fd00::/-1", "/8", "10.0.0.1/", "10.0.0.0/08", "1:2", "fe80::1%eth0/64", "10.0.0.1/8/8",
)  # fmt: skip
BAD_STATUS = ("", "600", "5++", "+", "4xx", "4", "044", "1000", "-1", "0+")
BAD_PROTOCOL = ("", "nonsense", "tcp4", " tcp")
BAD_NODE = ("", "a/b/c", "ä", "a b", "a..", "a b/c")
BAD_CONDITION = (
    "_flow.nope == 1", "(", "", "_flow.verdict", "1", "nope", "_flow.source.pod_name == 1",
    "_flow.verdict == 'DROPPED' &&", "Verdict.NOPE == 1", "[1]", "{'a': 1u}", "dyn(true)",
)  # fmt: skip


class RandomFilters:
    """Fields of filters for flows in Hubble's JSON."""

    def __init__(self, dice: random.Random, flows: list[Flow]) -> None:
        self._dice = dice
        self._pool = _Pool(flows)
        make = self._texts
        pool, pick, side = self._pool, self._pick, ("source", "destination")
        self._makers: dict[Field, Callable[[], list[Value]]] = {
            ("uuid",): lambda: make(pool.texts("uuid"), self._cut_rarely),
            ("verdict",): lambda: pick(VERDICTS),
            ("event_type",): self._event_types,
            ("drop_reason_desc",): lambda: pick(
                [*pool.texts("drop_reason_desc"), "AUTH_REQUIRED", "DROP_REASON_UNKNOWN"]
            ),
            ("reply",): lambda: pick([True, False]),
            ("encrypted",): lambda: pick([True, False]),
            ("protocol",): lambda: pick(PROTOCOLS),
            ("source_ip_xlated",): lambda: self._ips("IP", "source_xlated"),
            ("dns_query",): lambda: self._expressions("l7", "dns", "query"),
            ("http_status_code",): lambda: pick(
                ["200", "404", "503", "2+", "4+", "5+", "40+", "50+", "1+", "301"]
            ),
            ("http_method",): lambda: make(pool.texts("l7", "http", "method"), self._change_case),
            ("http_path",): lambda: self._expressions("l7", "http", "url"),
            ("http_url",): lambda: self._expressions("l7", "http", "url"),
            ("http_header",): self._headers,
            ("tcp_flags",): lambda: [
                dict.fromkeys(dice.sample(TCP_FLAGS, dice.choice([0, 1, 1, 2])), True)
                for _ in range(dice.choice([1, 1, 2]))
            ],
            ("node_name",): lambda: pick(NODES),
            ("node_labels",): lambda: pick(NODE_LABELS),
            ("ip_version",): lambda: pick(["IP_NOT_USED", "IPv4", "IPv6"]),
            ("trace_id",): lambda: make(
                [*pool.texts("trace_context", "parent", "trace_id"), ""], self._cut_rarely
            ),
            ("ip_trace_id",): lambda: pick(
                [*pool.texts("ip_trace_id", "trace_id"), "0", "77", "1048576"]
            ),
            ("traffic_direction",): lambda: pick(
                ["TRAFFIC_DIRECTION_UNKNOWN", "INGRESS", "EGRESS"]
            ),
            ("interface",): self._interfaces,
            ("experimental", "cel_expression"): lambda: pick(CONDITIONS),
        }
        for one in side:
            self._makers |= self._of_side(one)
        self.fields: tuple[Field, ...] = tuple(self._makers)

    def _of_side(self, side: str) -> dict[Field, Callable[[], list[Value]]]:
        pool, make = self._pool, self._texts
        ports = [pool.texts("l4", p, f"{side}_port") for p in ("TCP", "UDP", "SCTP")]
        return {
            (f"{side}_identity",): lambda: self._pick([*pool.texts(side, "identity"), 0, 2]),
            (f"{side}_ip",): lambda: self._ips("IP", side),
            (f"{side}_pod",): lambda: self._names(side, "pod_name"),
            (f"{side}_service",): lambda: self._names(f"{side}_service", "name"),
            (f"{side}_workload",): lambda: self._workloads(side),
            (f"{side}_fqdn",): lambda: make(pool.texts(f"{side}_names"), self._star),
            (f"{side}_label",): lambda: make(pool.texts(side, "labels"), self._selector),
            (f"{side}_port",): lambda: make([str(p) for ps in ports for p in ps] + ["0"], str),
            (f"{side}_cluster_name",): lambda: self._pick(
                [*pool.texts(side, "cluster_name"), "oracle", "default", "other"]
            ),
        }

    REFUSED: dict[Field, tuple[Value, ...]] = {  # noqa: RUF012  # a constant
        ("source_ip",): BAD_IP, ("destination_ip",): BAD_IP, ("source_ip_xlated",): BAD_IP,
        ("source_pod",): BAD_NAME, ("destination_pod",): BAD_NAME,
        ("source_service",): BAD_NAME, ("destination_service",): BAD_NAME,
        ("source_cluster_name",): BAD_NAME, ("destination_cluster_name",): BAD_NAME,
        ("source_fqdn",): BAD_FQDN, ("destination_fqdn",): BAD_FQDN,
        ("source_label",): BAD_LABEL, ("destination_label",): BAD_LABEL,
        ("node_labels",): BAD_LABEL, ("node_name",): BAD_NODE,
        ("source_port",): BAD_PORT, ("destination_port",): BAD_PORT,
        ("dns_query",): BAD_EXPRESSION, ("http_path",): BAD_EXPRESSION,
        ("http_url",): BAD_EXPRESSION, ("http_status_code",): BAD_STATUS,
        ("protocol",): BAD_PROTOCOL, ("experimental", "cel_expression"): BAD_CONDITION,
    }  # fmt: skip

    def one(self, *fields: Field) -> Flow:
        """A filter with these fields."""
        found: Flow = {}
        for field in fields:
            _put(found, field, self._makers[field]())
        return found

    def some(self) -> Flow:
        """A filter with a few fields."""
        return self.one(*self._dice.sample(self.fields, self._dice.choice([1, 2, 2, 2, 3, 3, 4])))

    def refused(self) -> Iterator[Flow]:
        """Each value that is refused, alone or beside others that are not."""
        for field, values in self.REFUSED.items():
            for value in values:
                good = self._makers[field]() if self._dice.random() < 0.3 else []
                found: Flow = {}
                _put(found, field, [*good, value])
                yield found
        for name in ("http_status_code", "http_method", "http_path", "http_url", "http_header"):
            yield self.one((name,)) | {"event_type": [{"type": 4}]}

    def _pick(self, values: Iterable[Value]) -> list[Value]:
        values = list(values)
        return self._dice.choices(values, k=self._dice.choice([1, 1, 2, 3]))

    def _texts(self, values: list[str], change: Callable[[str], str]) -> list[Value]:
        return [change(value) for value in self._pick(values or ["none"])]

    def _cut(self, text: str) -> str:
        return text[: self._dice.randrange(len(text) + 1)]

    def _cut_rarely(self, text: str) -> str:
        return text if self._dice.random() < 0.9 else self._cut(text)

    def _change_case(self, text: str) -> str:
        return self._dice.choice([text, text.lower(), text.upper(), text.title(), self._cut(text)])

    def _star(self, name: str) -> str:
        labels = name.split(".")
        return self._dice.choice(
            [
                name, name + ".", name.upper(), f" {name}", "*", f"*.{'.'.join(labels[1:])}",
                f"{labels[0]}.*", f"{self._cut(name)}*", f"*{name[2:]}", self._cut(name) or "*",
            ]
        )  # fmt: skip

    def _selector(self, label: str) -> str:
        dice = self._dice
        source, _, rest = label.partition(":")
        key, _, value = rest.partition("=")
        if source == "cidr":
            return dice.choice(
                [label.removesuffix("="), "cidr:0.0.0.0/0", "cidr:10.0.0.0/8", "!cidr:0-0/0"]
            )
        other = dice.choice(["x", "cart", "redis", value or "y"])
        word = dice.choice([f"{source}:{key}", key, f"any:{key}", f"k8s:{key}", f"reserved:{key}"])
        one = dice.choice(
            [
                word, f"!{word}", f"{word}={value}", f"{word}=={value}", f"{word}!={value}",
                f"{word} in ({value}, {other})", f"{word} notin ({value},{other})",
                f"{word} = {value}", f"{word}=", f"{word} in ()", f"{word}>5", f"{word}<5",
                f" {word} ", f"{word} notin (,{other})", "",
            ]
        )  # fmt: skip
        if one and dice.random() < 0.3:
            one += f",{self._selector(dice.choice(self._pool.texts('source', 'labels')))}"
            one = one.rstrip(", ")
        return one

    def _names(self, *path: str) -> list[Value]:
        pairs = [
            (owner.get("namespace", ""), owner[path[-1]])
            for owner in self._pool.objects(path[0])
            if path[-1] in owner
        ] or [("a", "b")]
        made = []
        for namespace, name in self._dice.choices(pairs, k=self._dice.choice([1, 1, 2, 3])):
            prefix = self._cut(name)
            made.append(
                self._dice.choice(
                    [
                        f"{namespace}/{name}", f"{namespace}/{prefix}", f"{namespace}/",
                        f"/{prefix}", "/", name, prefix or "x", f"{namespace}/{prefix}/x",
                        f"{namespace}/*",
                    ]
                )
            )  # fmt: skip
        return made

    def _workloads(self, side: str) -> list[Value]:
        owners = [w for e in self._pool.objects(side) for w in e.get("workloads", ())]
        made = []
        for owner in self._dice.choices(owners or [{}], k=self._dice.choice([1, 1, 2])):
            kept = self._dice.choice([["name"], ["kind"], ["name", "kind"], []])
            made.append({k: v for k, v in owner.items() if k in kept})
        return made

    def _ips(self, *path: str) -> list[Value]:
        made = []
        for ip in self._pick(self._pool.texts(*path) or ["10.0.0.1"]):
            width = 128 if ":" in ip else 32
            network = f"{ip}/{self._dice.choice([0, 8, 16, 24, 26, 29, width - 1, width])}"
            made.append(self._dice.choice([ip, network, network, "0.0.0.0/0", "::/0"]))
        return made if "bogus" not in "".join(made) else ["10.0.0.1"]

    def _expressions(self, *path: str) -> list[Value]:
        made = []
        for text in self._pick(self._pool.texts(*path) or ["x"]):
            begin = self._dice.randrange(len(text) + 1)
            part = text[begin : begin + self._dice.randrange(1, 12)]
            quoted = rf"\Q{part}\E"
            made.append(
                self._dice.choice(
                    [
                        quoted, f"^{quoted}", f"{quoted}$", ".*", "^$", r"[0-9]{2,}", r"\.com\.?$",
                        "(?i)EXAMPLE|CART", r"^/", r"^[^/]*$", r"\pL+/\d", "a.*z", f".{quoted}.",
                    ]
                )
            )  # fmt: skip
        return made

    def _headers(self) -> list[Value]:
        headers = [
            h for f in self._pool.objects("l7") for h in f.get("http", {}).get("headers", ())
        ]
        made = [dict(h) for h in self._dice.choices(headers or [{"key": "A"}], k=2)]
        if self._dice.random() < 0.3:
            made[0]["key"] = made[0]["key"].swapcase()
        return made

    def _event_types(self) -> list[Value]:
        made = []
        for event in self._dice.choices(
            self._pool.objects("event_type"), k=self._dice.choice([1, 2])
        ):
            one = dict(event)
            if self._dice.random() < 0.5:
                one["match_sub_type"] = True
            if self._dice.random() < 0.1:
                one["type"] = 0
            made.append(one)
        return made

    def _interfaces(self) -> list[Value]:
        made = []
        for interface in self._dice.choices(
            self._pool.objects("interface") or [{}], k=self._dice.choice([1, 2])
        ):
            kept = self._dice.choice([["name"], ["index"], ["name", "index"], []])
            made.append({k: v for k, v in interface.items() if k in kept})
        return made


class _Pool:
    """What the flows have."""

    def __init__(self, flows: list[Flow]) -> None:
        self._flows = flows
        self._texts: dict[Field, list[Any]] = {}
        self._objects: dict[str, list[Flow]] = {}

    def objects(self, name: str) -> list[Flow]:
        """The messages of one field."""
        if name not in self._objects:
            self._objects[name] = [f[name] for f in self._flows if name in f]
        return self._objects[name]

    def texts(self, *path: str) -> list[Any]:
        """The different values of one field, as often as they differ."""
        if path not in self._texts:
            found: list[Any] = list(self._flows)
            for name in path:
                found = [one[name] for one in found if name in one]
            flat = [v for one in found for v in (one if isinstance(one, list) else [one])]
            self._texts[path] = list(dict.fromkeys(flat))
        return self._texts[path]


def _put(found: Flow, field: Field, values: list[Value]) -> None:
    for name in field[:-1]:
        found = found.setdefault(name, {})
    found[field[-1]] = values
