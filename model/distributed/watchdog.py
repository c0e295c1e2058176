"""Ends a worker that makes no progress, so that nothing hangs forever. No TensorFlow here."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator

from model.errors import EXIT_RESTARTABLE

STALL_SECONDS = 300.0
"""Maximum time without a sign of progress."""

FIRST_SECONDS = 600.0
"""Minimum time allowed for compiling, or for reading or writing much data."""

_BACKSTOP_SECONDS = 60.0


class Watchdog:
    """Ends the process when signs of progress stop coming.

    Before that, it writes the stacks of all threads to stderr. If the main thread holds the GIL, no
    thread of ours can run; a system timer then ends the process a minute later, without a message.
    """

    def __init__(self, end: Callable[[str], None] | None = None, *, seconds: float = STALL_SECONDS):
        """Watches nothing until `watching` is entered.

        Args:
          end: exits with the restartable code; receives the reason.
          seconds: maximum time between two signs of progress.
        """
        self._end = end
        self._seconds = seconds
        self.doing = ""
        """The latest activity."""
        self._limit = self._deadline = float("inf")
        self._stopped = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches while the block runs."""
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._stopped.clear()
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()
            self._limit = self._deadline = float("inf")

    def beat(self, doing: str, *, slow: bool = False, seconds: float = 0.0) -> None:
        """Reports the current activity.

        Args:
          doing: such as "step 12".
          slow: whether it may take as long as `FIRST_SECONDS`.
          seconds: how long it may take at least.
        """
        self.doing = doing
        self._limit = max(self._seconds, FIRST_SECONDS if slow else 0.0, seconds)
        self._deadline = time.monotonic() + self._limit

    def _watch(self) -> None:
        timer = ExitTimer()
        while not self._stopped.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() > self._deadline:
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                if self._end:
                    self._end(f"no progress for {self._limit:g} s in {self.doing}")
            timer.set(max(self._seconds, _BACKSTOP_SECONDS))
        timer.set(0.0)


class ExitTimer:
    """Ends the process after some time, whichever thread holds the GIL.

    While TensorFlow creates the strategy it waits up to an hour for its peers and holds the GIL, so
    neither a thread nor a signal handler in Python runs. A system timer calls `_exit` from a thread
    independent of Python. Does nothing where there is no `timer_create` (macOS).
    """

    def __init__(self, code: int = EXIT_RESTARTABLE):
        """Makes a timer that is not set.

        Args:
          code: the exit code.
        """
        self._system = ctypes.CDLL(None)
        self._usable = hasattr(self._system, "timer_create")
        if self._usable:
            self._exit = self._create("_exit", code)
        self._text = ctypes.create_string_buffer(_TEXT_BYTES)
        if self._usable:  # a function of the C library, too: it prints one line to stderr
            self._speak = self._create("warnx", ctypes.addressof(self._text))

    def _create(self, function: str, value: int) -> ctypes.c_void_p:
        timer = ctypes.c_void_p()
        event = _Event(value=value, notify=_NOTIFY_BY_THREAD)
        event.function = ctypes.cast(getattr(self._system, function), ctypes.c_void_p)
        places = ctypes.byref(event), ctypes.byref(timer)
        self._usable = self._system.timer_create(_MONOTONIC, *places) == 0
        return timer

    def set(self, seconds: float, text: str = "") -> None:
        """Ends the process after `seconds`; 0 cancels the timer.

        Args:
          seconds: time from now.
          text: line for stderr when the time is over.
        """
        if not self._usable:
            return
        self._text.value = text.replace("%", "%%").encode()[: _TEXT_BYTES - 1]
        self._start(self._speak, seconds if text else 0.0)
        self._start(self._exit, seconds + (_SPEAK_SECONDS if seconds and text else 0.0))

    def _start(self, timer: ctypes.c_void_p, seconds: float) -> None:
        whole = int(seconds)
        times = _Times(0, 0, whole, int((seconds - whole) * 1e9))
        self._system.timer_settime(timer, 0, ctypes.byref(times), None)


_MONOTONIC, _NOTIFY_BY_THREAD = 1, 2
_TEXT_BYTES = 512
_SPEAK_SECONDS = 0.5
"""Time between the line and the end."""


class _Event(ctypes.Structure):
    """`struct sigevent` of timer_create(2); Linux pads it to 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_byte * 32),
    )


class _Times(ctypes.Structure):
    """`struct itimerspec`: interval and time until the first expiry."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every", "every_ns", "in_", "in_ns"))
