"""Opens input files, plain or compressed, local or in an object store; no TensorFlow."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from typing import BinaryIO

from components.preprocess.sources.packed import open_packed
from components.preprocess.sources.types import GONE, ChangedError, UnsteadyError
from model.config import DataConfig

_UTF8 = ("utf-8", "utf-8-sig")


def is_remote(path: str) -> bool:
    """Returns whether a path or pattern is an address in an object store."""
    return "://" in path


def is_utf8(config: DataConfig) -> bool:
    """Returns whether the encoding is UTF-8, under any of its names."""
    return codecs.lookup(config.encoding).name in _UTF8


@contextlib.contextmanager
def open_file(path: str, *, size: int = 0, modified: int | None = None) -> Iterator[BinaryIO]:
    """Opens a file for reading, decompressed, for the duration of the block.

    Args:
      path: where it is.
      size: listed size in bytes.
      modified: listed modification time; None: do not check for changes.

    Raises:
      ChangedError: it has changed since it was listed; may be raised at the end of the block.
      UnsteadyError: its store is temporarily unreadable.
      OSError: it can't be read.
      DamagedError: it is packed and damaged; raised by `read`.
    """
    if not is_remote(path):
        with _open_local(path, size=size, modified=modified) as raw:
            yield open_packed(path, raw)
        return
    from components.preprocess.sources import remote  # Beam takes a while

    with remote.RemoteFile(path, size=size, modified=modified) as file:
        try:
            yield open_packed(path, io.BufferedReader(file, remote.BUFFER_BYTES))
        except UnsteadyError:
            raise
        except Exception:  # may be caused by a replaced file
            file.check_unchanged()
            raise
        file.check_unchanged()


@contextlib.contextmanager
def _open_local(path: str, *, size: int, modified: int | None) -> Iterator[BinaryIO]:
    """Opens a local file, as stored; arguments and errors as for `open_file`."""
    if modified is None:
        with open(path, "rb") as raw:
            yield raw
        return
    try:
        raw = open(path, "rb")
    except FileNotFoundError:
        raise ChangedError(GONE) from None
    with raw:
        opened = os.fstat(raw.fileno())
        listed = (size, modified)

        def check() -> None:
            # The inode is not compared with the listed one: some network file systems give each
            # machine another.
            now = os.fstat(raw.fileno())
            try:
                named = os.stat(path)
            except OSError:
                raise ChangedError(GONE) from None
            for status in (opened, now, named):
                ChangedError.check(listed=listed, now=(status.st_size, status.st_mtime_ns))
            if not os.path.samestat(opened, named):
                raise ChangedError("another file is in its place")

        check()
        try:
            yield raw
        except UnsteadyError:
            raise
        except Exception:  # may be caused by a change
            check()
            raise
        check()


class ContentFingerprint:
    """One SHA-256 over the files' full names and content hashes."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, name: str, sha256: str) -> None:
        """Adds the next file."""
        self._sha256.update(f"{sha256}  {name}\n".encode())

    def hexdigest(self) -> str:
        """Returns the fingerprint of the files so far."""
        return self._sha256.hexdigest()


MARK_DETAIL = "the byte order mark of"
"""Begin of the detail of text in another encoding that has one."""


def describe_bad_text(
    path: str, *, reason: str, offset: int, detail: str, config: DataConfig
) -> str:
    """Describes a file's BadTextError, and what to do about it."""
    strict = config.on_bad_text == "error"
    advice = "leave it out" + (" or add --on-bad-text=skip" if strict else "")
    if reason == "empty":
        return f"{path} is empty; {advice}"
    if reason == "blank":
        return f"{path} contains only white space; {advice}"
    if reason == "damaged":
        return f"{path} is damaged or truncated ({detail}); make it again, or {advice}"
    if reason == "line":
        return (
            f"{path} has a line that is too long ({detail} after byte offset {offset}); break it "
            f"into lines, or {advice}"
        )
    if detail.startswith(MARK_DETAIL):
        encoding = detail.removeprefix(MARK_DETAIL).strip()
        return f"{path} begins with {detail}; add --encoding {encoding}, or {advice}"
    where = f"({detail} at byte offset {offset})"
    if reason == "binary":
        return f"{path} is a binary file {where}; {advice}"
    other = "--encoding latin-1" if is_utf8(config) else "another --encoding"
    advice = f"try {other}" + (", or --on-bad-text=skip|replace" if strict else "")
    return f"{path} is not {config.encoding} text {where}; {advice}"
