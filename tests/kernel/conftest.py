"""Tests that load programs into this kernel; all of them act in namespaces of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache

import pytest

from native_probes.engine import LibbpfEngine
from native_probes.report import ProbeUnavailableError
from native_probes.traffic import TrafficSettings, traffic_spec
from tests.kernel.lab import Lab, Pod
from tests.kernel.tracing import reachable, wait_for
from tests.kernel.withheld import NoTraceEventsError, Record

_TRIES_MORE = 3  # for a test during which the kernel withheld events
_record: list[Record] = []


def _were_events_withheld() -> bool:
    return any(record.count() for record in _record)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """See ``withheld``; a test that fails for any other reason fails at once."""
    if config.option.usepdb or "CILIARY_GUEST" in os.environ:  # whose kernels withhold nothing
        return
    for item in items:
        if "tests/kernel/" in item.nodeid:
            item.add_marker(pytest.mark.flaky(reruns=_TRIES_MORE, condition=_were_events_withheld))


@cache
def _obstacle() -> str:
    if os.geteuid():
        return "these tests want root"
    try:
        LibbpfEngine().load(traffic_spec(TrafficSettings())).close()
    except ProbeUnavailableError as error:
        return str(error)
    return ""


@pytest.fixture(scope="session", autouse=True)
def release(record_testsuite_property: Callable[[str, object], None]) -> None:
    """For the table of kernels that ``tools.kernel_table`` makes."""
    record_testsuite_property("kernel", os.uname().release)


@pytest.fixture(scope="session", autouse=True)
def record() -> Iterator[None]:
    """Of what the kernel withholds in the threads of process 1."""
    if not os.geteuid():
        with suppress(NoTraceEventsError):
            _record.append(Record(1))
    yield
    while _record:
        _record.pop().close()


@pytest.fixture(autouse=True)
def a_new_record(record: None) -> None:
    for one in _record:
        one.start()


@pytest.fixture(autouse=True)
def a_kernel_that_lets_us() -> None:
    """Skips, except in CI, whose machine has all that is needed."""
    obstacle = _obstacle()
    if obstacle and os.environ.get("CI") == "true":
        pytest.fail(obstacle)
    if obstacle:
        pytest.skip(obstacle)


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def pods(lab: Lab) -> tuple[Pod, Pod]:
    """Two pods that know each other as neighbours."""
    pods = lab.add_pod(), lab.add_pod()
    wait_for(lambda: reachable(*pods) and reachable(*pods[::-1]))
    return pods
