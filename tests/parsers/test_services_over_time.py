"""A flow has the service that its address and port had when it was read."""

from __future__ import annotations

from parsers.addresses import parse_address
from parsers.details import Service
from parsers.directory import Frontends
from parsers.world import directory_of
from tests.fixtures import expected, payloads, release_number, world
from tests.parsers.recorded import Parser, batch_of

RELEASE, MIX = "v1.20", "steady"


def test_a_service_that_got_another_name_has_it_for_flows_from_then_on() -> None:
    number, event = next(
        (line["i"], line["event"])
        for line in expected(RELEASE, MIX)
        if line["kind"] == "flow" and "destination_service" in line["event"]
    )
    address = parse_address(event["IP"]["destination"])
    port = next(iter(event["l4"].values()))["destination_port"]
    directory = directory_of(world(RELEASE))
    parser = Parser(world(RELEASE), release_number(RELEASE), directory=directory)
    batch = batch_of([payloads(RELEASE, MIX)[number]])

    def shown() -> dict[str, str]:
        ((_, result),) = parser.results(parser.parse(batch))
        service: dict[str, str] = result()["event"].get("destination_service", {})
        return service

    assert shown() == event["destination_service"]
    assert address is not None
    renamed = directory.frontends.add(Frontends({port: Service("other", "shop")}))
    directory.set_frontends(renamed, address, since=1)
    assert shown() == {"name": "other", "namespace": "shop"}
    directory.set_frontends(0, address, since=2)
    assert shown() == {}
