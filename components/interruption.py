"""Ends a command or a task in order on Ctrl-C, SIGTERM and SIGHUP, with nothing half-written left.

A training's launcher and `charloom run` handle these signals themselves while they have processes
to stop (components/train/launching.py, pipelines/local/stop_tasks.py), and a training's workers
always (model/distributed/stop_signals.py).
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from model.distributed.stop_signals import PAUSE_SECONDS
from model.errors import RejectedError, RestartableError, ending_for
from model.files import remove_unfinished

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

END_SECONDS = 8.0
"""How long after the exception the process is ended at once if the block has not ended."""


class StopSignal(KeyboardInterrupt):
    """SIGTERM or SIGHUP was received.

    Libraries let Ctrl-C pass, unlike other exceptions: hence the base class.
    """


@contextlib.contextmanager
def handling_signals(handle: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Handles SIGINT, SIGTERM and SIGHUP during the block, if it runs in the main thread.

    A signal that was ignored before stays ignored, as SIGHUP is under nohup.
    """
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, handle)
        yield
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)


@contextlib.contextmanager
def ending_on_signals(
    report: Callable[[BaseException], None], *, advice: str = "", seconds: float = END_SECONDS
) -> Iterator[None]:
    """Ends the block on SIGINT, SIGTERM and SIGHUP, by an exception in the main thread.

    Python raises it when native code returns, such as an import. A library may swallow it, and
    cleaning up may hang. So if the block has not ended `seconds` later, or at a second signal, the
    process ends at once: unfinished files are removed and the error is reported.

    Args:
      report: reports an error when the process ends at once; called from any thread.
      advice: added to the message for SIGTERM and SIGHUP.
      seconds: replaces `END_SECONDS`.

    Raises:
      KeyboardInterrupt: SIGINT.
      RestartableError: SIGTERM or SIGHUP.
    """
    stop = _Stop(report, advice, seconds)
    with handling_signals(stop.handle):
        try:
            yield
        except BaseException as error:
            # Whatever it has become on its way here: native modules turn it into others.
            if stop.number and not isinstance(error, RejectedError):
                raise stop.error(error) from error
            raise
        finally:
            stop.over = True
            if stop.number:
                remove_unfinished()  # cleaning up may have been interrupted


class _Stop:
    """What a signal has asked for."""

    def __init__(self, report: Callable[[BaseException], None], advice: str, seconds: float):
        self._report = report
        self._advice = advice
        self._seconds = seconds
        self._since = 0.0
        self.number = 0
        """The first signal; 0: none."""
        self.over = False
        """Whether the block has ended."""

    def handle(self, number: int, _: FrameType | None) -> None:
        if self.over:
            return
        if not self.number:
            self.number, self._since = number, time.monotonic()
            _thread.start_new_thread(self._end_late, ())  # takes no lock, unlike threading's
            raise KeyboardInterrupt if number == signal.SIGINT else StopSignal
        if time.monotonic() - self._since > PAUSE_SECONDS:
            self._end()

    def error(self, cause: BaseException | None) -> BaseException:
        """Returns the error that reports the signal; a message that a handler has added is kept."""
        text = str(cause) if isinstance(cause, KeyboardInterrupt) else ""
        if self.number == signal.SIGINT:
            return KeyboardInterrupt(text or "stopped")
        name = signal.Signals(self.number).name
        return RestartableError(text or f"stopped by {name}{self._advice}")

    def _end_late(self) -> None:
        time.sleep(self._seconds)
        if not self.over:
            self._end()

    def _end(self) -> NoReturn:
        error = self.error(None)
        try:
            remove_unfinished()
            self._report(error)
        finally:
            os._exit(ending_for(error).code)
