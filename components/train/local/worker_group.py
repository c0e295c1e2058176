"""The worker processes of one training attempt on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence

from components.component_runtime import read_error
from components.train.launching import child_environment
from model.distributed.tf_config import format_tf_config
from model.errors import (
    ENDINGS,
    EXIT_RESTARTABLE,
    CharloomError,
    KilledError,
    RestartableError,
    ending_for,
)

FOLLOW_SECONDS = 0.5
"""Grace period for the others to end after one has failed, so that the cause becomes visible."""


@dataclasses.dataclass
class Worker:
    """A worker process."""

    rank: int
    process: subprocess.Popen[bytes]
    log: str
    error_file: str


def log_path(workdir: str, rank: int) -> str:
    """Returns the file for a worker's output."""
    return os.path.join(workdir, "logs", f"worker-{rank}.log")


class WorkerGroup:
    """Workers that connect over loopback; leaving the context ends them all."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        workdir: str,
        count: int,
        enter: Callable[[Sequence[str]], list[str]] = list,
        variables: Sequence[dict[str, str]] = (),
    ):
        """Starts nothing until entered.

        Args:
          command: command of a worker; differences between workers are in the environment.
          workdir: the training's folder; each worker's output goes to its logs/.
          count: number of workers.
          enter: makes a command run in the workers' network.
          variables: more environment variables for each worker.
        """
        self._variables = variables or [{}] * count
        self._command = enter(command)
        self._workdir = workdir
        self._count = count
        # Not in the workdir, whose disk may be full.
        self._messages = tempfile.TemporaryDirectory(prefix="charloom-workers-")
        self.workers: list[Worker] = []

    def __enter__(self) -> WorkerGroup:
        os.makedirs(os.path.join(self._workdir, "logs"), exist_ok=True)
        # New ports each time: those of a group that has just ended may still be in use.
        hosts = [f"127.0.0.1:{port}" for port in _free_ports(self._count)]
        try:
            for rank in range(self._count):
                self.workers.append(self._start(rank, hosts))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        self.end(0.0)
        self._messages.cleanup()

    def _start(self, rank: int, hosts: Sequence[str]) -> Worker:
        log = log_path(self._workdir, rank)
        error_file = os.path.join(self._messages.name, f"{rank}.json")
        with open(log, "ab") as output:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(error_file)
                | self._variables[rank]
                | {"TF_CONFIG": format_tf_config(hosts, rank)},
                # Ctrl-C in a terminal reaches only the launcher, which passes it on once: workers
                # take a second signal as a request to end without saving.
                process_group=0,
            )
        return Worker(rank, process, log, error_file)

    def ask_to_stop(self) -> None:
        """Asks all workers to save and end."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.terminate()

    def end(self, seconds: float) -> None:
        """Waits up to `seconds` for all workers to end, then kills the rest."""
        deadline = time.monotonic() + seconds
        for worker in self.workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()

    @property
    def finished(self) -> bool:
        """Whether all workers have succeeded."""
        return all(worker.process.poll() == 0 for worker in self.workers)

    @property
    def running(self) -> bool:
        """Whether a worker is still running."""
        return any(worker.process.poll() is None for worker in self.workers)

    def failure(self) -> CharloomError | None:
        """Returns why the group can't continue, by the order of `ENDINGS`; None if it can."""
        if all(worker.process.poll() in (None, 0) for worker in self.workers):
            return None
        deadline = time.monotonic() + FOLLOW_SECONDS
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)
        errors = [_error_of(worker) for worker in self.workers if worker.process.poll()]
        return min(errors, key=lambda error: ENDINGS.index(ending_for(error)))


def _error_of(worker: Worker) -> CharloomError:
    code = worker.process.returncode
    reported = read_error(worker.error_file)
    if reported is not None and reported.exit_code == code:
        return reported
    if code < 0:
        return KilledError(f"worker {worker.rank} was ended by {signal.Signals(-code).name}")
    if code == EXIT_RESTARTABLE:
        return RestartableError(
            f"worker {worker.rank} could not join the others; see the end of {worker.log}"
        )
    return CharloomError(
        f"training failed (worker {worker.rank} with code {code}); the reason is at the end of "
        f"{worker.log}"
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
