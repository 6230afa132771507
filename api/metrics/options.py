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
from typing import Final

from api.metrics.context import IDENTIFIERS, LABELS, ContextSpec
from api.v1.flow import flow_pb2
from parsers.errors import UsageError

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
