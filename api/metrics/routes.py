"""The pages: metrics, health, the loss ledger. Each function makes one route."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from api.metrics.exposition import (
    Format,
    Writable,
    accepts_gzip,
    gzipped,
    negotiate,
    registry_families,
    render,
)
from api.metrics.http import Request, Response, Route
from parsers.ledger import NOT_OBSERVABLE, Ledger


def metrics_route(
    families: Callable[[], Iterable[Writable]],
    registries: Iterable[CollectorRegistry] = (),
    *,
    openmetrics: bool = True,
) -> Route:
    """A scrape of all families and of what the registries collect.

    ``families`` is called at each scrape, and brings their totals up to date. Without
    ``openmetrics`` the classic form is served whatever the reader prefers.
    """
    registries = tuple(registries)

    def scrape(request: Request) -> Response:
        form = negotiate(request.headers.get("accept", "")) if openmetrics else Format.CLASSIC
        found = list(families())
        for registry in registries:
            found += registry_families(registry)
        body = render(found, form)
        headers = [("Vary", "Accept, Accept-Encoding")]
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            headers.append(("Content-Encoding", "gzip"))
            body = gzipped(body)
        return Response(body, form.value, headers=tuple(headers))

    return scrape


def health_route(check: Callable[[], Mapping[str, str]]) -> Route:
    """200 with ``ok`` while ``check`` finds nothing, else 503 with part and complaint a line."""

    def answer(_: Request) -> Response:
        complaints = check()
        if not complaints:
            return Response(b"ok\n")
        text = "".join(f"{part}: {complaint}\n" for part, complaint in complaints.items())
        return Response(text.encode(), status=503)

    return answer


def ledger_route(ledger: Ledger) -> Route:
    """The books of all stages as JSON."""

    def answer(_: Request) -> Response:
        text = json.dumps(ledger_page(ledger), indent=2) + "\n"
        return Response(text.encode(), "application/json")

    return answer


def ledger_page(ledger: Ledger) -> dict[str, Any]:
    """Stages with what came in, went out, waits and was lost; and what nobody can know."""
    return {
        "balanced": not ledger.imbalance(),
        "stages": {
            name: {
                "in": account.incoming,
                "out": account.outgoing,
                **({"out_by_kind": dict(account.kinds)} if account.kinds else {}),
                "waiting": account.waiting,
                "lost": dict(account.lost),
                "balance": account.balance(),
            }
            for name, account in ledger.stages.items()
        },
        "between_stages": {
            f"{before} -> {stage}": count for (before, stage), count in ledger.between().items()
        },
        "not_observable": [
            {
                "stage": stage,
                "reason": reason,
                "why": why,
                "occasions": ledger.unobservable[stage, reason],
            }
            for (stage, reason), why in NOT_OBSERVABLE.items()
        ],
    }
