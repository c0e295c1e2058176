"""Beam's worker processes, forked from one process with all imports done.

Importing TensorFlow and Beam takes seconds, more than a worker's share of a small corpus. So one
process, the pool, imports them once. It starts no threads, opens no channels and runs no
operations, so that it can be forked. It lives as long as the process that started it, receives
requests as lines of JSON over a socket, and ends with all its workers when the socket closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

from components.component_runtime import quick_imports
from components.python_process import python_environment
from model.errors import RestartableError

WORKER_ENDED = (
    "a Beam worker process ended before its work (killed, or out of memory); run the "
    "command again, with fewer --beam-workers if it happens again"
)

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>: signal sent to a process when its parent ends


class WorkerPool:
    """The pool, as seen by the process that started it."""

    _shared: WorkerPool | None = None

    def __init__(self) -> None:
        """Starts the pool, which imports in the background."""
        self._log = tempfile.TemporaryFile()
        self._socket, theirs = socket.socketpair()
        for end in (self._socket, theirs):
            end.setblocking(True)  # Beam's Google Cloud code sets a timeout on all sockets
        with theirs:
            code = (
                "from components.preprocess.engine.worker_pool import serve; "
                f"serve({theirs.fileno()})"
            )
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                env=python_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
            )
        self._answers = self._socket.makefile("r", encoding="utf-8")
        self._lock = threading.Lock()

    @classmethod
    def shared(cls) -> WorkerPool:
        """Returns this process's pool; a new one if there is none or it has ended."""
        if cls._shared is None or cls._shared.process.poll() is not None:
            cls._shared = cls()
        return cls._shared

    def start_worker(self, environment: Mapping[str, str], log_path: str) -> None:
        """Forks a worker.

        Args:
          environment: added to our environment variables; tells Beam's worker where to connect.
          log_path: file to append its stderr to.

        Raises:
          RestartableError: the pool has ended.
        """
        variables = {**python_environment(), **environment}
        self._ask({"start": variables, "folder": os.getcwd(), "log": log_path})

    def has_failed(self) -> bool:
        """Returns whether a worker or the pool has failed."""
        try:
            return bool(self._ask({})["failed"])
        except RestartableError:
            return True

    def end_workers(self, grace: float) -> None:
        """Waits until all workers have ended; kills those still running after `grace` seconds."""
        with contextlib.suppress(RestartableError):
            self._ask({"end": grace})

    def read_log(self) -> str:
        """Returns what the pool itself wrote to stderr."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            with self._lock:
                self._socket.sendall(json.dumps(request).encode() + b"\n")
                answer: dict[str, Any] = json.loads(self._answers.readline())
        except (OSError, ValueError) as error:  # an empty answer is not JSON
            raise RestartableError(WORKER_ENDED) from error
        return answer


def serve(descriptor: int) -> None:
    """Runs the pool process: answers requests over a socket until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    with quick_imports():  # exempt from collection, which would copy the workers' shared pages
        from apache_beam.runners.worker import sdk_worker_main  # noqa: F401

        from components.preprocess.beam_setup import sample_often
        from components.preprocess.passes import scan, write  # noqa: F401

    sample_often()
    workers = _Workers()
    connection = socket.socket(fileno=descriptor)
    try:
        with connection.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                answer = workers.answer(json.loads(line), connection)
                connection.sendall(json.dumps(answer).encode() + b"\n")
    finally:
        workers.end(0.0)


class _Workers:
    """The workers that the pool has forked."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._failed = False

    def answer(self, request: Mapping[str, Any], connection: socket.socket) -> dict[str, Any]:
        if "start" in request:
            process_id = os.fork()
            if not process_id:
                _work(request, connection)
            self._running.add(process_id)
        elif "end" in request:
            self.end(request["end"])
        self._collect()
        return {"failed": self._failed}

    def end(self, grace: float) -> None:
        """Ends all workers."""
        deadline = time.monotonic() + grace
        while self._running and time.monotonic() < deadline:
            self._collect()
            time.sleep(0.005)
        for process_id in self._running:
            os.kill(process_id, signal.SIGKILL)
            os.waitpid(process_id, 0)
        self._running, self._failed = set(), False

    def _collect(self) -> None:
        for process_id in list(self._running):
            ended, status = os.waitpid(process_id, os.WNOHANG)
            if ended:
                self._running.remove(process_id)
                self._failed = self._failed or status != 0


def _work(request: Mapping[str, Any], connection: socket.socket) -> NoReturn:
    code = 1
    try:
        with contextlib.suppress(AttributeError):  # only Linux has it
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        connection.close()
        os.environ.clear()
        os.environ.update(request["start"])
        os.chdir(request["folder"])
        with open(request["log"], "a", encoding="utf-8") as log:
            os.dup2(log.fileno(), sys.stderr.fileno())
        from apache_beam.runners.worker import sdk_worker_main

        sdk_worker_main.main([])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
