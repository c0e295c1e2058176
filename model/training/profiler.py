"""Traces some steps of a training with TensorFlow's profiler.

TensorFlow is imported only when tracing, so that a wrong flag is reported at once.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable

from model.errors import InputError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ProfileSteps:
    """The steps to trace: those after step `first` up to step `last`."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> ProfileSteps:
        """Parses `100:110`.

        Raises:
          InputError: wrong form, or an empty range.
        """
        match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text.strip())
        if not match or int(match[1]) >= int(match[2]):
            raise InputError(
                f"--profile is {text!r}; write the first and the last step, such as --profile 100:110"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"

    def check(self, *, done: int, steps: int) -> None:
        """Raises InputError unless a training from step `done` to `steps` includes such a step."""
        if self.first >= steps or self.last <= done:
            raise InputError(
                f"--profile {self} traces nothing: this training goes from step {done} to {steps}"
            )


class Profiler:
    """Starts and stops the profiler at the given steps."""

    def __init__(self, folder: str, steps: ProfileSteps | None):
        """Traces into `<folder>/plugins/profile/<time>`; nothing if `steps` is None."""
        self._folder = folder
        self._steps = steps
        self._running = False

    def update(self, step: int, *, wait: Callable[[], None] = lambda: None) -> None:
        """Starts or stops tracing if due; call it before each step.

        Args:
          step: steps done.
          wait: waits until they have finished on an accelerator too; called only at start and stop.
        """
        if self._steps is None:
            return
        if self._running:
            if step >= self._steps.last:
                wait()
                self.close()
                self._steps = None
        elif self._steps.first <= step < self._steps.last:
            import tensorflow as tf

            wait()
            log.info("profiling steps %d to %d", step + 1, self._steps.last)
            tf.profiler.experimental.start(self._folder)
            self._running = True

    def close(self) -> None:
        """Ends and writes a running trace."""
        if not self._running:
            return
        import tensorflow as tf

        self._running = False
        tf.profiler.experimental.stop()
        log.info("profile written to %s/plugins/profile", self._folder)
