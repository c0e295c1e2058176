"""Measures where a training's seconds go. No TensorFlow here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

PHASES = ("waiting", "step", "validation", "checkpoint")
"""Waiting for a batch; a step, including waiting for its result; a validation pass, including its
samples; writing a checkpoint."""


class Phases:
    """Adds up the seconds of each phase."""

    def __init__(self) -> None:
        """Starts with none."""
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the block's duration to one of `PHASES`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[phase] += time.monotonic() - started

    def take(self, phase: str) -> float:
        """Returns and resets the seconds of a phase."""
        seconds, self._seconds[phase] = self._seconds[phase], 0.0
        return seconds
