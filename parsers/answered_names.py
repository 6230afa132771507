"""Names of addresses outside, from the DNS answers among flows.

As with Hubble, a name belongs to the endpoint that asked for it. An answer goes to who asked,
so the flow's destination did. Names are known for flows from the answer on.
"""

from __future__ import annotations

from parsers.addresses import parse_address
from parsers.directory import Directory
from parsers.flow_batch import L7_DNS, FlowBatch
from parsers.l7 import Dns, DnsLabels

_RESPONSE = 2  # flow.L7FlowType
_LONGEST = 253  # characters of a name (RFC 1035, section 2.3.4), should a record have more


class AnsweredNames:
    """Tells ``directory`` what endpoints of this node were answered."""

    __slots__ = ("_directory",)

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def learn(self, flows: FlowBatch) -> None:
        """Learn from the answers among ``flows``; an answer costs some 10 µs."""
        answers = (flows.attribute("l7_record") == L7_DNS) & (
            flows.attribute("l7_type") == _RESPONSE
        )
        if not answers.any():
            return
        tables = flows.tables
        conversations = tables.conversations
        asked_by = conversations.entities.endpoint_id[
            conversations.destination_entity[flows.conversation[answers]]
        ]
        for endpoint_id, detail, time in zip(
            asked_by.tolist(), flows.detail[answers].tolist(), flows.time[answers].tolist(),
            strict=True,
        ):  # fmt: skip
            record = tables.details.record(detail)
            labels = record.labels if record is not None else None
            if record is None or not endpoint_id or not isinstance(labels, DnsLabels):
                continue
            if labels.ips_returned and isinstance(said := record.content().record, Dns):
                name = said.query.removesuffix(".")[:_LONGEST]
                found = filter(None, map(parse_address, said.ips))
                self._directory.learn_names(endpoint_id, name, found, since=time)
