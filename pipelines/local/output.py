"""Divides a local run's output between the terminal and its log."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from typing import TextIO


class RunOutput:
    """A text stream that logs everything and shows the tasks' output on the terminal, line by line.

    kfp.local prints its own messages, its executor's messages inside a task, and the task's own
    lines. The last, except those of TensorFlow's C++ parts, and the names of the tasks go to the
    terminal.
    """

    _MESSAGE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} - ([A-Z]+) - (.*)")
    _STARTED = re.compile(r"Executing task \S*'([^']+)'")
    _STEP = re.compile(r"step (\d+)/(\d+)  (.*)")  # printed by components/train/main.py

    _NATIVE = re.compile(r"[IWE]\d{4} \d\d:\d\d:|WARNING: All log messages before absl")

    def __init__(
        self, terminal: TextIO, log: TextIO, *, muted: Callable[[], bool] = lambda: False
    ) -> None:
        """Creates the stream.

        Args:
          terminal: the stream that people see.
          log: receives everything.
          muted: whether tasks have been stopped; their output then goes only to the log.
        """
        self._terminal, self._log, self._muted = terminal, log, muted
        self._interactive = terminal.isatty()
        self._line = ""
        self._in_executor_input = False
        self._bar_open = False  # a bar was shown last, on an unfinished line

    def write(self, text: str) -> int:
        """Accepts what kfp prints: whole messages of its logger, or pieces of lines."""
        self._log.write(text)
        message = self._MESSAGE.match(text)
        if message:
            started = self._STARTED.match(message[2])
            if started:
                self._show(f"{time.strftime('%H:%M:%S')} {started[1]}")
            elif message[1] == "WARNING":
                self._show(message[2])
            return len(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._take_line(line)
        return len(text)

    def flush(self) -> None:
        """Writes buffered text to the log and the terminal."""
        self._log.flush()
        self._terminal.flush()

    def finish(self) -> None:
        """Ends the line of a bar."""
        if self._bar_open:
            self._terminal.write("\n")
            self._bar_open = False
        self.flush()

    def _take_line(self, line: str) -> None:
        if self._muted():
            return
        line = line.removeprefix("    ").rstrip()  # kfp indents a task's output
        if line.startswith("[KFP Executor "):
            self._in_executor_input = line.endswith("Got executor_input:")
        elif self._in_executor_input:
            self._in_executor_input = line != "}"
        elif line.strip("-") and not self._NATIVE.match(line):  # a row of - is kfp's
            self._show(line)

    def _show(self, line: str) -> None:
        """Shows a line; on a terminal, a training step as a bar that replaces the previous one.

        A task can't draw its own bar: it writes into a pipe, and kfp treats a carriage return as a
        line end.
        """
        step = self._STEP.fullmatch(line) if self._interactive else None
        if self._bar_open:
            self._terminal.write("\r\x1b[K" if step else "\n")
        if step:
            done, steps = int(step[1]), int(step[2])
            bar = ("#" * (20 * done // steps)).ljust(20)
            line = f"{done / steps:4.0%} |{bar}| {done}/{steps}  {step[3]}"
            line = line[: shutil.get_terminal_size().columns - 1]
        self._bar_open = step is not None
        self._terminal.write(line if step else line + "\n")
        self.flush()
