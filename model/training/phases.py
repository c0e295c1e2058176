"""Where a training's seconds go. No TensorFlow here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

PHASES = ("waiting", "step", "validation", "checkpoint")
"""Waiting for a batch; the step, with the wait for its result; a pass over the validation
split, its samples included; writing a checkpoint."""


class Phases:
    """Adds up the seconds of each phase."""

    def __init__(self) -> None:
        """Starts with none."""
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the seconds that the block takes to one of `PHASES`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[phase] += time.monotonic() - started

    def take(self, phase: str) -> float:
        """Returns the seconds of a phase since they were last taken."""
        seconds, self._seconds[phase] = self._seconds[phase], 0.0
        return seconds
