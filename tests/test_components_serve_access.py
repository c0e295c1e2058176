"""Which web pages may use a server."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from components.serve.access import AccessMiddleware, AccessRules
from model.errors import InputError

JSON = {"content-type": "application/json"}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"answer": 1})(scope, receive, send)


def ask(
    rules: AccessRules, headers: dict[str, str], method: str = "POST"
) -> tuple[int, dict[str, str], str]:
    """Returns status, headers and body of the answer to a request."""
    sent: list[Any] = []
    refused: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/", "headers": raw, "query_string": b""}
    asyncio.run(
        AccessMiddleware(application, rules=rules, refused=refused.append)(scope, receive, send)
    )
    status = sent[0]["status"]
    assert refused == ([status] if status in (403, 415) else [])
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return status, answered, b"".join(message.get("body", b"") for message in sent).decode()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost", "localhost:8501", "LOCALHOST.", "127.0.0.1:8501")),
        *((host, 200) for host in ("[::1]:8501", "10.1.2.3", socket.gethostname(), "lm.example.org:80")),
        *((host, 403) for host in ("evil.example", "evil.example:8501", "localhost.evil.example")),
        *((host, 403) for host in ("127.0.0.1.evil.example", "localhost:8501@evil.example", "::1")),
        *((host, 403) for host in ("127.0.0.1 evil.example", "[evil.example]", "example.org")),
    ],
)  # fmt: skip
def test_a_rebound_name_gets_no_answer(host: str, status: int) -> None:
    rules = AccessRules(hosts=["LM.example.org"])
    found, headers, body = ask(rules, {"host": host, **JSON})
    assert found == status
    if status == 403:
        assert headers["connection"] == "close"
        assert json.loads(body) == {
            "error": f"host {host!r} is not allowed; start the server with --allow-host"
        }


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:8501", "http://localhost:8501", 200),
        ("lm.example.org", "https://lm.example.org", 200),  # behind a proxy that ends TLS
        ("lm.example.org:443", "https://LM.example.org", 200),
        ("localhost:8501", "https://good.example", 200),
        ("localhost:8501", "https://good.example:8443", 403),
        ("localhost:8501", "http://good.example", 403),
        ("localhost:8501", "http://localhost:8502", 403),
        ("localhost:8501", "http://localhost", 403),
        ("localhost:8501", "http://evil.example", 403),
        ("localhost:8501", "file://localhost:8501", 403),
        ("localhost:8501", "null", 403),
        ("localhost:8501", "", 403),
        ("127.0.0.1:8501", "http://localhost:8501", 403),
    ],
)
def test_a_page_of_another_site_gets_no_answer(
    method: str, host: str, origin: str, status: int
) -> None:
    rules = AccessRules(hosts=["lm.example.org"], origins=["https://good.example/"])
    found, headers, body = ask(rules, {"host": host, "origin": origin, **JSON}, method)
    assert found == status
    allowed = origin if origin == "https://good.example" else None
    assert headers.get("access-control-allow-origin") == allowed
    if status == 403:
        assert json.loads(body)["error"].endswith("start it with --allow-origin")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *((kind, 200) for kind in ("application/json", "Application/JSON; charset=utf-8", "")),
        *((kind, 415) for kind in ("text/plain", "application/x-www-form-urlencoded", "a")),
        ("multipart/form-data; boundary=application/json", 415),
    ],
)
def test_a_form_is_not_json(kind: str, status: int) -> None:
    assert ask(AccessRules(), {"host": "localhost", "content-type": kind})[0] == status
    assert ask(AccessRules(), {"host": "localhost", "content-type": kind}, "GET")[0] == 200
    assert ask(AccessRules(), {"host": "localhost"})[0] == 200


def test_a_browser_asks_first_whether_a_page_may() -> None:
    asked = {"host": "localhost", "access-control-request-method": "POST"}
    asked |= {"access-control-request-headers": "content-type"}
    rules = AccessRules(origins=["https://good.example"])
    status, headers, _ = ask(rules, {**asked, "origin": "https://good.example"}, "OPTIONS")
    assert (status, headers["access-control-allow-origin"]) == (200, "https://good.example")
    assert ask(rules, {**asked, "origin": "https://evil.example"}, "OPTIONS")[0] == 403
    assert ask(AccessRules(), {**asked, "origin": "https://good.example"}, "OPTIONS")[0] == 403


def test_anyone_can_be_allowed() -> None:
    rules = AccessRules(hosts=["*"], origins=["*"])
    status, headers, _ = ask(rules, {"host": "a.example", "origin": "null", **JSON})
    assert (status, headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize(
    ("hosts", "origins", "problem"),
    [
        (["http://a.example"], [], "--allow-host is http://a.example; give a name as in 'lm."),
        ([""], [], "--allow-host is ; give a name"),
        ([], ["a.example"], "--allow-origin is a.example; give a site as in 'https://example.org'"),
        ([], ["https://a.example/page"], "/page; give only the site, https://a.example"),
        ([], ["null"], "--allow-origin is null; give a site"),
    ],
)
def test_names_that_no_header_has(hosts: list[str], origins: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        AccessRules(hosts=hosts, origins=origins)
