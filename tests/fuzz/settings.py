"""Invariant: any text as configuration, identity file or metrics file is taken or refused.

Refused with a ``UsageError``, which says something. The first byte of the input chooses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml

from api.metrics.options import parse_handlers, read_handlers
from bridge.config import parse_config, read_yaml
from bridge.identity.file import parse_identity
from parsers.errors import UsageError
from parsers.world import directory_of
from tests.fixtures import world

CONFIGURATION = b"""
node: {name: n, address: 10.0.0.1}
cilium: {socket: /run/x, release: "1.18"}
hubble: {listen: ["127.0.0.1:4244"], tls: {cert_file: a, key_file: b}}
metrics: {hubble: {enabled: ["dns:query;labelsContext=source_pod", drop], idle: 3600, series: 10}}
history: {flows: auto}
"""
METRICS = b"""
metrics:
  - name: flow
    contextOptions: [{name: sourceContext, values: [pod, dns]}]
    includeFilters: [{source_pod: [default/]}, {verdict: [DROPPED]}]
"""


def seeds() -> Iterator[bytes]:
    """One good text of each kind."""
    yield b"\x00" + CONFIGURATION
    few = {key: value[:2] if isinstance(value, list) else value for key, value in _world()}
    yield b"\x01" + json.dumps(few).encode()
    yield b"\x02" + json.dumps(few).encode()
    yield b"\x03" + METRICS
    yield b"\x04flow:sourceContext=workload|ip;destinationContext=dns,drop"


def _world() -> Iterator[tuple[str, object]]:
    known = ("node", "endpoints", "ips", "identities", "services", "dns", "links", "cgroups")
    return ((key, value) for key, value in world("v1.19").items() if key in known)


def check(data: bytes) -> None:
    """Read it as the kind that the first byte says."""
    kind, text = data[0] % 5 if data else 0, data[1:]
    try:
        match kind:
            case 0:
                document = read_yaml(text.decode())
                parse_config(document if isinstance(document, dict) else {}, {})
            case 1 | 2:
                directory_of(parse_identity(text, "file", yaml=kind == 2))
            case 3:
                read_handlers(read_yaml(text.decode()))
            case _:
                parse_handlers(text.decode())
    except UsageError as error:
        if not str(error):
            raise
    except (yaml.YAMLError, UnicodeDecodeError):
        if kind in {1, 2}:  # the others are read by who reads the file
            raise
