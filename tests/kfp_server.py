"""A stand-in for the API server of Kubeflow Pipelines 2.17, over real HTTP, for tests.

What it answers is in `kfp_api`; here are connections, logins, and faults.
"""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import http.server
import json
import re
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp_api import Api, ApiError, Store

from pipelines.cli.main import main
from pipelines.kubeflow import client, credentials, schedule

LOGIN_PAGE = "<!DOCTYPE html><html><title>Dex</title><form>password</form></html>"


ID = r"([^/:]+)"
ROUTES: list[tuple[str, str, str]] = [
    ("GET", r"healthz", "healthz"),
    ("GET", r"experiments", "list_experiments"),
    ("POST", r"experiments", "create_experiment"),
    ("GET", rf"pipelines/names/{ID}", "pipeline_by_name"),
    ("POST", r"pipelines", "create_pipeline"),
    ("POST", r"pipelines/upload_version", "upload_version"),
    ("GET", rf"pipelines/{ID}/versions", "list_versions"),
    ("GET", rf"pipelines/{ID}/versions/{ID}", "get_version"),
    ("POST", r"runs", "create_run"),
    ("GET", r"runs", "list_runs"),
    ("GET", rf"runs/{ID}", "get_run"),
    ("POST", r"recurringruns", "create_schedule"),
    ("GET", r"recurringruns", "list_schedules"),
    ("GET", rf"recurringruns/{ID}", "get_schedule"),
    ("DELETE", rf"recurringruns/{ID}", "delete_schedule"),
    ("POST", rf"recurringruns/{ID}:enable", "enable"),
    ("POST", rf"recurringruns/{ID}:disable", "disable"),
]


class Server:
    """A running stand-in.

    `faults` maps "METHOD path-regex" to what happens to such requests, one after the other:
    "drop" closes the connection before the request is done, "lose" after it, "junk" is no JSON, "empty" an empty list, a
    number is a status, and a function is called before the request is done.
    """

    def __init__(
        self,
        folder: Path,
        *,
        multi_user: bool = False,
        token: str = "",
        cookie: str = "",
        login: str = "redirect",
        tag: str = "2.17.0",
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self.store = Store(str(folder / "kfp.sqlite"))
        self.api = Api(self.store, multi_user=multi_user, tag=tag)
        self.token, self.cookie, self.login = token, cookie, login
        self.shown: list[str] = []
        """Credentials that requests had."""
        self.requests: list[tuple[str, str, Any]] = []
        self.faults: dict[str, list[Any]] = {}
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        scheme = "http"
        if certificate:
            scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take_fault(self, method: str, path: str) -> Any:
        for key, actions in self.faults.items():
            if actions and re.fullmatch(key, f"{method} {path}"):
                return actions.pop(0)
        return None

    def sent(self, method: str, path: str) -> list[Any]:
        """Returns the bodies of such requests."""
        return [
            body
            for how, where, body in self.requests
            if (how, where.split("?")[0]) == (method, path)
        ]

    def set_run(self, run_id: str, state: str, **tasks: str) -> None:
        """Gives a run and its tasks their states; a task's name has _ for -."""
        details = [
            {
                "run_id": run_id,
                "task_id": name,
                "display_name": name.replace("_", "-"),
                "state": one,
            }
            for name, one in tasks.items()
        ]
        run = self.store.get("runs", run_id)
        history = run.get("state_history", [])
        if not history or history[-1]["state"] != state:
            history = [*history, {"update_time": "2026-11-30T00:00:00Z", "state": state}]
        changed = {"state": state, "state_history": history}
        self.store.put("runs", run_id, run | changed | {"run_details": {"task_details": details}})


@contextlib.contextmanager
def serve(folder: Path, **options: Any) -> Iterator[Server]:
    server = Server(folder, **options)
    try:
        yield server
    finally:
        server.close()


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Keeps what this machine knows of a Kubeflow Pipelines away from a test."""
    for name in (
        "KF_PIPELINES_ENDPOINT",
        "KF_PIPELINES_SA_TOKEN_PATH",
        "KUBERNETES_SERVICE_HOST",
        "CHARLOOM_IMAGE",
        credentials.TOKEN_VARIABLE,
        credentials.COOKIE_VARIABLE,
        client.UI_VARIABLE,
        schedule.ZONE_VARIABLE,
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client._Client, "_LOCAL_KFP_CONTEXT", str(folder / "no-context.json"))
    monkeypatch.setattr(client, "POD_NAMESPACE_FILE", str(folder / "no-namespace"))


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    owner: Server

    def log_message(self, *unused: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urllib.parse.urlsplit(self.path)
        path = parts.path.removeprefix("/apis/v2beta1/")
        try:
            body = self._parse(raw)
        except ValueError:
            body = raw
        self.owner.requests.append((method, self.path.removeprefix("/apis/v2beta1/"), body))
        self.owner.shown += self.headers.get_all("Authorization", [])
        self.owner.shown += self.headers.get_all("Cookie", [])
        fault = self.owner.take_fault(method, path)
        if callable(fault):
            fault = fault()
        if fault == "drop":
            self._hang_up()
            return
        if fault == "junk":
            self._send(200, "hello", "text/plain")
            return
        try:
            if isinstance(fault, int):
                raise ApiError(fault, "a fault of the stand-in", 13)
            if not self._allowed():
                return
            status, answer = 200, self._answer(method, path, parts.query, body)
            answer = {} if fault == "empty" else answer
        except ApiError as error:
            status, answer = error.status, error.body
        if fault == "lose":
            self._hang_up()
            return
        self._send(status, json.dumps(answer), "application/json")

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _parse(self, raw: bytes) -> Any:
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/form-data"):
            return json.loads(raw) if raw else None
        head = f"Content-Type: {kind}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
        return {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
            for part in message.iter_parts()
        }

    def _allowed(self) -> bool:
        """Whether the request shows who it is from; else answers as the setup in question does."""
        token, cookie = self.owner.token, self.owner.cookie
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            status = 403 if self.headers.get("Authorization") else 401
            # real ones echo what they were sent, too
            echo = self.headers.get("Authorization", "")
            self._send(status, json.dumps({"message": "who is this?"}), "application/json", echo)
            return False
        if cookie and cookie not in self.headers.get("Cookie", ""):
            if self.owner.login == "redirect":
                self._send(302, "", "text/html", location=f"{self.owner.host}/dex/auth")
            else:
                self._send(200, LOGIN_PAGE, "text/html; charset=utf-8")
            return False
        return True

    def _answer(self, method: str, path: str, query: str, body: Any) -> Any:
        fields = {
            key: values[0]
            for key, values in urllib.parse.parse_qs(query, keep_blank_values=True).items()
        }
        fields = {key: value for key, value in fields.items() if value}
        for how, pattern, name in ROUTES:
            found = re.fullmatch(pattern, path)
            if how == method and found:
                names = [urllib.parse.unquote(group) for group in found.groups()]
                with self.owner.store.lock:
                    return getattr(self.owner.api, name)(fields, body, *names)
        raise ApiError(404, "Not Found", 5)

    def _send(
        self, status: int, text: str, kind: str, echo: str = "", *, location: str = ""
    ) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if echo:
            self.send_header("X-Echo", echo)
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(data)


def fails(capsys: pytest.CaptureFixture[str], *flags: str, code: int) -> str:
    """Lists schedules, which must fail; returns the one line."""
    assert main(["schedule", "list", *flags]) == code
    out, err = capsys.readouterr()
    lines = err.strip().splitlines()
    assert (out, len(lines)) == ("", 1), err
    return lines[0].removeprefix("charloom: ")


def works(capsys: pytest.CaptureFixture[str], *flags: str) -> None:
    """Lists schedules, of which there are none."""
    assert main(["schedule", "list", *flags]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("there are no schedules; charloom schedule create creates one\n", "")
