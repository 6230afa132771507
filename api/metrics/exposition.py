"""The two text forms of Prometheus: classic 0.0.4 and OpenMetrics 1.0, as Go writes them.

Sources: Prometheus "Exposition formats", the OpenMetrics 1.0 specification, and what
Hubble's own endpoint prints. Numbers that are not counts are written as Go's shortest
``%g``: ``1``, ``0.25``, ``1.5e+06``. Counts are written in full; Go would turn to an
exponent at a million, which is the same number to every reader.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from itertools import chain
from typing import Protocol

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

CHUNK = 1 << 16
"""Characters after which ``render`` yields."""


class Format(Enum):
    """A text form; the value is its ``Content-Type``."""

    CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Writable(Protocol):
    """A family that can write itself."""

    name: str

    def write(self, form: Format) -> Iterator[str]:
        """Blocks of whole lines, with the values of the moment of the call."""


def negotiate(accept: str) -> Format:
    """The form a reader likes best by its ``Accept`` header; classic when in doubt."""
    best, form = 0.0, Format.CLASSIC
    for offer in accept.lower().split(","):
        media, *parameters = (part.strip() for part in offer.split(";"))
        options = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        if media == "application/openmetrics-text":
            if options.get("version", "1.0.0") not in {"1.0.0", "0.0.1"}:
                continue
            offered = Format.OPENMETRICS
        elif media in {"text/plain", "text/*", "*/*"}:
            offered = Format.CLASSIC
        else:
            continue
        quality = _quality(options.get("q", "1"))
        if quality > best:
            best, form = quality, offered
    return form


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an ``Accept-Encoding`` header names gzip with a weight above 0."""
    for offer in accept_encoding.lower().split(","):
        coding, _, parameter = offer.partition(";")
        if coding.strip() == "gzip":
            return _quality(parameter.strip().removeprefix("q=") or "1") > 0
    return False


def render(families: Iterable[Writable], form: Format) -> Iterator[bytes]:
    """All families by name, in chunks; an empty chunk says that time was spent.

    No step takes longer than a few milliseconds however many series there are: a caller
    on an event loop gives way after each. The values are those of the first step.
    """
    writing = [f.write(form) for f in sorted(families, key=lambda family: family.name)]
    end = ["# EOF\n"] if form is Format.OPENMETRICS else []
    held: list[str] = []
    size = 0
    for block in chain(chain.from_iterable(writing), end):
        held.append(block)
        size += len(block)
        if size >= CHUNK or not block:
            yield "".join(held).encode(errors="replace")
            held.clear()
            size = 0
    yield "".join(held).encode(errors="replace")


def gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks as one gzip stream at level 1, which costs a seventh of level 9."""
    packer = zlib.compressobj(level=1, wbits=31)
    for chunk in chunks:
        yield packer.compress(chunk)
    yield packer.flush()


def registry_families(registry: CollectorRegistry) -> list[Writable]:
    """What a registry collects now; ``_created`` samples are left out."""
    return [_Collected(metric) for metric in registry.collect()]


def escape_label_value(value: str) -> str:
    """A label value as it stands between quotes."""
    if "\\" not in value and '"' not in value and "\n" not in value:
        return value
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def go_number(value: float, form: Format = Format.CLASSIC) -> str:
    """A float as Go's client prints it in ``form``."""
    value = float(value)
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    if abs(value) >= 1e6:
        return np.format_float_scientific(value, trim="-", exp_digits=2)
    text = repr(value)  # Python and Go agree below: an exponent from 1e-5 down
    if form is Format.OPENMETRICS:
        return text
    return text.removesuffix(".0")


def header(form: Format, name: str, kind: str, text: str) -> str:
    """The HELP and TYPE lines; ``name`` is a counter's with its ``_total``."""
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    if form is Format.OPENMETRICS:
        text = text.replace('"', r"\"")
        if kind == "counter":
            name = name.removesuffix("_total")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


class _Collected:
    """A family of ``prometheus_client``: few series, written without caches."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self.name: str = metric.name + ("_total" if metric.type == "counter" else "")

    def write(self, form: Format) -> Iterator[str]:
        metric = self._metric
        lines = [header(form, self.name, metric.type, metric.documentation)]
        for name, labels, value, *_ in metric.samples:
            if not name.endswith("_created"):
                lines.append(_sample(name, labels, go_number(value, form), form))
        if len(lines) > 1:
            yield "".join(lines)


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _sample(name: str, labels: Mapping[str, str], number: str, form: Format) -> str:
    text = ",".join(
        f'{key}="{go_number(float(value), form) if key == "le" else escape_label_value(value)}"'
        for key, value in labels.items()
    )
    return f"{name}{{{text}}} {number}\n" if text else f"{name} {number}\n"
