"""A server whose clients idle, stall and leave, whose models crash, and that is told to stop."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import NAME, Server
from stub_server import PREDICT, children, make_model, stub_serving

from components.export.promoting import promote
from components.export.registry import RegisteredModel

LONG = 60.0
"""Seconds after which something that should happen soon has failed."""


@pytest.fixture
def model(tmp_path: Path) -> RegisteredModel:
    return make_model(tmp_path / "registry", 1, 2)


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def predict(server: Server, **wish: Any) -> tuple[int, Any, dict[str, str]]:
    return server.ask("POST", PREDICT, json.dumps(wish))


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=LONG)


def send(server: Server, **wish: Any) -> socket.socket:
    """Sends a request whose answer is read later, or never."""
    body = json.dumps(wish)
    client = connect(server)
    head = f"POST {PREDICT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    client.sendall((head + body).encode())
    return client


def receive(client: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, response.read()


@contextlib.contextmanager
def idle(server: Server, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(server)) for _ in range(count)]


def test_idle_connections_make_way_for_new_ones(model: RegisteredModel) -> None:
    limits = {"first_byte_seconds": LONG, "evict_seconds": 0.0}
    with stub_serving(model.folder, files=256, limits=limits) as server, idle(server, 400):
        for _ in range(20):
            assert predict(server)[:2] == (200, 1)
            assert server.ask("GET", "/healthz")[0] == 200


def test_a_health_check_is_answered_where_all_connections_are_taken(
    model: RegisteredModel,
) -> None:
    limits = {"first_byte_seconds": LONG, "evict_seconds": LONG}
    with stub_serving(model.folder, files=256, limits=limits) as server, idle(server, 112):
        assert server.ask("GET", "/healthz")[0] == 200
        assert server.ask("GET", "/readyz")[0] == 200
        assert "charloom_connections_refused_total" in server.ask("GET", "/metrics")[1]
        status, answer, headers = predict(server)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert answer == {"error": "too many connections are open; try again in a second"}
        with idle(server, 16) as reserved:  # nothing is left; the next one is told at once
            with connect(server) as client:
                assert receive(client)[0] == 503
            for client in reserved:  # they have less time than others
                assert client.recv(1) == b""
        assert server.ask("GET", "/healthz")[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost:"])
@pytest.mark.parametrize("before", [False, True])
def test_a_header_must_arrive_in_time(model: RegisteredModel, before: bool, sent: bytes) -> None:
    limits = {"first_byte_seconds": 0.3, "header_seconds": 0.3}
    with stub_serving(model.folder, limits=limits) as server, connect(server) as client:
        if before:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert receive(client)[0] == 200
        with contextlib.suppress(ConnectionResetError):
            client.sendall(sent)
            assert client.recv(1) == b""
        assert server.ask("GET", "/healthz")[0] == 200


def drip(client: socket.socket) -> None:
    """Sends one header line after the other until the server hangs up."""
    client.sendall(b"GET / HTTP/1.1\r\n")
    client.settimeout(0.02)
    for number in range(1000):
        with contextlib.suppress(TimeoutError):
            if client.recv(1) == b"":
                return
        client.sendall(b"x%d: 1\r\n" % number)
    raise AssertionError("the server listens for ever")


def test_a_client_that_sends_its_header_line_by_line_is_dropped(model: RegisteredModel) -> None:
    limits = {"header_seconds": 0.3}
    with stub_serving(model.folder, limits=limits) as server, connect(server) as client:
        with contextlib.suppress(ConnectionError):
            drip(client)
        assert server.ask("GET", "/healthz")[0] == 200


def test_a_client_that_does_not_read_is_dropped_and_its_answer_forgotten(
    model: RegisteredModel,
) -> None:
    size = 8 << 20
    settings = {"limits": {"stall_seconds": 0.5}, "app": {"MAX_HELD_BYTES": size}}
    with stub_serving(model.folder, **settings) as server, send(server, bytes=size - 2):
        wait_for(lambda: "charloom_texts_total{" in server.ask("GET", "/metrics")[1])
        status, answer, _ = predict(server, bytes=size - 2)
        assert (status, answer["error"][:16]) == (503, "too many answers")
        assert predict(server)[0] == 200  # a small one always fits
        wait_for(lambda: predict(server, bytes=size - 2)[0] == 200)


def test_work_ends_when_the_client_has_gone(model: RegisteredModel, tmp_path: Path) -> None:
    with stub_serving(model.folder) as server:
        with send(server, until=str(tmp_path / "a")):
            wait_for((tmp_path / "a.began").exists)
        wait_for((tmp_path / "a.dropped").exists)
        assert predict(server)[0] == 200


def test_work_ends_after_the_time_limit(model: RegisteredModel, tmp_path: Path) -> None:
    with stub_serving(model.folder, request_seconds=0.3) as server:
        status, answer, _ = predict(server, until=str(tmp_path / "a"))
        assert (status, answer["error"]) == (
            504,
            "the answer took more than 0.3 s (--request-seconds); send fewer or shorter texts",
        )
        wait_for((tmp_path / "a.dropped").exists)
        assert predict(server)[0] == 200


def test_requests_are_answered_before_the_server_stops(
    model: RegisteredModel, tmp_path: Path
) -> None:
    with stub_serving(model.folder, drain_seconds=LONG) as server:
        with send(server, until=str(tmp_path / "a")) as client:
            wait_for((tmp_path / "a.began").exists)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: server.ask("GET", "/readyz")[0] == 503)
            status, answer, headers = predict(server)
            assert (status, answer) == (503, {"error": "the server is stopping"})
            assert headers["retry-after"] == "1"
            assert server.ask("GET", "/healthz")[0] == 200
            (tmp_path / "a").touch()
            assert receive(client) == (200, b"1")
        assert server.process.wait(LONG) == 0


@pytest.mark.parametrize("twice", [False, True])
def test_the_server_does_not_wait_for_ever(
    model: RegisteredModel, tmp_path: Path, twice: bool
) -> None:
    with stub_serving(model.folder, drain_seconds=LONG if twice else 0.3) as server:
        (worker,) = children(server.process.pid)
        with send(server, until=str(tmp_path / "a")), send(server, until=str(tmp_path / "a")):
            wait_for((tmp_path / "a.began").exists)
            server.process.send_signal(signal.SIGTERM)
            if twice:
                wait_for(lambda: server.ask("GET", "/readyz")[0] == 503)
                server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(LONG / 2) == 0
        wait_for(lambda: not os.path.exists(f"/proc/{worker}"))


def test_it_stops_while_the_first_model_is_loaded(model: RegisteredModel) -> None:
    Path(model.version_folder(1), "hang").touch()
    with stub_serving(model.folder, wait=False) as server:
        wait_for(lambda: children(server.process.pid))
        (worker,) = children(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LONG) == 0
        wait_for(lambda: not os.path.exists(f"/proc/{worker}"))


def test_it_stops_while_another_model_is_loaded(model: RegisteredModel) -> None:
    with stub_serving(model.folder, drain_seconds=LONG) as server:
        promote(model, 2)
        Path(model.version_folder(2), "hang").touch()
        wait_for(lambda: len(children(server.process.pid)) == 2)
        workers = children(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LONG / 2) == 0
        for worker in workers:
            wait_for(lambda worker=worker: not os.path.exists(f"/proc/{worker}"))


def test_no_process_outlives_the_server(model: RegisteredModel, tmp_path: Path) -> None:
    with stub_serving(model.folder) as server:
        (worker,) = children(server.process.pid)
        with send(server, until=str(tmp_path / "a")):
            wait_for((tmp_path / "a.began").exists)
            server.process.kill()
            server.process.wait()
            wait_for(lambda: not os.path.exists(f"/proc/{worker}"))


def test_a_process_that_has_ended_is_started_again(model: RegisteredModel, tmp_path: Path) -> None:
    with stub_serving(model.folder) as server:
        (worker,) = children(server.process.pid)
        with send(server, until=str(tmp_path / "a")) as client:
            wait_for((tmp_path / "a.began").exists)
            status, answer, headers = predict(server, crash=1)
            assert (status, headers["retry-after"]) == (503, "1")
            assert answer == {"error": "the model's process has ended; it is started again"}
            assert receive(client)[0] == 503
        wait_for(lambda: predict(server)[0] == 200)
        assert server.ask("GET", "/readyz")[1]["status"] == "ok"
        assert "charloom_model_process_ends_total 1.0" in server.ask("GET", "/metrics")[1]
        (other,) = children(server.process.pid)
        assert other != worker


def test_no_request_fails_while_versions_change(tmp_path: Path) -> None:
    numbers = range(1, 7)
    model = make_model(tmp_path / "registry", *numbers)
    stop = threading.Event()

    def ask(server: Server) -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONG)
        seen = []
        while not stop.is_set():
            connection.request("POST", PREDICT, "{}")
            response = connection.getresponse()
            version = int(response.read())
            assert (response.status, response.headers["x-model-version"]) == (200, str(version))
            seen.append(version)
        connection.close()
        return seen

    with (
        stub_serving(model.folder) as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        try:
            clients = [pool.submit(ask, server) for _ in range(8)]
            for number in numbers[1:]:
                promote(model, number)
                wait_for(lambda: server.ask("GET", "/healthz")[1]["version"] == number)  # noqa: B023
            wait_for(lambda: len(children(server.process.pid)) == 2)  # it, and the one before
        finally:
            stop.set()
        for client in clients:
            seen = [version for version, _ in itertools.groupby(client.result())]
            assert seen == sorted(seen)
            assert set(seen) <= set(numbers)
        for number, status in ((6, 200), (5, 200), (4, 404)):
            path = f"/v1/models/{NAME}/versions/{number}:predict"
            assert server.ask("POST", path, "{}")[0] == status


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("broken", r"\d is broken$"),
        ("killed", r"can't be loaded \(its process was ended by SIGKILL, perhaps for lack of mem"),
    ],
)
def test_a_version_that_is_not_loaded(model: RegisteredModel, file: str, problem: str) -> None:
    from components.serve import model_process
    from model.errors import InputError

    Path(model.version_folder(1), file).touch()
    with pytest.MonkeyPatch.context() as patch:
        from stub_server import WORKER

        patch.setattr(model_process, "COMMAND", tuple(WORKER))
        with contextlib.closing(
            model_process.ModelProcesses(threads=1, request_seconds=9.0)
        ) as processes:
            with pytest.raises(InputError, match=problem):
                processes.load(model.version_folder(1))
            assert processes.load(model.version_folder(2)).number == 2
        with pytest.raises(model_process.ProcessEndedError):
            processes.load(model.version_folder(2))
