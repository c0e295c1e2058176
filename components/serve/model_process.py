"""The server's side of the processes that hold loaded versions."""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from components.python_process import python_environment
from components.serve.messages import Answer, Ask, Cancel, Ready, TensorInfo
from model.errors import InputError

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "components.serve.worker")
END_SECONDS = 5.0
"""Time in which the kernel ends a process that was killed."""


class ProcessEndedError(Exception):
    """The version's process has ended, or is about to."""


class ModelProcesses:
    """Loads versions, each in a process of its own, and can end all of them at once."""

    def __init__(self, *, threads: int, request_seconds: float):
        """Takes what each version needs to know.

        Args:
          threads: requests computed at the same time.
          request_seconds: how long the server waits for an answer.
        """
        self._flags = ["--threads", str(threads), "--request-seconds", str(request_seconds)]
        self._running: set[ModelProcess] = set()
        self._ended = False
        self._lock = threading.Lock()

    def load(self, path: str) -> ModelProcess:
        """Loads a version.

        Args:
          path: the version's folder.

        Raises:
          InputError: it can't be loaded, differs from its manifest, or answers differently.
          ProcessEndedError: the server is stopping.
        """
        with self._lock:
            if self._ended:
                raise ProcessEndedError
            process = ModelProcess(path, self._flags)
            self._running = {one for one in self._running if one.alive} | {process}
        process.wait_until_loaded()
        return process

    def close(self) -> None:
        """Ends all processes, also those that are loading; no more can be started."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()


class ModelProcess:
    """A version loaded in a process of its own, which may be asked from any thread."""

    def __init__(self, path: str, flags: Sequence[str]):
        """Starts the process with some flags; `wait_until_loaded` must follow."""
        self.path = path
        self.alive = True
        self.number = 0
        self.digest: str | None = None
        self.load_seconds = 0.0
        self._ready: Ready
        self._retired = False
        self._killed = False
        self._pending: dict[int, Future[Answer]] = {}
        self._numbers = itertools.count()
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        with theirs:
            self._connection = Connection(ours.detach())
            self._process = subprocess.Popen(
                [*COMMAND, path, "--connection", str(theirs.fileno()), *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=python_environment(),
            )

    def wait_until_loaded(self) -> None:
        """Waits until the version is loaded.

        Raises:
          InputError: it can't be loaded, differs from its manifest, or answers differently.
          ProcessEndedError: the server is stopping.
        """
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self._finish()
            self._connection.close()
            if self._killed:
                raise ProcessEndedError from None
            raise InputError(f"{self.path} can't be loaded (its process {self.ending()})") from None
        except BaseException:  # a signal
            self.kill()
            raise
        if not isinstance(message, Ready):
            self.kill()
            self._finish()
            self._connection.close()
            raise InputError(message.problem)
        self._ready = message
        self.number, self.digest = message.number, message.digest
        self.load_seconds = message.load_seconds
        for target in (self._read, self._write):
            threading.Thread(
                target=target, name=f"{target.__name__}-{self.number}", daemon=True
            ).start()

    @property
    def signatures(self) -> list[str]:
        """Names of the signatures."""
        return sorted(self._ready.inputs)

    def inputs(self, signature: str) -> dict[str, TensorInfo]:
        """Returns a signature's inputs, by name."""
        return self._ready.inputs[signature]

    def outputs(self, signature: str) -> dict[str, TensorInfo]:
        """Returns a signature's outputs, by name."""
        return self._ready.outputs[signature]

    def ask(self, body: bytes) -> Future[Answer]:
        """Passes on a request; cancelling the returned future ends the work on it.

        The future raises `ProcessEndedError` if the process ends before it has answered.

        Raises:
          ProcessEndedError: the process has ended, or the version is no longer needed.
        """
        future: Future[Answer] = Future()
        with self._lock:
            if self._retired or not self.alive:
                raise ProcessEndedError
            number = next(self._numbers)
            self._pending[number] = future
        self._outbox.put(Ask(number, body))
        future.add_done_callback(lambda done: self._drop(number) if done.cancelled() else None)
        return future

    def retire(self) -> None:
        """Ends the process once it has answered what it was asked."""
        with self._lock:
            self._retired = True
            unused = not self._pending
        if unused:
            self.kill()

    def kill(self) -> None:
        """Ends the process."""
        self._killed = True
        with contextlib.suppress(OSError):
            self._process.kill()

    def ending(self) -> str:
        """Returns how the process ended, for a message."""
        code = self._process.returncode
        if code is None or code >= 0:
            return f"ended with code {code}"
        name = signal.Signals(-code).name
        memory = ", perhaps for lack of memory" if name == "SIGKILL" and not self._killed else ""
        return f"was ended by {name}{memory}"

    def _drop(self, number: int) -> None:
        with self._lock:
            self._pending.pop(number, None)
            unused = self._retired and not self._pending
        self._outbox.put(Cancel(number))
        if unused:
            self.kill()

    def _read(self) -> None:
        while True:
            try:
                answer: Answer = self._connection.recv()
            except (EOFError, OSError):
                break
            with self._lock:
                future = self._pending.pop(answer.number, None)
                unused = self._retired and not self._pending
            if future and future.set_running_or_notify_cancel():
                future.set_result(answer)
            if unused:
                self.kill()
        self._finish()

    def _finish(self) -> None:
        """Cleans up after the process, and fails what it has not answered."""
        self._process.kill()  # it may have closed its connection only
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        with self._lock:
            self.alive = False
            pending = list(self._pending.values())
            self._pending.clear()
        self._outbox.put(None)
        for future in pending:
            if future.set_running_or_notify_cancel():
                future.set_exception(ProcessEndedError())
        if not self._killed:
            log.error("the process of %s %s", self.path, self.ending())

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            with contextlib.suppress(OSError):  # the process is gone, which the reader notices
                self._connection.send(message)
        self._connection.close()
