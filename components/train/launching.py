"""Shared by the launchers on one machine and on a cluster."""

from __future__ import annotations

import math
import os
import signal
import time
from types import FrameType

from components.component_runtime import ERROR_FILE_VARIABLE, GROUP_FILE_VARIABLE
from components.interruption import handling_signals
from components.python_process import python_environment
from model.checkpointing.checkpoints import list_checkpoints, step_of
from model.distributed.stop_signals import PAUSE_SECONDS
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


MIN_IDLE_RESTARTS = 5
"""Maximum consecutive restarts without a newer checkpoint, counted or not."""

_MAX_PAUSE_SECONDS = 60.0


class IdleRestarts:
    """Bounds the restarts that follow one another without a newer checkpoint, counted or not."""

    def __init__(self, step: int, *, max_restarts: int) -> None:
        """Begins at a step; `max_restarts` is the training's, for those that count."""
        self.step = step
        self.count = 0
        self._limit = max(MIN_IDLE_RESTARTS, max_restarts)

    def note(self, step: int, why: str, *, times: int = 1) -> str:
        """Notes restarts from a step; returns what is wrong if they are too many."""
        self.count = times + (0 if step > self.step else self.count)
        self.step = step
        if self.count <= self._limit:
            return ""
        return (
            f"the workers were restarted {self.count} times without a checkpoint newer than step "
            f"{step}; see their logs: {why}"
        )

    @property
    def pause(self) -> float:
        """Seconds to wait before the next start: none at first, then 1, 2, 4, ..."""
        return min(2.0 ** (self.count - 2), _MAX_PAUSE_SECONDS) if self.count > 1 else 0.0


class StopRequests:
    """Collects the signals that ask to stop, overriding their default effect.

    Those that arrive within `PAUSE_SECONDS` of a request belong to it.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._since = -math.inf
        self._handling = handling_signals(self._note)

    def __enter__(self) -> StopRequests:
        self._handling.__enter__()
        return self

    def __exit__(self, *unused: object) -> None:
        self._handling.__exit__(None, None, None)

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
        if time.monotonic() - self._since > PAUSE_SECONDS:
            self.numbers.append(number)
            self._since = time.monotonic()


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
