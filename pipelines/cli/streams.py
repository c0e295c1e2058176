"""Standard streams that can't change what a command comes to.

A reader that has seen enough (`charloom train | head`), a terminal that is gone, or a full disk must
not stop a training or turn a rejection into success. So a command that does work loses its output and
goes on; one whose output is its product ends early.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from model.errors import CharloomError


class ReaderGoneError(Exception):
    """Nobody reads the product of the command any more."""


class LastingStream:
    """A text stream that outlives its reader.

    Until `is_product` is set, what can't be written is dropped, and all that follows as well, also
    what native code and processes started later write to the same descriptor.
    """

    def __init__(self, stream: TextIO) -> None:
        """Writes to `stream` as long as that is possible."""
        self._stream = stream
        self._is_lost = False
        self.is_product = False
        """Whether to raise in place of dropping: the output is all that the command is for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or drops the text if nobody can get it.

        Raises:
          ReaderGoneError: `is_product`, and the pipe is closed.
          CharloomError: `is_product`, and the output can't be written.
        """
        if not self._is_lost:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flushes; raises as `write` does."""
        if not self._is_lost:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def writelines(self, lines: Any) -> None:
        """Writes several texts; raises as `write` does."""
        for line in lines:
            self.write(line)

    def _lose(self, error: OSError) -> None:
        self._is_lost = True
        with contextlib.suppress(OSError, ValueError):  # one in memory has no descriptor
            _open_null(self._stream.fileno())
        with contextlib.suppress(OSError):
            self._stream.flush()  # else Python would try, and complain, at its exit
        if not self.is_product:
            return
        if isinstance(error, BrokenPipeError):
            raise ReaderGoneError from None
        raise CharloomError(
            f"the output can't be written ({error.strerror}); what was written before is incomplete"
        ) from None


@contextlib.contextmanager
def lasting_streams() -> Iterator[LastingStream]:
    """Replaces sys.stdout and sys.stderr by ones that last, in UTF-8; yields the first.

    Text is read as UTF-8 whatever the locale, so it is written so as well; what even UTF-8 can't
    express (a file name of stray bytes) is escaped.
    """
    for descriptor in range(3):  # else the next file that is opened would get what is printed
        try:
            os.fstat(descriptor)
        except OSError:
            _open_null(descriptor)
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        streams = [
            LastingStream(stream or stack.enter_context(open(os.devnull, "w", encoding="utf-8")))
            for stream in before
        ]
        for stream in before:
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
        try:
            yield streams[0]
        finally:
            sys.stdout, sys.stderr = before
            for one in streams:
                one.is_product = False
                one.flush()


def _open_null(descriptor: int) -> None:
    """Lets a descriptor lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
