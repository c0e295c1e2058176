"""A worker and its launcher's lease: a real worker, and a server that speaks of leases only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from volume import keep_first
from worker_processes import wait_for

from components.train.orphan import LeaseWatch
from model.checkpointing.checkpoints import list_checkpoints
from model.config import to_json, with_overrides
from model.presets import tiny

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 3.0


class Leases(ThreadingHTTPServer):
    """Answers a request for a lease with what `answer` says: a version, or a status code."""

    def __init__(self, answer: Callable[[int], tuple[int, str]]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.paths: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Leases

    def do_GET(self) -> None:
        self.server.paths.append(f"{self.path} {self.headers['Authorization']}")
        status, version = self.server.answer(len(self.server.paths))
        body: dict[str, Any] = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1"}
        body["metadata"] = {"name": "train-r1", "resourceVersion": version}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


Start = Callable[[Callable[[int], tuple[int, str]]], tuple[subprocess.Popen[str], Leases, Path]]


@pytest.fixture
def start(tiny_records: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a server with an answer, and a worker that would train for ever."""
    servers, processes = [], []

    def started(
        answer: Callable[[int], tuple[int, str]],
    ) -> tuple[subprocess.Popen[str], Leases, Path]:
        server = Leases(answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "clusters": [
                        {
                            "name": "c",
                            "cluster": {"server": f"http://127.0.0.1:{server.server_port}"},
                        }
                    ],
                    "users": [{"name": "u", "user": {"token": "secret"}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        config = tmp_path / "config.json"
        config.write_text(to_json(with_overrides(tiny(), ["train.steps=1000000"])))
        workdir = tmp_path / "workdir"
        workdir.mkdir()  # as the launcher does
        command = [sys.executable, "-m", "components.train.worker", "--records", tiny_records]
        command += ["--workdir", str(workdir), "--config", str(config)]
        command += ["--host-pattern", "127.0.1.{index}", "--workers", "1"]
        command += ["--lease", "train-r1", "--lease-seconds", str(SECONDS)]
        environment = os.environ | {"JOB_COMPLETION_INDEX": "0", "POD_NAMESPACE": "lm"}
        environment |= {"KUBECONFIG": str(kubeconfig), "RESTART_ATTEMPT": "4"}
        environment["PYTHONPATH"] = str(ROOT)
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        processes.append(process)
        return process, server, workdir

    yield started
    for process in processes:
        process.kill()
        process.communicate()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "what"), keep_first([(200, "was not renewed"), (404, "is gone")])
)
def test_an_orphan_saves_and_ends_for_good(start: Start, status: int, what: str) -> None:
    trained = threading.Event()

    def answer(count: int) -> tuple[int, str]:
        return (status, "7") if trained.is_set() else (200, str(count))

    process, server, workdir = start(answer)
    wait_for(lambda: process.poll() or list_checkpoints(str(workdir)), "a checkpoint")
    trained.set()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 78, output
    assert "worker 0 of 1 at 127.0.1.0:2222, attempt 4\n" in output
    assert f"the launcher's lease {what} for 3 s: the group ends\n" in output
    saved = output.rpartition("error: stopped and saved at step ")[2]
    assert list_checkpoints(str(workdir))[0].endswith(f"step-{int(saved):08d}")
    path = "/apis/coordination.k8s.io/v1/namespaces/lm/leases/train-r1"
    assert set(server.paths) == {f"{path} Bearer secret"}


@pytest.mark.slow
@pytest.mark.parametrize("status", keep_first([500, 200]))
def test_a_group_whose_lease_is_renewed_or_unknown_trains_on(start: Start, status: int) -> None:
    process, server, _ = start(lambda count: (status, str(count // 4)))
    wait_for(
        lambda: process.poll() or len(server.paths) >= 20, "three times as long as a lease is good"
    )
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output


def watch() -> LeaseWatch:
    return LeaseWatch("x", seconds=30, orphaned=lambda reason: None)


def test_a_lease_is_over_after_its_time_without_a_change() -> None:
    lease = watch()
    looks = [("1", 0.0), ("1", 30.0), ("2", 31.0), ("2", 61.0), ("2", 61.1)]
    assert [lease.is_over(version, now=now) for version, now in looks] == [False] * 4 + [True]


def test_a_lease_that_is_not_there_yet_has_the_same_time() -> None:
    lease = watch()
    assert not lease.is_over(None, now=100.0)
    assert not lease.is_over(None, now=130.0)
    assert not lease.is_over("1", now=131.0)
    assert not lease.is_over(None, now=161.0)
    assert lease.is_over(None, now=191.5)


def test_a_look_that_fails_in_an_unknown_way_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([ValueError("no JSON"), KeyError("spec")])

    def version(name: str) -> str:
        error = next(answers, None)
        if error:
            raise error
        return "1"

    monkeypatch.setattr("components.train.orphan._version", version)
    over = threading.Event()
    LeaseWatch("x", seconds=0.05, orphaned=lambda reason: over.set()).start()
    assert over.wait(30.0)
