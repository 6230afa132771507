"""The configuration: one YAML file, ``CILIARY_…`` overrides, every mistake at once.

``CILIARY_CILIUM__SOCKET=/run/x`` sets ``cilium.socket``: section and key are joined by two
underscores, and the value is YAML. Unknown keys, and unknown variables of that form, are
mistakes.

A ``ConfigError`` has all mistakes with their paths; it ends the agent with exit code 2.
What is only not so *now* (a taken port, a missing socket) is not looked at here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from api.metrics.family import SERIES
from api.metrics.hubble import DEFAULT_HANDLERS
from api.metrics.options import parse_handlers
from bridge.addresses import is_loopback, split_address
from bridge.kubernetes.label_filter import LabelFilter
from bridge.os_errors import reason_of
from bridge.source_switch import Choice
from native_probes.custom import CustomSettings, FieldType, record_layout
from native_probes.drops import DEFAULT_QUIET, QuietRules
from native_probes.interfaces import InterfacePatterns
from native_probes.source import SourceSettings
from native_probes.traffic import TrafficSettings
from parsers.errors import UsageError
from parsers.kernel_drop_reasons import KernelReasons
from parsers.redaction import DEFAULT_REDACTION, Redaction

ProbeName: TypeAlias = Literal["traffic", "drops", "tcp", "dns"]
OptionalProbeName: TypeAlias = Literal["sockets", "netfilter"]

PREFIX = "CILIARY_"
_JOINT = "__"
_MOST_FLOWS = 1 << 28

_WANTED = {
    "model_type": "a section of keys",
    "string_type": "a text; put it in quotes",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "path_type": "a path; put it in quotes",
    "tuple_type": "a list, such as [dns, drop]",
}
"""What a value of the wrong type should have been, by pydantic's word for the mistake."""


class ConfigError(UsageError):
    """Everything that is wrong with the configuration; ``problems`` has a line each."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(["the configuration is wrong:", *problems]))


def _checked_address(text: str) -> str:
    split_address(text)
    return text


def _checked_ip(text: str) -> str:
    if text:
        try:
            ip_address(text)
        except ValueError:
            raise ValueError(f"'{text}' is not an ip address, such as 10.0.0.5") from None
    return text


def _checked_release(text: str) -> str:
    major, dot, minor = text.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise ValueError(f"'{text}' is not a release, such as 1.18; quote it in YAML")
    return text


def _checked_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        parse_handlers(names)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return names


def _checked_label_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    try:
        LabelFilter(patterns)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return patterns


def _checked_rules(rules: tuple[str, ...]) -> tuple[str, ...]:
    try:
        QuietRules(rules, KernelReasons({}))
    except UsageError as error:
        raise ValueError(str(error)) from None
    return rules


def _shown(value: object) -> str:
    return json.dumps(value, default=str)  # as YAML has it, too


def _checked_flows(value: object) -> object:
    number = isinstance(value, int) and not isinstance(value, bool)
    if value != "auto" and not (number and 1 <= value <= _MOST_FLOWS):  # type: ignore[operator]
        raise ValueError(f"{_shown(value)} is neither auto nor a number from 1 to {_MOST_FLOWS}")
    return value


Address = Annotated[str, AfterValidator(_checked_address)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_the_defaults(cls, values: object) -> object:
        return {} if values is None else values


class Node(_Section):
    """Who this is."""

    name: str = Field(
        default="", description="Name of the node in flows; empty for the host's name."
    )
    cluster: str = Field(default="default", description="Name of the cluster.")
    address: Annotated[str, AfterValidator(_checked_ip)] = Field(
        default="",
        description="IP address at which a relay reaches it; empty for that of the identity "
        "file, or of the default route.",
    )


class Cilium(_Section):
    """Cilium's agent as the source."""

    socket: Path = Field(
        default=Path("/var/run/cilium/monitor1_2.sock"),
        description="The monitor socket. It may be missing: the agent waits for it.",
    )
    api: Path | None = Field(
        default=None,
        description="The agent's own socket, such as /var/run/cilium/cilium.sock, to ask for "
        "identities of prefixes, cgroups, and rules behind verdicts; null for not to ask. It would "
        "take orders, too; we send GET alone.",
    )
    release: Annotated[str, AfterValidator(_checked_release)] | None = Field(
        default=None,
        description="The agent's release, such as 1.18, where records do not tell.",
    )

    @property
    def release_number(self) -> tuple[int, int] | None:
        """``release`` as (major, minor)."""
        if self.release is None:
            return None
        major, minor = self.release.split(".")
        return int(major), int(minor)


class Kubernetes(_Section):
    """Names from the API server."""

    enabled: bool | Literal["auto"] = Field(
        default="auto",
        description="auto for where there is a kubeconfig or, in a cluster, a service account, "
        "and no identity.file.",
    )
    kubeconfig: Path | None = Field(
        default=None, description="How to log in; null for the pod's service account."
    )
    service_account: Path = Field(
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="Where the pod has its token and ca.crt.",
    )
    context: str = Field(default="", description="Of the kubeconfig; empty for its current one.")
    scope: Literal["all", "node"] = Field(
        default="all",
        description="Pods to watch: all, or those of node.name; others then have the names that "
        "endpoint slices and Cilium's objects give.",
    )

    labels: Annotated[tuple[str, ...], AfterValidator(_checked_label_patterns)] = Field(
        default=(),
        description="Which labels of pods count for identities, beside the defaults: the patterns "
        "of Cilium's labels option.",
    )

    @model_validator(mode="after")
    def _context_is_of_a_kubeconfig(self) -> Kubernetes:
        if self.context and self.kubeconfig is None:
            raise ValueError("context is one of a kubeconfig; set kubeconfig as well")
        return self


class CustomProbe(_Section):
    """A program that the user brings; docs/reference/probes/custom.md."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")] = Field(
        description="By which it is spoken of."
    )
    source: Path = Field(description="The C file.")
    ring: str = Field(description="Name of its ring.")
    record: dict[str, FieldType] = Field(
        description="Fields of the ring's records, in their order, and their types."
    )
    lost: str = Field(
        default="", description="Name of its per-CPU counter of records that found no room."
    )

    @model_validator(mode="after")
    def _is_a_record(self) -> CustomProbe:
        if self.name in {*get_args(ProbeName), *get_args(OptionalProbeName)}:
            raise ValueError(f"{self.name} is the name of another probe")
        try:
            record_layout(self.settings)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def settings(self) -> CustomSettings:
        """What the probe is made of."""
        return CustomSettings(
            self.name, self.source, self.ring, tuple(self.record.items()), self.lost
        )


class NativeProbes(_Section):
    """Own probes, the source where there is no Cilium."""

    disabled: tuple[ProbeName, ...] = Field(
        default=(), description="Probes that do not run: " + ", ".join(get_args(ProbeName)) + "."
    )
    optional: tuple[OptionalProbeName, ...] = Field(
        default=(),
        description="Probes that run only if they are named here, as they want a kernel that lets "
        "programs onto the exits of its functions: " + ", ".join(get_args(OptionalProbeName)) + ".",
    )
    pod_interfaces: tuple[str, ...] = Field(
        default=InterfacePatterns().pods,
        description="Interfaces that lead to pods, by the node's names for them; * is any text.",
    )
    uplinks: tuple[str, ...] = Field(
        default=(),
        description="Other interfaces to observe, likewise; with none, all hardware that is not "
        "part of a bond, bonds, and the interface of a default route, whatever it is, unless its "
        "packets are seen at others.",
    )
    excluded_interfaces: tuple[str, ...] = Field(
        default=(), description="Interfaces to leave alone, likewise."
    )
    flows: Annotated[int, Field(ge=1024, le=1 << 24)] = Field(
        default=TrafficSettings().flows,
        description="Flows that the kernel counts at a time, both directions being one; some 200 "
        "bytes each.",
    )
    sample: Annotated[int, Field(ge=0, le=1 << 20)] = Field(
        default=TrafficSettings().sample,
        description="Tell of one packet of so many by itself; 0 for none, 1 for all, which costs "
        "some 150 ns a packet.",
    )
    engine: Literal["libbpf", "bcc"] = Field(
        default="libbpf",
        description="What loads the programs. bcc compiles them here, which wants its package and "
        "this kernel's headers; for kernels without type information. It has traffic, drops, tcp "
        "and dns.",
    )
    custom: tuple[CustomProbe, ...] = Field(
        default=(),
        description="Programs of your own, which bcc compiles: name, source, ring, record, lost; "
        "see probes/custom.md.",
    )
    pins: Path | None = Field(
        default=None,
        description="A folder in a BPF file system, such as /sys/fs/bpf/ciliary. With it, packets "
        "go on being counted while the agent is restarted; ciliary detach --pins ends that.",
    )
    quiet_drops: Annotated[tuple[str, ...], AfterValidator(_checked_rules)] = Field(
        default=DEFAULT_QUIET,
        description="Drops that are not reported, by the kernel's reason: REASON or "
        "REASON@FUNCTION.",
    )
    sweep: Annotated[float, Field(ge=0.1, le=3600.0)] = Field(
        default=TrafficSettings().sweep_seconds,
        description="Seconds between two flows that tell what was counted of one that goes on.",
    )
    interval: Annotated[float, Field(ge=0.02, le=60.0)] = Field(
        default=SourceSettings().interval_seconds,
        description="Seconds between two readings of what the kernel tells at once.",
    )

    @model_validator(mode="after")
    def _names_of_custom_probes_differ(self) -> NativeProbes:
        names = [probe.name for probe in self.custom]
        if len(set(names)) < len(names):
            raise ValueError("custom: two probes have one name")
        return self


class Identity(_Section):
    """Where names come from."""

    file: Path | None = Field(
        default=None,
        description="A JSON or YAML file with endpoints, identities and addresses. "
        "It may come later.",
    )
    kubernetes: Kubernetes = Kubernetes()
    dns_names: Annotated[float, Field(ge=1)] = Field(
        default=3600.0,
        description="Seconds that an address outside has a name after a DNS answer told it, "
        "however short its time to live, as connections last longer.",
    )

    @model_validator(mode="after")
    def _names_come_from_one_place(self) -> Identity:
        if self.file is not None and self.kubernetes.enabled is True:
            raise ValueError("file and kubernetes.enabled: both give all names; leave one out")
        return self

    def asks_kubernetes(self, *, in_cluster: bool) -> bool:
        """Whether names come from an API server, for a process that runs there or not."""
        if self.kubernetes.enabled != "auto":
            return self.kubernetes.enabled
        return self.file is None and (in_cluster or self.kubernetes.kubeconfig is not None)


class Tls(_Section):
    """TLS 1.3 for ``listen``; certificates that change are for later connections."""

    cert_file: Path | None = Field(
        default=None,
        description="The certificate, PEM, with those that signed it; null for no TLS.",
    )
    key_file: Path | None = Field(default=None, description="Its key, PEM.")
    client_ca_files: tuple[Path, ...] = Field(
        default=(),
        description="Authorities of clients' certificates, PEM; none to ask for no certificate.",
    )

    @model_validator(mode="after")
    def _certificate_and_key_belong_together(self) -> Tls:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; set both or neither")
        if self.client_ca_files and self.cert_file is None:
            raise ValueError("client_ca_files need a cert_file and a key_file as well")
        return self


class RedactedHeaders(_Section):
    """Values of HTTP headers."""

    allow: tuple[str, ...] = Field(
        default=(), description="HTTP headers whose values are shown; no others are."
    )
    deny: tuple[str, ...] = Field(
        default=(),
        description="HTTP headers whose values are redacted; with neither list, those of all are.",
    )

    @model_validator(mode="after")
    def _one_list_says_it(self) -> RedactedHeaders:
        if self.allow and self.deny:
            raise ValueError("name headers in allow or in deny, not in both")
        return self


class RedactedHttp(_Section):
    """HTTP records."""

    url_query: bool = Field(default=False, description="Redact queries and fragments of URLs.")
    user_info: bool = Field(default=True, description="Redact passwords in URLs.")
    headers: RedactedHeaders = RedactedHeaders()


class RedactedKafka(_Section):
    """Kafka records."""

    api_key: bool = Field(default=False, description="Redact the API keys of Kafka records.")


class Redact(_Section):
    """What of L7 records is shown nowhere; Hubble's `hubble.redact`."""

    enabled: bool = Field(
        default=False, description="Redact L7 records; without it only passwords in URLs."
    )
    http: RedactedHttp = RedactedHttp()
    kafka: RedactedKafka = RedactedKafka()

    @property
    def redaction(self) -> Redaction:
        """As the parser wants it."""
        if not self.enabled:
            return DEFAULT_REDACTION
        allow, deny = (
            frozenset(name.lower() for name in names)
            for names in (self.http.headers.allow, self.http.headers.deny)
        )
        return Redaction(
            url_query=self.http.url_query,
            user_info=self.http.user_info,
            kafka_api_key=self.kafka.api_key,
            shown_headers=None if deny else allow,
            hidden_headers=deny,
        )


class Hubble(_Section):
    """The Hubble API."""

    unix_socket: Path | None = Field(
        default=Path("/run/ciliary/hubble.sock"), description="Where to serve it; null for nowhere."
    )
    listen: Address | None = Field(
        default=None, description="TCP address, such as :4244; null for none."
    )
    insecure: bool = Field(
        default=False, description="Allow plain TCP that other machines can reach."
    )
    tls: Tls = Tls()

    @property
    def has_tls(self) -> bool:
        """Whether the TCP listener speaks TLS."""
        return self.listen is not None and self.tls.cert_file is not None

    redact: Redact = Redact()

    @model_validator(mode="after")
    def _plain_tcp_is_a_decision(self) -> Hubble:
        plain = self.listen is not None and not self.has_tls and not self.insecure
        if plain and not is_loopback(split_address(self.listen or "")[0]):
            raise ValueError(
                f"listen: {self.listen} is plain TCP that other machines can reach; "
                "set tls, listen on 127.0.0.1, or say insecure: true"
            )
        if self.tls.cert_file is not None and self.listen is None:
            raise ValueError("tls is for TCP; set listen as well, such as :4244")
        return self


class HubbleMetricsConfig(_Section):
    """hubble_* metrics."""

    listen: Address | None = Field(
        default=":9965", description="Address of /metrics; null for none."
    )
    tls: Tls = Tls()
    enabled: Annotated[tuple[str, ...], AfterValidator(_checked_metrics)] = Field(
        default=DEFAULT_HANDLERS,
        description=(
            "Metrics by Hubble's names, each with options as in Hubble's own list: "
            "flow:sourceContext=pod|ip;labelsContext=source_namespace."
        ),
    )
    dynamic: Path | None = Field(
        default=None,
        description=(
            "File in the form of Hubble's dynamic metrics, read again when it changes; "
            "instead of enabled."
        ),
    )
    series: Annotated[int, Field(ge=100, le=1_000_000)] = Field(
        default=SERIES,
        description=(
            "Series a metric has at most; further ones are counted under the label value other."
        ),
    )
    idle: Annotated[float, Field(ge=60)] | None = Field(
        default=3600.0,
        description=(
            "Seconds without a count after which a series is exported no more, where a metric "
            "may have many; null for never."
        ),
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> HubbleMetricsConfig:
        if self.dynamic is not None and "enabled" in self.model_fields_set:
            raise ValueError("enabled and dynamic: both say what is counted; leave one out")
        return self


class AgentMetricsConfig(_Section):
    """ciliary_* metrics."""

    listen: Address | None = Field(
        default=":10093", description="Address of /metrics; null for none."
    )
    tls: Tls = Tls()


class Metrics(_Section):
    """Prometheus metrics."""

    hubble: HubbleMetricsConfig = HubbleMetricsConfig()
    agent: AgentMetricsConfig = AgentMetricsConfig()


class Health(_Section):
    """Health and debugging."""

    listen: Address | None = Field(
        default="127.0.0.1:10094",
        description="Address of /healthz, /readyz and /debug; null for none.",
    )


class HistoryConfig(_Section):
    """Flows that can be asked for later."""

    flows: Annotated[
        Annotated[int, Field(ge=1, le=_MOST_FLOWS)] | Literal["auto"],
        BeforeValidator(_checked_flows),
    ] = Field(
        default="auto",
        description="How many; auto for 1,000,000 or what a quarter of the memory holds.",
    )


class Log(_Section):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="Lines for people or machines."
    )


class Config(_Section):
    """Everything that can be configured."""

    source: Choice = Field(
        default="auto",
        description="Where events come from: cilium, probes, or auto for Cilium's socket where "
        "it answers, else own probes.",
    )
    node: Node = Node()
    cilium: Cilium = Cilium()
    native_probes: NativeProbes = NativeProbes()
    identity: Identity = Identity()
    hubble: Hubble = Hubble()
    metrics: Metrics = Metrics()
    health: Health = Health()
    history: HistoryConfig = HistoryConfig()
    log: Log = Log()


class _Loader(yaml.SafeLoader):
    """YAML as it is safe, and without the keys that silently replace earlier ones."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key '{key.value}' is there twice",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """A document in which no key comes twice; ``yaml.YAMLError``."""
    return yaml.load(text, _Loader)  # noqa: S506 -- it is a safe one


def load_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration of a file, or the defaults, with the environment's overrides."""
    values: Any = {}
    if path is not None:
        try:
            values = read_yaml(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                [f"{path}: {reason_of(error)}; name a file that can be read"]
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            told = " ".join(str(error).replace('"<unicode string>", ', "").split())
            raise ConfigError([f"{path}: not YAML: {told}"]) from None
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ConfigError([f"{path}: not a mapping of sections"])
    return parse_config(values, environment)


def parse_config(values: dict[str, Any], environment: Mapping[str, str]) -> Config:
    """Validate a mapping of sections; ``ConfigError`` has everything that is wrong."""
    origin, problems = _override(values, environment)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False):
            problems.append(_sentence(problem, origin))
        raise ConfigError(problems) from None
    if problems:
        raise ConfigError(problems)
    return config


def _override(
    values: dict[str, Any], environment: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Lay the environment over ``values``; returns path -> variable, and problems."""
    origin: dict[str, str] = {}
    problems: list[str] = []
    joined = {path.replace(".", "_"): path for path in _paths(Config, "")}
    for variable in sorted(v for v in environment if v.startswith(PREFIX)):
        name = variable.removeprefix(PREFIX).lower()
        if _JOINT not in name and joined.get(name) != name:
            # CILIARY_PORT and the like: Kubernetes makes them for Services
            if name in joined:
                meant = PREFIX + joined[name].replace(".", _JOINT).upper()
                problems.append(f"{variable}: sections are joined by two underscores: {meant}")
            continue
        keys = name.split(_JOINT)
        try:
            value = read_yaml(environment[variable])
        except yaml.YAMLError:
            problems.append(f"{variable}: not a YAML value")
            continue
        section: Any = values
        for key in keys[:-1]:
            if isinstance(section, dict):
                if section.get(key) is None:  # not there, or empty
                    section[key] = {}
                section = section[key]
        if isinstance(section, dict):
            section[keys[-1]] = value
            origin[".".join(keys)] = variable
    return origin, problems


def _paths(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _paths(field.annotation, f"{prefix}{key}.")
        else:
            yield prefix + key


def _sentence(problem: Any, origin: Mapping[str, str]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    where = f"{path} (from {origin[path]})" if path in origin else path
    if problem["type"] == "extra_forbidden":
        return f"{where}: there is no such key; there is {', '.join(_keys_beside(problem['loc']))}"
    if wanted := _WANTED.get(problem["type"]):
        return f"{where}: {_shown(problem['input'])} is not {wanted}"
    text = problem["msg"]
    if problem["type"] == "value_error":  # a sentence of ours
        return f"{where}: {text.removeprefix('Value error, ')}"
    return f"{where}: {text[:1].lower()}{text[1:]}"


def _keys_beside(location: tuple[str | int, ...]) -> list[str]:
    section: Any = Config
    for key in location[:-1]:
        section = section.model_fields[key].annotation
    return list(section.model_fields)
