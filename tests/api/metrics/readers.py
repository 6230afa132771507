"""Prometheus' own readers of the two text forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser

from api.metrics.exposition import Format

read_classic: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families
read_openmetrics: Callable[[str], Iterable[Metric]] = (
    openmetrics_parser.text_string_to_metric_families
)
READERS = {Format.CLASSIC: read_classic, Format.OPENMETRICS: read_openmetrics}
