"""What is counted is said in Hubble's words, and what is wrong is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from api.metrics.context import ContextSpec
from api.metrics.hubble import HubbleMetrics
from api.metrics.options import HandlerSpec, handler_of, parse_handlers, read_handlers
from api.v1.flow import flow_pb2
from parsers.errors import UsageError


def test_options_are_separated_as_in_hubbles_list() -> None:
    specs = parse_handlers(
        "flow:sourceContext=pod|IP;LABELSCONTEXT=source_pod,traffic_direction dns"
    )
    assert (
        HandlerSpec("dns"),
        HandlerSpec(
            "flow", ContextSpec(source=("pod", "ip"), labels=("source_pod", "traffic_direction"))
        ),
    ) == specs


def test_values_are_split_at_commas_where_there_is_no_pipe() -> None:
    (spec,) = parse_handlers("drop:destinationEgressContext=dns,ip")
    assert ("dns", "ip") == spec.context.destination_egress


def test_flags_need_no_value() -> None:
    (spec,) = parse_handlers("dns:query;ignoreAAAA")
    assert {"query", "ignoreAAAA"} == spec.options
    (spec,) = parse_handlers("httpV2:exemplars=true")
    assert {"exemplars"} == spec.options
    (spec,) = parse_handlers("httpV2:exemplars=false")
    assert frozenset() == spec.options


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("nonsense", ["no metric handler is called nonsense", "port-distribution"]),
        ("dns:nonsense", ["metric dns has no option nonsense", "ignoreAAAA", "sourceContext"]),
        ("drop:query", ["metric drop has no option query"]),
        ("tcp:sourceContext=pods", ["metric tcp", "sourceContext knows no pods", "pod-name"]),
        ("tcp:labelsContext=pod", ["labelsContext knows no pod", "destination_workload_kind"]),
        ("http httpV2", ["http and httpV2"]),
        ("flow flow:sourceContext=pod", ["flow is configured twice"]),
        ("http:exemplars=yes", ["exemplars is true or false, not 'yes'"]),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(option: str, named: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        HubbleMetrics(option)
    for part in named:
        assert part in str(refused.value)


def test_a_dynamic_configuration_says_the_same_as_the_list() -> None:
    document = {
        "metrics": [
            {"name": "dns", "contextOptions": [{"name": "query"}]},
            {
                "name": "flow",
                "contextOptions": [{"name": "sourceContext", "values": ["pod", "ip"]}],
                "includeFilters": [{"source_pod": ["shop/"]}],
                "excludeFilters": [{"verdict": ["DROPPED"]}, {"eventType": [{"type": 4}]}],
            },
        ]
    }
    dns, flow = read_handlers(document)
    assert parse_handlers("dns:query") == (dns,)
    expected = handler_of(
        "flow",
        [("sourceContext", ("pod", "ip"))],
        [flow_pb2.FlowFilter(source_pod=["shop/"])],
        [
            flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED]),
            flow_pb2.FlowFilter(event_type=[flow_pb2.EventTypeFilter(type=4)]),
        ],
    )
    assert expected == flow


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (None, "one key metrics"),
        ({"metric": []}, "one key metrics"),
        ({"metrics": {}}, "metrics is no list"),
        ({"metrics": [{}]}, "metrics[0]: it has no name"),
        ({"metrics": [{"name": "flow", "labels": []}]}, "no key labels is known"),
        ({"metrics": [{"name": "flow"}, {"name": "x"}]}, "metrics[1]: no metric handler"),
        (
            {"metrics": [{"name": "flow", "includeFilters": [{"pod": []}]}]},
            "includeFilters[0] is no flow filter",
        ),
        (
            {"metrics": [{"name": "flow", "excludeFilters": [{"source_ip": ["no"]}]}]},
            "excludeFilters[0] is no flow filter",
        ),
        (
            {"metrics": [{"name": "flow", "contextOptions": [{"name": "sourceContext"}, {}]}]},
            "an entry of contextOptions has no name",
        ),
        ({"metrics": [{"name": "flow", "contextOptions": 5}]}, "contextOptions is no list"),
        ({"metrics": [{"name": "flow", "excludeFilters": "x"}]}, "excludeFilters is no list"),
        (
            {"metrics": [{"name": "flow", "contextOptions": [{"name": "x", "values": "y"}]}]},
            "values is no list",
        ),
        (
            {"metrics": [{"name": "a"}, {"name": "b"}]},
            "metrics[0]: no metric handler is called a; ",
        ),
    ],
)
def test_a_wrong_dynamic_configuration_is_told_where(document: Any, named: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_handlers(document)
    assert named in str(refused.value)
