"""`--wait` of `charloom submit`: what it shows of a run, and how it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp_server import Server, isolate, serve

from pipelines.cli.main import main
from pipelines.kubeflow import client, run_monitor

COMMAND = [sys.executable, "-m", "pipelines.cli.main", "submit", "--wait"]
ASKED = "GET runs/[^/]+"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(client, "_PAUSES", (0.0,))
    monkeypatch.setattr(run_monitor, "POLL_SECONDS", 0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path) as running:
        yield running


def becomes(server: Server, state: str, **tasks: str) -> Callable[[], None]:
    """Returns what gives the latest run its states, when the client asks for them."""
    return lambda: server.set_run(server.store.all("runs")[-1]["run_id"], state, **tasks)


def submit(server: Server) -> int:
    return main(["submit", "--wait", "--host", server.host])


def shown(text: str) -> list[str]:
    """Returns the lines about tasks, without their time."""
    lines = re.findall(r"^\d\d:\d\d:\d\d (.*)$", text, re.MULTILINE)
    return [str(line) for line in lines]


def link(server: Server) -> str:
    return f"{server.host}/#/runs/details/{server.store.all('runs')[-1]['run_id']}"


def test_a_run_that_publishes(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults[ASKED] = [
        becomes(server, "RUNNING", root="RUNNING", find_inputs="RUNNING"),
        becomes(server, "RUNNING", find_inputs="SUCCEEDED", preprocess="RUNNING"),
        becomes(server, "RUNNING", find_inputs="SUCCEEDED", preprocess="SKIPPED"),
        becomes(server, "RUNNING", preprocess="SKIPPED", train="RUNNING", train_driver="SUCCEEDED"),
        becomes(server, "SUCCEEDED", train="SUCCEEDED", export="SUCCEEDED"),
    ]
    assert submit(server) == 0
    out, err = capsys.readouterr()
    assert shown(out) == [
        "Find the inputs: runs",
        "Find the inputs: done",
        "Preprocess: runs",
        "Preprocess: skipped",
        "Train: runs",
        "Train: done",
        "Export: done",
    ]
    assert out.endswith("the run is done\n")
    assert err == ""


def test_a_run_that_fails(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        becomes(server, "FAILED", find_inputs="SUCCEEDED", train="FAILED")()
        run = server.store.all("runs")[-1]
        run["run_details"]["task_details"][1]["error"] = {"code": 2, "message": "no\n GPU"}
        server.store.put("runs", run["run_id"], run)

    server.faults[ASKED] = [fail]
    assert submit(server) == 1
    err = capsys.readouterr().err
    assert err == f"charloom: the run failed at Train (no GPU); its logs: {link(server)}\n"


def test_a_run_that_was_stopped(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults[ASKED] = [becomes(server, "CANCELING"), becomes(server, "CANCELED")]
    assert submit(server) == 1
    err = capsys.readouterr().err
    assert err == f"charloom: the run was stopped; its logs: {link(server)}\n"


def test_a_gate_that_said_no(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {"evaluate": "SUCCEEDED", "report_rejection": "SUCCEEDED"}
    server.faults[ASKED] = [becomes(server, "SUCCEEDED", **tasks)]
    assert submit(server) == 3
    out, err = capsys.readouterr()
    assert shown(out) == ["Evaluate: done", "Report the rejection: done"]
    assert err == f"charloom: REJECTED by the gate; report: {link(server)}\n"
    # the branch that was not taken is shown as skipped
    tasks = {"report_rejection": "SKIPPED", "export": "SUCCEEDED"}
    server.faults[ASKED] = [becomes(server, "SUCCEEDED", **tasks)]
    assert submit(server) == 0


def test_connections_that_drop(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    done = becomes(server, "SUCCEEDED", export="SUCCEEDED")
    server.faults[ASKED] = ["drop", 503, 429, "lose", done]
    assert submit(server) == 0
    assert shown(capsys.readouterr().out) == ["Export: done"]
    assert not server.faults[ASKED]


def test_a_server_that_stays_away(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_monitor, "LOST_SECONDS", 0.1)
    server.faults[ASKED] = ["drop"] * 100_000
    assert submit(server) == 75
    err = capsys.readouterr().err
    assert err == (
        f"charloom: the connection broke: {server.host}; run the same command again (for 0 "
        f"minutes); the run continues: {link(server)}\n"
    )


def test_a_login_that_ends_meanwhile(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults[ASKED] = [becomes(server, "RUNNING"), 401]
    assert submit(server) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"charloom: {server.host} rejects the credentials (401); ")
    assert err.endswith(f"; the run continues: {link(server)}\n")


def test_ctrl_c_leaves_the_run_alone(server: Server) -> None:
    running = becomes(server, "RUNNING", train="RUNNING")
    process: Any = None

    def interrupt() -> None:
        running()
        process.send_signal(signal.SIGINT)

    server.faults[ASKED] = [running, interrupt]
    process = subprocess.Popen(
        [*COMMAND, "--host", server.host], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = process.communicate()
    assert process.returncode == 130
    assert shown(out) == ["Train: runs"]
    assert err == (
        "charloom: stopped waiting; the run continues; to stop it, press Terminate on "
        f"{link(server)}\n"
    )
    methods = {method for method, path, _ in server.requests if path.startswith("runs/")}
    assert methods == {"GET"}


def test_on_a_terminal_one_line_is_alive(server: Server) -> None:
    server.faults[ASKED] = [
        becomes(server, "RUNNING", train="RUNNING"),
        becomes(server, "SUCCEEDED", train="SUCCEEDED"),
    ]
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*COMMAND, "--host", server.host], stdout=theirs, stderr=theirs)
    os.close(theirs)
    data = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        data += part
    os.close(ours)
    assert process.wait() == 0
    text = data.decode()
    assert re.search(r"\r\x1b\[KTrain, \d+ s\r\x1b\[K\d\d:\d\d:\d\d Train: done\r\n", text), text
    assert text.endswith("\r\x1b[Kthe run is done\r\n")
