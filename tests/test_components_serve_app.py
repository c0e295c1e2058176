"""What probes and Prometheus read, asked of the application itself: no port and no model."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from components.serve.access import AccessRules
from components.serve.app import Traffic, make_app
from components.serve.follower import ChampionFollower
from components.serve.metrics import Metrics

SERVED = {"version": 1, "digest": "1" * 64}
CHAMPION = {"version": 2, "digest": "2" * 64}
GOOD = {"status": "ok", **SERVED, "champion": SERVED, "problem": ""}
LOADING = {"status": "behind", **SERVED, "champion": CHAMPION, "problem": ""}
FAILED = {**LOADING, "problem": "/registry/lm/2 is damaged: extra does not belong to this version"}
FIXED = {"status": "ok", **SERVED}  # a version's own folder follows nothing


class StandIn:
    """A follower in a given state."""

    def __init__(self, state: dict[str, Any]):
        self._state = state

    def state(self) -> dict[str, Any]:
        return self._state


def get(
    follower: StandIn, metrics: Metrics, path: str, traffic: Traffic | None = None
) -> tuple[int, str]:
    """Returns status and body of a GET request."""
    app = make_app(
        cast(ChampionFollower, follower),
        metrics,
        rules=AccessRules(),
        request_seconds=1.0,
        traffic=traffic or Traffic(),
    )
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body.decode()


@pytest.mark.parametrize("state", [GOOD, LOADING, FAILED, FIXED])
def test_readyz_says_what_is_served_and_what_should_be(state: dict[str, Any]) -> None:
    """With 200 in any case: a bad promotion must not take all replicas out of service."""
    status, body = get(StandIn(state), Metrics(), "/readyz")
    assert (status, json.loads(body)) == (200, state)


def test_readyz_refuses_where_predictions_are_refused() -> None:
    problem = {"status": "restarting", "problem": "loading failed"}
    status, body = get(StandIn({**GOOD, **problem}), Metrics(), "/readyz")
    assert (status, json.loads(body)) == (503, {**GOOD, **problem})
    traffic = Traffic()
    traffic.stopping = True
    status, body = get(StandIn(GOOD), Metrics(), "/readyz", traffic)
    assert (status, json.loads(body)) == (503, {**GOOD, "status": "stopping"})


@pytest.mark.parametrize("path", ["/metrics", "/monitoring/prometheus/metrics"])
def test_prometheus_gets_served_version_and_champion(path: str) -> None:
    metrics = Metrics()
    metrics.serves(1)
    metrics.champion.set(2)
    metrics.behind.set(True)
    metrics.load_failures.inc()
    status, body = get(StandIn(FAILED), metrics, path)
    assert status == 200
    assert {
        "charloom_model_version 1.0",
        "charloom_champion_version 2.0",
        "charloom_model_behind 1.0",
        "charloom_model_load_failures_total 1.0",
    } <= set(body.splitlines())
