"""What is looked up while rows are freed is right later, though no flow of the history has it.

Flows to ports of certain pods are looked up by their addresses first, and have other rows
then; and flows are named anew in vain.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from api.history import History, reclaim
from api.history.corrector import Corrector
from parsers.addresses import parse_address
from parsers.directory import AddressRecord, Directory, LocalEndpoint
from parsers.flow_batch import CONVERSATION, L4_TCP, FlowBatch, FlowTables
from parsers.ledger import Ledger
from parsers.pipeline import new_tables

CLIENTS, PORT = 60, 9100


def packed(text: str) -> bytes:
    address = parse_address(text)
    assert address is not None
    return address


NODE = packed("192.168.0.1")


def flows_of(
    tables: FlowTables, directory: Directory, clients: list[int], ports: list[int], now: int
) -> FlowBatch:
    """Flows of clients to ports of the node."""
    count = len(clients)
    keys = np.zeros(count, dtype=CONVERSATION)
    keys["ip_version"] = 1
    keys["destination_ip"] = np.frombuffer(NODE, dtype=np.uint8)
    for row, client in enumerate(clients):
        keys["source_ip"][row] = np.frombuffer(packed(f"10.0.0.{client}"), dtype=np.uint8)
    time, zeros = np.full(count, now), np.zeros(count, dtype=np.uint32)
    sides = zeros.astype(np.uint16), np.array(ports, dtype=np.uint16)
    conversations = tables.conversations
    rows = conversations.lookup(keys, time, directory)
    tcp = L4_TCP << 16
    rows = conversations.lookup_host_ports(
        keys, rows, (sides[0] | np.uint32(tcp), sides[1] | np.uint32(tcp)), time, directory
    )
    return FlowBatch(
        tables,
        time=time,
        sequence=zeros.astype(np.uint64),
        flow_class=zeros,
        conversation=rows,
        source_port=sides[0],
        destination_port=sides[1],
        detail=zeros,
    )


@pytest.mark.parametrize("seed", range(6))
def test_names_are_right_however_rows_are_freed(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclaim, "_FEWEST", (4,) * 5)
    for name, most in (("MARKED", 12), ("SWEPT", 30), ("SWEPT_OBJECTS", 15)):
        monkeypatch.setattr(reclaim, name, most)
    choose = random.Random(seed)
    directory, tables = Directory(), new_tables()
    history = History(tables, Ledger(), 12, 0)
    corrector = Corrector(history, directory)
    directory.set_address("192.168.0.1/32", AddressRecord(1))
    proxy = directory.owners.add(AddressRecord(1, "kube-system", "exporter"))
    directory.set_host_port(proxy, NODE, L4_TCP << 16 | PORT, 0)
    names = {}
    for now in range(1, 400):
        for client in choose.sample(range(CLIENTS), 20 if now == 1 else now % 10 == 0):
            names[client] = f"pod-{client}-{now}"
            pod = LocalEndpoint(client + 1, 1000, "shop", names[client])
            directory.set_endpoint(pod, (packed(f"10.0.0.{client}"),), since=now)
        clients = [choose.choice(list(names)) for _ in range(choose.randint(1, 6))]
        ports = choose.choices([PORT, 22], [30, 1], k=len(clients))
        batch = flows_of(tables, directory, clients, ports, now)
        conversations = tables.conversations
        shown = [
            (conversations.entities[int(s)].pod_name, conversations.entities[int(d)].pod_name)
            for s, d in zip(
                conversations.source_entity[batch.conversation],
                conversations.destination_entity[batch.conversation],
                strict=True,
            )
        ]
        assert shown == [
            (names[client], "exporter" if port == PORT else "")
            for client, port in zip(clients, ports, strict=True)
        ]
        history.append(batch)
        for _ in corrector.sweep(now - 3):
            pass
    assert history.statistics().reclaims > 3
