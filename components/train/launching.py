"""Shared by the launchers on one machine and on a cluster."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from components.component_runtime import ERROR_FILE_VARIABLE, GROUP_FILE_VARIABLE
from components.python_process import python_environment
from model.checkpointing.checkpoints import list_checkpoints, step_of
from model.errors import RestartableError


class Follower:
    """Is notified of a training's progress; this one only prints restarts."""

    def update(self) -> None:
        """Called several times a second while workers run."""

    def restarting(self, line: str, *, step: int) -> None:
        """Called with the reason for a restart of the workers, and the step it continues from."""
        print(line, flush=True)


def newest_step(workdir: str) -> int:
    """Returns the step of the newest checkpoint, whole or not; 0 without one."""
    paths = list_checkpoints(workdir)
    return step_of(paths[0]) if paths else 0


class StopRequests:
    """Collects the signals that ask to stop, overriding their default effect."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def ended(self, *, step: int, how: str) -> BaseException:
        """Returns the exception that reports that a signal ended the run.

        Args:
          step: step of the newest checkpoint.
          how: command that continues the training.
        """
        name = signal.Signals(self.numbers[0]).name
        text = f"stopped by {name}; continue from step {step} with: {how}"
        return KeyboardInterrupt(text) if name == "SIGINT" else RestartableError(text)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.numbers.append(number)


def child_environment(error_file: str) -> dict[str, str]:
    """Returns the environment of a Python process that the launcher starts.

    Args:
      error_file: where the process writes its error.
    """
    environment = python_environment() | {
        ERROR_FILE_VARIABLE: error_file,
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1"),
    }
    environment.pop(GROUP_FILE_VARIABLE, None)
    return environment
