"""Ends the tasks of a local run on a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType

from components.interruption import handling_signals
from model.checkpointing.save_time import MAX_SAVE_SECONDS
from model.distributed.stop_signals import PAUSE_SECONDS
from model.errors import CharloomError, RestartableError

GRACE_SECONDS = MAX_SAVE_SECONDS + 60.0
"""How long a task may take to end after Ctrl-C before it is killed: only training takes longer than
a moment, and it has limits of its own."""


class StoppableTasks:
    """Makes Ctrl-C, SIGTERM and SIGHUP end the running task and all its processes.

    kfp.local does not expose the handle of a task's process. So a task leads a process group and
    writes its id to a file (components/component_runtime.py). The group gets SIGTERM, and SIGKILL
    after a grace period or at a second signal. Until then kfp keeps reading the task's output, so
    that its last messages are not lost.
    """

    def __init__(self, group_file: str) -> None:
        self._group_file = group_file
        self._signal, self._since = 0, 0.0
        self._ended = threading.Event()
        self._handling = handling_signals(self._stop)

    def __enter__(self) -> StoppableTasks:
        self._handling.__enter__()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._ended.set()
        if kind is not None or self._signal:
            self._send(signal.SIGKILL)  # workers that outlived their task
        self._handling.__exit__(None, None, None)

    @property
    def stopped(self) -> bool:
        """Whether a signal was received."""
        return bool(self._signal)

    def raise_if_stopped(self, reported: CharloomError | None) -> None:
        """Raises the exception for a signal that has stopped the run.

        Args:
          reported: the error reported by the stopped task.

        Raises:
          KeyboardInterrupt: Ctrl-C.
          RestartableError: another signal.
        """
        if not self._signal:
            return
        text = f"stopped by {signal.Signals(self._signal).name}"
        if isinstance(reported, RestartableError):  # it states how to continue
            how = str(reported).removeprefix("stopped by SIGTERM")
            text += how if how.startswith("; ") or not how else f"; {how}"
        raise KeyboardInterrupt(text) if self._signal == signal.SIGINT else RestartableError(text)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self._signal:
            if time.monotonic() - self._since > PAUSE_SECONDS:
                self._send(signal.SIGKILL)
            return
        self._signal, self._since = number, time.monotonic()
        threading.Thread(target=self._stop_group, daemon=True).start()

    def _stop_group(self) -> None:
        """Ends the running task, and the next if kfp was about to start it."""
        deadline = time.monotonic() + GRACE_SECONDS
        stopped: set[int] = set()
        while not self._ended.wait(0.1):
            group = self._group()
            if time.monotonic() > deadline:
                self._send(signal.SIGKILL)
            elif group and group not in stopped:
                stopped.add(group)
                self._send(signal.SIGTERM)

    def _group(self) -> int:
        try:
            with open(self._group_file, encoding="utf-8") as file:
                return int(file.read())
        except FileNotFoundError:  # the first task has not written it yet
            return 0

    def _send(self, number: int) -> None:
        group = self._group()
        if group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
