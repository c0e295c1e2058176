"""Standard streams whose failures can't change a command's result.

A reader that has seen enough (`charloom train | head`), a closed terminal, or a full disk must not
stop a training or turn a rejection into success. So a command that does work loses its output and
continues; one whose output is its product ends early.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from model.errors import CharloomError

IS_PRODUCT = "output_is_product"
"""Set in the options of a command run only for its output, which may end when nobody reads it."""


class ReaderGoneError(Exception):
    """Nobody reads the command's product any more."""


class LastingStream:
    """A text stream that outlives its reader.

    Unless `is_product` is set, text that can't be written is dropped, as is everything after it,
    including what native code and child processes later write to the same descriptor.
    """

    def __init__(self, stream: TextIO) -> None:
        """Writes to `stream` as long as possible."""
        self._stream = stream
        self._is_lost = False
        self.is_product = False
        """Whether to raise instead of dropping: the output is the command's only purpose."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text, or drops it if nobody can receive it.

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
        """Flushes; raises like `write`."""
        if not self._is_lost:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def writelines(self, lines: Any) -> None:
        """Writes several texts; raises like `write`."""
        for line in lines:
            self.write(line)

    def _lose(self, error: OSError) -> None:
        self._is_lost = True
        with contextlib.suppress(OSError, ValueError):  # an in-memory stream has no descriptor
            _open_null(self._stream.fileno())
        with contextlib.suppress(OSError):
            self._stream.flush()  # otherwise Python would try, and complain, at exit
        if not self.is_product:
            return
        if isinstance(error, BrokenPipeError):
            raise ReaderGoneError from None
        raise CharloomError(
            f"the output can't be written ({error.strerror}); what was written before is incomplete"
        ) from None


@contextlib.contextmanager
def lasting_streams() -> Iterator[LastingStream]:
    """Replaces sys.stdout and sys.stderr by lasting streams in UTF-8; yields the former.

    Text is read as UTF-8 whatever the locale, so it is written as UTF-8, too; what UTF-8 can't
    express (file names with undecodable bytes) is escaped.
    """
    for descriptor in range(3):  # otherwise the next opened file would receive printed text
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
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
