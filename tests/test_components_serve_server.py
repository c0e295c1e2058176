"""A real server: what it answers, follows, refuses, and what it shows in a browser."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from serving import HOSTILE, NAME, Server, serving, share_registry
from test_components_evaluate_browser import FLAGS
from volume import keep_first

from components.export.probe import as_plain
from components.export.promoting import promote, rollback
from components.export.registry import RegisteredModel

pytestmark = pytest.mark.slow

PREDICT = f"/v1/models/{NAME}:predict"
TEXT = "the cat sat on the unfriendzoned mat"
GOOD = json.dumps({"instances": [TEXT]})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return share_registry(tmp_path_factory)


@pytest.fixture
def registered(model: str, tmp_path: Path) -> RegisteredModel:
    """A copy that may be changed."""
    shutil.copytree(model, tmp_path / "registry" / NAME)
    return RegisteredModel(str(tmp_path / "registry"), NAME)


@pytest.fixture(scope="module")
def server(model: str) -> Iterator[Server]:
    with serving(model) as server:
        yield server


def expected(model: str, number: int) -> Any:
    """Returns what a version says of the text, by its own SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(os.path.join(model, str(number)))
    return loaded.score(tf.constant([TEXT]))["word_log_likelihoods"][0].numpy().tolist()


def test_it_answers_as_tensorflow_serving_does(server: Server, model: str) -> None:
    status, answer, headers = server.ask("POST", PREDICT, GOOD)
    assert status == 200
    (row,) = answer["predictions"]
    assert row["words"] == 7
    assert row["tokens"] == TEXT.split()
    assert row["word_log_likelihoods"] == expected(model, 2)
    assert headers["x-model-version"] == "2"
    versioned = server.ask("POST", f"/v1/models/{NAME}/versions/2:predict", GOOD)
    assert versioned[:2] == (200, answer)
    status, answer, _ = server.ask("GET", f"/v1/models/{NAME}")
    assert answer["model_version_status"][0]["version"] == "2"
    assert answer["model_version_status"][0]["state"] == "AVAILABLE"
    status, answer, _ = server.ask("GET", f"/v1/models/{NAME}/metadata")
    assert answer["model_spec"]["version"] == "2"
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"embed", "next_word", "score", "serving_default", "similar"}
    assert signatures["next_word"]["inputs"]["k"] == {
        "dtype": "DT_INT32",
        "tensor_shape": {"dim": [], "unknown_rank": False},
    }
    assert len(server.predict("next_word", texts=["the", ""], k=3)["words"][1]) == 3
    assert server.predict("similar", words=["unfriendzoned"], k=2)["words"][0]


@pytest.mark.parametrize("signature", ["score", "embed", "next_word"])
def test_a_request_of_several_calls_has_the_answer_of_one(
    server: Server, model: str, signature: str
) -> None:
    import tensorflow as tf

    words = ("the", "cat", "on", "a", "x")
    texts = [" ".join(words[(at * at + place) % 5] for place in range(at)) for at in range(64)]
    k = {"k": 3} if signature == "next_word" else {}
    answer = server.predict(signature, texts=texts, **k)
    function = tf.saved_model.load(os.path.join(model, "2")).signatures[signature]
    found = function(texts=tf.constant(texts), **{name: tf.constant(3) for name in k})
    assert answer == {name: as_plain(value) for name, value in found.items()}


def test_health_and_metrics(server: Server) -> None:
    assert server.ask("GET", "/healthz")[:2] == (200, {"status": "ok", "version": 2})
    assert server.ask("GET", "/readyz")[0] == 200
    before = _metric(server, 'charloom_requests_total{code="200",path="predict"}')
    server.ask("POST", PREDICT, GOOD)
    assert _metric(server, 'charloom_requests_total{code="200",path="predict"}') == before + 1
    assert _metric(server, "charloom_model_version") == 2
    assert _metric(server, "charloom_predictions_waiting") == 0
    assert server.ask("GET", "/monitoring/prometheus/metrics")[0] == 200


def _metric(server: Server, name: str) -> float:
    lines = server.ask("GET", "/metrics")[1].splitlines()
    return next((float(one.rsplit(" ", 1)[1]) for one in lines if one.startswith(f"{name} ")), 0.0)


def test_it_follows_the_champion_and_keeps_what_it_has(registered: RegisteredModel) -> None:
    model = registered.folder
    promote(registered, 1)
    with serving(model) as server:
        assert server.ask("GET", "/healthz")[1]["version"] == 1
        promote(registered, 2)
        _wait_for(server, 2)
        assert _metric(server, "charloom_model_switches_total") == 2
        before = server.ask("POST", f"/v1/models/{NAME}/versions/1:predict", GOOD)
        assert (before[0], before[2]["x-model-version"]) == (200, "1")  # kept for a rollback
        # A version that can't be loaded is not served.
        shutil.copytree(os.path.join(model, "1"), os.path.join(model, "3"))
        Path(model, "3", "saved_model.pb").write_bytes(b"damaged")
        Path(model, "champion.json").write_text('{"version": 3, "history": []}')
        deadline = time.monotonic() + 300
        while not _metric(server, "charloom_model_load_failures_total"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        Path(model, "champion.json").write_text("{")
        time.sleep(1)
        status, answer, headers = server.ask("POST", PREDICT, GOOD)
        assert (status, headers["x-model-version"]) == (200, "2")
        assert answer["predictions"][0]["word_log_likelihoods"] == expected(model, 2)


def _wait_for(server: Server, number: int) -> float:
    """Waits until a version is served; returns after how many seconds it was."""
    started = time.monotonic()
    while server.ask("GET", "/healthz")[1]["version"] != number:
        assert time.monotonic() < started + 300
        time.sleep(0.02)
    return time.monotonic() - started


@pytest.mark.extra
def test_a_rollback_while_fifty_clients_ask(registered: RegisteredModel) -> None:
    model = registered.folder
    promote(registered, 1)
    answers = {str(number): expected(model, number) for number in (1, 2)}
    assert answers["1"] != answers["2"]
    stop = threading.Event()

    def ask(server: Server) -> list[str]:
        seen = []
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        while not stop.is_set():
            connection.request("POST", PREDICT, GOOD)
            response = connection.getresponse()
            body = json.loads(response.read())
            assert response.status == 200, body
            version = response.headers["x-model-version"]
            assert body["predictions"][0]["word_log_likelihoods"] == answers[version]
            seen.append(version)
        connection.close()
        return seen

    with serving(model) as server, concurrent.futures.ThreadPoolExecutor(50) as pool:
        try:
            clients = [pool.submit(ask, server) for _ in range(50)]
            time.sleep(1)
            promote(registered, 2)
            _wait_for(server, 2)
            time.sleep(1)
            assert rollback(registered) == (2, 1)
            _wait_for(server, 1)
            time.sleep(1)
        finally:
            stop.set()
        for client in clients:
            seen = client.result()
            # Old, new, and old again: nobody sees the new one after the rollback.
            order = [seen[0], *(b for a, b in itertools.pairwise(seen) if a != b)]
            assert order == ["1", "2", "1"], order
    assert server.process.returncode == 0


def bad_request(chance: random.Random) -> tuple[str, str, bytes]:
    """Returns method, path and body of a request that must be refused."""
    letters = "".join(chance.choice('abc{}[]":,\\\u00e9 ') for _ in range(chance.randrange(1, 60)))
    k = chance.choice([0, -7, 1.5, "5", None, True, [1], 10**6])
    bodies = [
        GOOD.encode()[: chance.randrange(len(GOOD) - 1)],
        b"\0" * chance.randrange(1, 50),
        b'{"instances": ["a\0b"]}',
        b'{"instances": ["a\\u0000"]}',
        bytes(chance.randrange(128, 256) for _ in range(20)),
        b"[" * chance.randrange(10, 50_000),
        b'{"instances":' * chance.randrange(10, 9_000),
        json.dumps(
            {"instances": chance.choice([1, "a", {}, None, [], [1], [[]], [None]])}
        ).encode(),
        json.dumps({"signature_name": letters, "instances": ["a"]}).encode(),
        json.dumps({"signature_name": "next_word", "inputs": {"texts": ["a"], "k": k}}).encode(),
        json.dumps({letters: ["a"], "instances": ["a"]}).encode(),
        json.dumps({"instances": ["a"] * 2000}).encode(),
        b'{"instances": [' + b"9" * 9999 + b"]}",
        b'{"instances": [NaN, Infinity]}',
    ]
    kind = chance.randrange(10)
    if kind == 0:
        number = chance.choice(["9", "-1", "two", "99999999999999999999", "1e3", "%00"])
        return "POST", f"/v1/models/{NAME}/versions/{number}:predict", GOOD.encode()
    if kind == 1:
        path = chance.choice(
            ["/v1/models/other:predict", f"/v1/models/{NAME}:guess", "/v2", "/v1/models/", "/..%2f"]
        )
        return "POST", path, GOOD.encode()
    if kind == 2:
        return chance.choice(["GET", "PUT", "DELETE", "PATCH"]), PREDICT, b""
    return "POST", PREDICT, chance.choice(bodies)


@pytest.mark.parametrize("count", keep_first([300, 2000]))
def test_bad_requests_and_ten_slow_clients(server: Server, count: int) -> None:
    chance = random.Random(7)
    good = server.ask("POST", PREDICT, GOOD)[1]
    for _ in range(300):  # what memory the server needs at its work it has by then
        server.ask(*bad_request(chance))
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(10)]
    head = f"POST {PREDICT} HTTP/1.1\r\nhost: localhost\r\n"
    for number, client in enumerate(slow):  # some never end their headers, some their body
        rest = "content-length: 900\r\n\r\n{" if number % 2 else "x-slow: 1\r\n"
        client.sendall((head + rest).encode())
    before = server.memory_mb()
    for number in range(count):
        status, answer, _ = server.ask(*bad_request(chance))
        assert 400 <= status < 500, (number, status, answer)
        assert isinstance(answer["error"], str)
        if number % 100 == 0:
            assert server.ask("POST", PREDICT, GOOD)[:2] == (200, good)
            for client in slow[::3]:
                with contextlib.suppress(ConnectionError):  # the server waits for none for ever
                    client.sendall(b" ")
    for _ in range(5):
        assert _send_large(server) in (413, None)
    assert server.memory_mb() < before + 40
    for client in slow:
        client.close()
    assert server.process.poll() is None
    assert server.ask("POST", PREDICT, GOOD)[:2] == (200, good)


def _send_large(server: Server) -> int | None:
    """Sends 10 MB of text; returns the status, None if the server hung up while it was sent."""
    try:
        return server.ask("POST", PREDICT, json.dumps({"instances": ["word " * 2_000_000]}))[0]
    except (ConnectionError, http.client.HTTPException):
        return None


def test_a_large_body_is_refused_before_it_is_sent(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=300) as client:
        client.sendall(
            f"POST {PREDICT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10000000\r\n\r\n{{".encode()
        )
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "nowhere"], "nowhere is not an exported model"),
        (["--model", "{model}", "--port", "99999"], "--port is 99999; it must be from 0 to 65535"),
        (["--model", "{model}", "--host", "192.0.2.1"], "can't listen on 192.0.2.1 port 8501"),
        (["--model", "{model}", "--threads", "-1"], "--threads is -1"),
        (
            ["--model", "{model}", "--request-seconds", "nan"],
            "--request-seconds is nan; it must be",
        ),
        (["--model", "{model}", "--drain-seconds", "-1"], "--drain-seconds is -1.0; it must be be"),
        (["--model", "{model}", "--allow-host", "a/b"], "--allow-host is a/b; give a name"),
        (
            ["--model", "{model}", "--allow-origin", "a.example"],
            "--allow-origin is a.example; give",
        ),
    ],
)
def test_bad_flags_get_one_line(
    model: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.cli.main import main

    assert main(["serve", *(flag.format(model=model) for flag in flags)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


class Browser:
    """A page in Chromium, driven by its debugging protocol."""

    def __init__(self, chromium: str, url: str, folder: Path, *, width: int):
        """Opens a page in a window of some width."""
        profile = folder / "profile"
        self._process = subprocess.Popen(
            [chromium, *FLAGS, "--hide-scrollbars", "--remote-debugging-port=0", "--remote-allow-origins=*",
             f"--window-size={width},900", f"--user-data-dir={profile}", url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._number = 0
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 300
        while True:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            if not port_file.exists() or len(port_file.read_text().split()) < 2:
                continue
            port = int(port_file.read_text().split()[0])
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/json")
            found = json.loads(connection.getresponse().read())
            connection.close()
            pages = [one for one in found if one["url"] == url]
            if pages:
                break
        self._socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=300)

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression in the page."""
        self._number += 1
        parameters = {"expression": expression, "returnByValue": True}
        call = {"id": self._number, "method": "Runtime.evaluate", "params": parameters}
        self._socket.send(json.dumps(call))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                return message["result"]["result"].get("value")

    def wait(self, expression: str) -> None:
        """Waits until an expression is true."""
        deadline = time.monotonic() + 300
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.1)

    def close(self) -> None:
        """Ends the browser."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_in_a_browser(chromium: str, server: Server, tmp_path: Path, width: int) -> None:
    browser = Browser(chromium, f"http://127.0.0.1:{server.port}/", tmp_path, width=width)
    try:
        browser.wait("document.body.dataset.read === '1'")
        assert browser.evaluate("document.title") == NAME
        shown = browser.evaluate(
            "[...document.querySelectorAll('#words span')].map(e => e.textContent)"
        )
        assert shown[:4] == ["It", "was", "a", "cold"]
        similar = browser.evaluate(
            "[...document.querySelectorAll('#similar .word')].map(e => e.textContent)"
        )
        assert similar == server.predict("similar", words=["unfriendzoned"], k=6)["words"][0]
        text = f"the {HOSTILE} <script>window.hacked=1</script> cat"
        browser.evaluate(
            f"document.getElementById('text').value = {json.dumps(text)};"
            f"document.getElementById('word').value = {json.dumps(HOSTILE)};"
            "document.getElementById('text').dispatchEvent(new Event('input'))"
        )
        browser.wait("document.body.dataset.read !== '1'")
        shown = browser.evaluate(
            "[...document.querySelectorAll('#words span')].map(e => e.textContent)"
        )
        assert shown == text.split()
        answer = server.predict("score", texts=[text])
        scores, unknown = answer["word_log_likelihoods"][0], answer["unknown"][0]
        titles = browser.evaluate("[...document.querySelectorAll('#words span')].map(e => e.title)")
        assert [float(title.split()[0]) for title in titles] == pytest.approx(
            [-score / 0.6931471805599453 for score in scores], abs=0.051
        )
        marked = browser.evaluate(
            "[...document.querySelectorAll('#words .unknown')].map(e => e.textContent)"
        )
        assert marked == [word for word, is_so in zip(shown, unknown, strict=True) if is_so]
        assert marked == ["<script>window.hacked=1</script>"]  # the other one is in the corpus
        assert browser.evaluate("window.hacked === undefined")
        assert browser.evaluate("document.querySelectorAll('img, script').length") == 1  # ours
        assert browser.evaluate("document.getElementById('error').hidden")
        assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    finally:
        browser.close()
