"""What the demo shows, counted from the batches as they pass.

Only numbers, and the newest few flows as messages: exactly what a client would see.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from api.hubble.messages import FlowMessages
from api.v1.flow import flow_pb2
from parsers.pipeline import ParsedBatch

_DROPPED = flow_pb2.DROPPED
_RATE_WINDOW = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class FlowLine:
    """A flow as a person reads it."""

    time: str
    source: str
    destination: str
    point: str
    verdict: str
    summary: str


class Tally:
    """Counts since the start, and the newest ``keep`` flows of each batch."""

    def __init__(
        self, messages: FlowMessages, *, keep: int = 8, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._messages = messages
        self._keep = keep
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)])
        self.records = self.flows = self.lost = self.errors = 0
        self.verdicts: Counter[str] = Counter()
        self.drop_reasons: Counter[str] = Counter()
        self.recent: deque[FlowLine] = deque(maxlen=64)

    def count(self, parsed: ParsedBatch) -> None:
        """Take a batch."""
        batch = parsed.flows
        self.records += parsed.records
        self.errors += len(parsed.errors)
        self.lost += sum(lost.count for lost in parsed.lost_events)
        self.flows += len(batch)
        verdict = batch.attribute("verdict")
        for number, count in enumerate(np.bincount(verdict).tolist()):
            if count:
                self.verdicts[_name(flow_pb2.Verdict, number)] += count
        reasons = batch.attribute("drop_reason")[verdict == _DROPPED]
        for number, count in zip(*np.unique(reasons, return_counts=True), strict=True):
            self.drop_reasons[_name(flow_pb2.DropReason, int(number))] += int(count)
        for index in range(max(0, len(batch) - self._keep), len(batch)):
            self.recent.append(line_of(self._messages.flow(batch, index)))

    def flows_per_second(self) -> float:
        """Over the last two seconds."""
        now = self._clock()
        self._marks.append((now, self.flows))
        while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_WINDOW:
            self._marks.popleft()
        since, flows = self._marks[0]
        return (self.flows - flows) / (now - since) if now > since else 0.0


def line_of(flow: flow_pb2.Flow) -> FlowLine:
    """The words of ``hubble observe``."""
    moment = flow.time.seconds % 86400
    return FlowLine(
        time=f"{moment // 3600:02}:{moment // 60 % 60:02}:{moment % 60:02}."
        f"{flow.time.nanos // 1_000_000:03}",
        source=_side(flow.source, flow.source_names, flow.IP.source, _port(flow, "source_port")),
        destination=_side(
            flow.destination,
            flow.destination_names,
            flow.IP.destination,
            _port(flow, "destination_port"),
        ),
        point=_point(flow),
        verdict=_name(flow_pb2.Verdict, flow.verdict),
        summary=_what(flow),
    )


def _side(endpoint: flow_pb2.Endpoint, names: object, address: str, port: int) -> str:
    listed = list(names)  # type: ignore[call-overload]
    if endpoint.pod_name:
        text = f"{endpoint.namespace}/{endpoint.pod_name}"
    elif listed:
        text = listed[0]
    else:
        text = address or "?"
        reserved = [x.removeprefix("reserved:") for x in endpoint.labels if "reserved:" in x]
        text += f" ({reserved[0]})" if reserved else ""
    return f"{text}:{port}" if port else text


def _port(flow: flow_pb2.Flow, field: str) -> int:
    layer = flow.l4.WhichOneof("protocol")
    return int(getattr(getattr(flow.l4, layer), field, 0)) if layer else 0


def _point(flow: flow_pb2.Flow) -> str:
    if flow.event_type.type == 4:
        name = _name(flow_pb2.TraceObservationPoint, flow.trace_observation_point)
        return name.lower().replace("_", "-")
    kinds = {1: "drop", 3: "capture", 5: "policy-verdict", 7: "socket", 129: "l7"}
    return kinds.get(flow.event_type.type, str(flow.event_type.type))


def _what(flow: flow_pb2.Flow) -> str:
    if flow.verdict == _DROPPED and flow.drop_reason_desc:
        return _name(flow_pb2.DropReason, flow.drop_reason_desc)
    return flow.Summary


def _name(enumeration: object, number: int) -> str:
    try:
        return str(enumeration.Name(number))  # type: ignore[attr-defined]
    except ValueError:
        return str(number)
