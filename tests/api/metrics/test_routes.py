"""The pages say what a scraper, a kubelet and a debugging human ask for."""

from __future__ import annotations

import gzip
import json

from prometheus_client import CollectorRegistry, Gauge

from api.metrics.family import Counters
from api.metrics.http import Request, Response
from api.metrics.routes import health_route, ledger_route, metrics_route
from parsers.ledger import NOT_OBSERVABLE, STAGES, Ledger
from tests.api.metrics.readers import read_classic


def body_of(response: Response) -> bytes:
    return response.body if isinstance(response.body, bytes) else b"".join(response.body)


def test_a_scrape_holds_families_and_registries_in_the_order_of_names() -> None:
    registry = CollectorRegistry()
    Gauge("b", "B", registry=registry).set(2)
    first, last = Counters("a_total", "A"), Counters("c_total", "C")
    first.add((), 1)
    last.add((), 3)
    response = metrics_route(lambda: [last, first], [registry])(Request("GET", "/metrics"))
    read = read_classic(body_of(response).decode())
    assert [(s.name, s.value) for f in read for s in f.samples] == [
        ("a_total", 1), ("b", 2), ("c_total", 3),
    ]  # fmt: skip
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"


def test_a_scrape_follows_the_readers_headers() -> None:
    family = Counters("a_total", "A")
    family.add((), 1)
    wants = {"accept": "application/openmetrics-text", "accept-encoding": "gzip"}
    response = metrics_route(lambda: [family])(Request("GET", "/metrics", "", wants))
    assert response.content_type.startswith("application/openmetrics-text")
    assert dict(response.headers)["Content-Encoding"] == "gzip"
    assert gzip.decompress(body_of(response)).endswith(b"a_total 1.0\n# EOF\n")
    classic = metrics_route(lambda: [family], openmetrics=False)
    assert classic(Request("GET", "/metrics", "", wants)).content_type.startswith("text/plain")


def test_health_is_ok_until_there_is_a_complaint() -> None:
    complaints: dict[str, str] = {}
    route = health_route(lambda: complaints)
    assert (route(Request("GET", "/readyz")).status, body_of(route(Request("GET", "/")))) == (
        200,
        b"ok\n",
    )
    complaints["source"] = "the monitor socket is not there"
    response = route(Request("GET", "/readyz"))
    assert response.status == 503
    assert body_of(response) == b"source: the monitor socket is not there\n"


def test_the_ledger_page_balances_when_the_ledger_does() -> None:
    ledger = Ledger()
    ledger.book("framing", incoming=5, outgoing=4)
    ledger.book_lost("framing", "gob", 1)
    ledger.book_unobservable("socket", "gap")

    def page() -> dict[str, object]:
        loaded: dict[str, object] = json.loads(body_of(ledger_route(ledger)(Request("GET", "/"))))
        return loaded

    read = page()
    assert read["balanced"] is True
    stages = read["stages"]
    assert isinstance(stages, dict)
    assert list(stages) == list(STAGES)
    assert stages["framing"] == {"in": 5, "out": 4, "waiting": 0, "lost": {"gob": 1}, "balance": 0}
    unknown = read["not_observable"]
    assert isinstance(unknown, list)
    assert {(u["stage"], u["reason"]): u["occasions"] for u in unknown} == {
        pair: int(pair == ("socket", "gap")) for pair in NOT_OBSERVABLE
    }
    ledger.book("framing", incoming=1)
    assert page()["balanced"] is False


def test_the_ledger_page_shows_kinds_and_what_is_missing_between_stages() -> None:
    ledger = Ledger()
    ledger.chained = True
    ledger.book("parser", incoming=4)
    ledger.book_kinds("parser", flows=3, lost=1)
    page = json.loads(body_of(ledger_route(ledger)(Request("GET", "/"))))
    assert page["stages"]["parser"]["out_by_kind"] == {"flows": 3, "lost": 1}
    assert page["between_stages"]["parser -> history"] == 3
    assert page["balanced"] is False
