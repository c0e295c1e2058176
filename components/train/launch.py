"""Starts the workers of a training on this machine and waits for them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from components.task import ERROR_FILE_VARIABLE, GROUP_FILE_VARIABLE
from model.cluster import tf_config
from model.errors import EXIT_BAD_INPUT, CharloomError, InputError, RestartableError

STOP_SECONDS = 5.0
"""How long a worker that was asked to stop may take before it is killed."""


@dataclasses.dataclass
class Worker:
    """A running worker process."""

    rank: int
    process: subprocess.Popen[bytes]
    log: str
    error_file: str


def log_path(workdir: str, rank: int) -> str:
    """Returns where a worker's output goes."""
    return os.path.join(workdir, "logs", f"worker-{rank}.log")


def launch_local(
    *,
    records: str,
    workdir: str,
    config: str,
    workers: int,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Runs a training as local processes that share the cores and meet on loopback.

    Args:
      records: folder of records.
      workdir: the training's folder; each worker's output goes to its logs/.
      config: JSON file of the whole config.
      workers: how many processes.
      watch: called several times a second while they run.

    Raises:
      InputError: a worker found bad input.
      RestartableError: a worker was lost.
      CharloomError: a worker failed.
    """
    ports = _free_ports(workers)
    command = [sys.executable, "-m", "components.train.worker"]
    command += ["--records", records, "--workdir", workdir, "--config", config]
    command += ["--threads", str(max(1, (os.cpu_count() or 1) // workers))]
    command += ["--launcher", str(os.getpid())]
    with _started(command, workdir=workdir, ports=ports) as running:
        while True:
            watch()
            failed = [worker for worker in running if worker.process.poll() not in (None, 0)]
            if failed:
                # The others follow within a moment; the one that began it died of more
                # than a lost peer.
                time.sleep(0.5)
                again = ["charloom", "train", "--records", records, "--workdir", workdir]
                again += ["--config", config, "--workers", str(workers)]
                raise _failure(running, again=shlex.join(again))
            if all(worker.process.poll() == 0 for worker in running):
                watch()
                return
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _started(
    command: Sequence[str], *, workdir: str, ports: Sequence[int]
) -> Iterator[list[Worker]]:
    """Starts a worker for each port; stops those that still run at the end, whatever it is."""
    os.makedirs(os.path.join(workdir, "logs"), exist_ok=True)
    hosts = [f"127.0.0.1:{port}" for port in ports]
    workers: list[Worker] = []
    try:
        for rank in range(len(ports)):
            workers.append(_start_worker(command, workdir=workdir, hosts=hosts, rank=rank))
        yield workers
    finally:
        _stop(workers)


def _start_worker(
    command: Sequence[str], *, workdir: str, hosts: Sequence[str], rank: int
) -> Worker:
    log = log_path(workdir, rank)
    error_file = log.removesuffix(".log") + ".error.json"
    with contextlib.suppress(FileNotFoundError):
        os.remove(error_file)
    environment = os.environ | {
        "TF_CONFIG": tf_config(hosts, rank),
        ERROR_FILE_VARIABLE: error_file,
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1"),
        # The launcher's folder may differ from where our packages are.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    environment.pop(GROUP_FILE_VARIABLE, None)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    return Worker(rank, process, log, error_file)


def _stop(workers: Sequence[Worker]) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def _failure(workers: Sequence[Worker], *, again: str) -> CharloomError:
    """Says in one line which worker failed and what to do; `again` is the command to go on."""
    for worker in workers:
        with contextlib.suppress(OSError, ValueError):
            with open(worker.error_file, encoding="utf-8") as file:
                error = json.load(file)
            kind = InputError if error["exit_code"] == EXIT_BAD_INPUT else CharloomError
            return kind(error["message"])
    codes = {worker.rank: worker.process.poll() for worker in workers}
    killed = [rank for rank, code in codes.items() if code is not None and code < 0]
    for rank in killed:
        name = signal.Signals(-(codes[rank] or 0)).name
        if name in ("SIGKILL", "SIGTERM", "SIGINT"):
            return RestartableError(
                f"worker {rank} was ended by {name}; continue from the newest checkpoint with: "
                f"{again}"
            )
    ended = {rank: code for rank, code in codes.items() if code}
    listed = ", ".join(f"worker {rank} with code {code}" for rank, code in ended.items())
    first = workers[min(ended)].log
    return CharloomError(f"training failed ({listed}); the reason is at the end of {first}")
