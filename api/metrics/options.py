"""What shall be counted, in the words of Hubble's option.

    dns:query;ignoreAAAA drop flow:sourceContext=pod|ip;labelsContext=source_namespace

Handlers are separated by spaces, their options by semicolons, values of an option by
pipes or, where there is none, by commas (Hubble took both until 1.19 and has since split
``labelsContext`` at commas and all others at pipes; what it takes, we do). Names of options
are told apart without regard to case. What is not known is refused by name, where Hubble
passes over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import json_format

from api.hubble.filters import FlowSelection
from api.hubble.node import LocalNode
from api.metrics.context import IDENTIFIERS, LABELS, ContextSpec
from api.v1.flow import flow_pb2
from parsers.errors import UsageError
from parsers.pipeline import new_tables

QUERY, IGNORE_AAAA, ANY_DROP, PORT, SYN_ONLY, EXEMPLARS = (
    "query", "ignoreAAAA", "any-drop", "port", "syn-only", "exemplars",
)  # fmt: skip

OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "dns": (QUERY, IGNORE_AAAA),
    "drop": (),
    "flow": (),
    "flows-to-world": (ANY_DROP, PORT, SYN_ONLY),
    "http": (EXEMPLARS,),
    "httpV2": (EXEMPLARS,),
    "icmp": (),
    "kafka": (),
    "policy": (),
    "port-distribution": (),
    "sctp": (),
    "tcp": (),
    "volume": (),
}
"""Handlers, and the options of each beside those of ``CONTEXT_OPTIONS``."""

CONTEXT_OPTIONS: Final[Mapping[str, str]] = {
    "sourceContext": "source",
    "sourceEgressContext": "source_egress",
    "sourceIngressContext": "source_ingress",
    "destinationContext": "destination",
    "destinationEgressContext": "destination_egress",
    "destinationIngressContext": "destination_ingress",
    "labelsContext": "labels",
}
"""Options of every handler, and the field of ``ContextSpec`` each fills."""

_SWAPPED: Final = ("httpV2",)
_NO_CONTEXT: Final = ContextSpec()


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One handler as configured. ``include``, ``exclude``: serialized ``flow.FlowFilter``."""

    name: str
    context: ContextSpec = _NO_CONTEXT
    options: frozenset[str] = frozenset()
    include: tuple[bytes, ...] = ()
    exclude: tuple[bytes, ...] = ()

    @property
    def series(self) -> tuple[str, ContextSpec, frozenset[str]]:
        """What its series follow from: while it stays, filters may change and counts go on."""
        return self.name, self.context, self.options


def parse_handlers(handlers: str | Iterable[str | HandlerSpec]) -> tuple[HandlerSpec, ...]:
    """The handlers of an option or a list, by name; ``UsageError`` says what is wrong with one."""
    found: dict[str, HandlerSpec] = {}
    for given in [handlers] if isinstance(handlers, str) else handlers:
        parsed = map(_parse_handler, given.split()) if isinstance(given, str) else [given]
        for spec in parsed:
            if found.setdefault(spec.name, spec) != spec:
                raise UsageError(f"metric {spec.name} is configured twice; name it once")
    if {"http", "httpV2"} <= found.keys():
        raise UsageError("http and httpV2 count under the same names; take one of them")
    return tuple(found[name] for name in sorted(found, key=str.lower))


def handler_of(
    name: str,
    options: Iterable[tuple[str, tuple[str, ...]]],
    include: Iterable[flow_pb2.FlowFilter] = (),
    exclude: Iterable[flow_pb2.FlowFilter] = (),
) -> HandlerSpec:
    """A handler of its options' names and values."""
    if name not in OPTIONS:
        known = ", ".join(sorted(OPTIONS, key=str.lower))
        raise UsageError(f"no metric handler is called {name}; there are {known}")
    allowed = {key.lower(): key for key in (*CONTEXT_OPTIONS, *OPTIONS[name])}
    context: dict[str, tuple[str, ...]] = {}
    flags: set[str] = set()
    for given, values in options:
        key = allowed.get(given.lower())
        if key is None:
            raise UsageError(
                f"metric {name} has no option {given}; there are {', '.join(allowed.values())}"
            )
        if key in CONTEXT_OPTIONS:
            context[CONTEXT_OPTIONS[key]] = _identifiers(name, key, values)
        elif _is_set(name, key, values):
            flags.add(key)
    return HandlerSpec(
        name,
        ContextSpec(**context, swapped=bool(context) and name in _SWAPPED),
        frozenset(flags),
        tuple(f.SerializeToString(deterministic=True) for f in include),
        tuple(f.SerializeToString(deterministic=True) for f in exclude),
    )


def read_handlers(document: object) -> tuple[HandlerSpec, ...]:
    """The handlers of Hubble's dynamic configuration, as YAML or JSON was read.

    metrics:
    - name: flow
      contextOptions: [{name: sourceContext, values: [pod]}]
      includeFilters: [{source_pod: ["shop/"]}]
      excludeFilters: []
    """
    problems: list[str] = []
    specs: list[HandlerSpec] = []
    if not isinstance(document, dict) or set(document) != {"metrics"}:
        raise UsageError("metrics are not configured as a list under the one key metrics")
    entries = document["metrics"]
    if not isinstance(entries, list):
        raise UsageError("metrics is no list")
    for number, entry in enumerate(entries):
        try:
            specs.append(_read_handler(entry))
        except UsageError as error:
            problems.append(f"metrics[{number}]: {error}")
    if problems:
        raise UsageError("; ".join(problems))
    return parse_handlers(specs)


def _read_handler(entry: object) -> HandlerSpec:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise UsageError("it has no name")
    unknown = entry.keys() - {"name", "contextOptions", "includeFilters", "excludeFilters"}
    if unknown:
        raise UsageError(
            f"no key {', '.join(sorted(map(str, unknown)))} is known; "
            "there are name, contextOptions, includeFilters, excludeFilters"
        )
    options: list[tuple[str, tuple[str, ...]]] = []
    for option in _list(entry, "contextOptions"):
        if not isinstance(option, dict) or not isinstance(option.get("name"), str):
            raise UsageError("an entry of contextOptions has no name")
        options.append((option["name"], tuple(map(str, _list(option, "values")))))
    include, exclude = (_filters(entry, key) for key in ("includeFilters", "excludeFilters"))
    return handler_of(entry["name"], options, include, exclude)


def _filters(entry: dict[str, Any], key: str) -> list[flow_pb2.FlowFilter]:
    found = []
    for number, one in enumerate(_list(entry, key)):
        try:
            parsed = json_format.ParseDict(one, flow_pb2.FlowFilter())
            FlowSelection(new_tables(), LocalNode(""), [parsed])
        except (json_format.ParseError, AttributeError, TypeError, UsageError) as error:
            raise UsageError(f"{key}[{number}] is no flow filter: {error}") from None
        found.append(parsed)
    return found


def _list(entry: Mapping[str, Any], key: str) -> Iterable[Any]:
    given = entry.get(key)
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        raise UsageError(f"{key} is no list")
    return given


def _parse_handler(text: str) -> HandlerSpec:
    name, _, rest = text.partition(":")
    options: list[tuple[str, tuple[str, ...]]] = []
    for part in filter(None, rest.split(";")):
        key, _, value = part.partition("=")
        options.append((key, tuple(value.split("|" if "|" in value else ","))))
    return handler_of(name, options)


def _identifiers(name: str, key: str, values: tuple[str, ...]) -> tuple[str, ...]:
    given = tuple(filter(None, (value.strip() for value in values)))
    if key == "labelsContext":
        known: Iterable[str] = LABELS
        found = tuple(label for label in LABELS if label in given)
        wrong = [value for value in given if value not in LABELS]
    else:
        known = IDENTIFIERS
        found = tuple(value.lower() for value in given)
        wrong = [value for value in given if value.lower() not in IDENTIFIERS]
    if wrong:
        raise UsageError(
            f"metric {name}: {key} knows no {', '.join(wrong)}; there are {', '.join(known)}"
        )
    return found


def _is_set(name: str, key: str, values: tuple[str, ...]) -> bool:
    value = "|".join(values)
    if key == EXEMPLARS and value not in ("true", "false"):
        raise UsageError(f"metric {name}: {key} is true or false, not '{value}'")
    return value != "false"
