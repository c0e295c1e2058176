"""The input files, plain or compressed, here or in an object store, and how to open them; no TensorFlow."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from components.preprocess.sources.packed import open_packed
from components.preprocess.sources.types import GONE, ChangedError, UnsteadyError
from model.config import DataConfig

_UTF8 = ("utf-8", "utf-8-sig")


def is_remote(path: str) -> bool:
    """Returns whether a path or pattern names a place in an object store."""
    return "://" in path


def is_utf8(config: DataConfig) -> bool:
    """Returns whether text is in UTF-8, whatever name it is given."""
    return codecs.lookup(config.encoding).name in _UTF8


@contextlib.contextmanager
def open_file(path: str, *, size: int = 0, modified: int | None = None) -> Iterator[BinaryIO]:
    """Opens a file for reading, decompressed, for the length of a block.

    Args:
      path: where it is.
      size: its bytes as it was listed.
      modified: when it was last changed, as it was listed; None: whatever is there is meant.

    Raises:
      ChangedError: it is not what was listed; it may come at the end of the block.
      UnsteadyError: its store can't be read for now.
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
        except Exception:  # another file in its place may be the cause
            file.check_unchanged()
            raise
        file.check_unchanged()


@contextlib.contextmanager
def _open_local(path: str, *, size: int, modified: int | None) -> Iterator[BinaryIO]:
    """Opens a file of this machine, as it is stored; arguments and errors as of `open_file`."""
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
            # The inode is not compared with that of the list: on some network file systems it
            # is another on each machine.
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
        except Exception:  # a change may be the cause
            check()
            raise
        check()


def content_fingerprint(names: Sequence[str], hashes: Sequence[str]) -> str:
    """Returns one SHA-256 over the files' full names and the hashes of their contents."""
    rows = "".join(f"{sha256}  {name}\n" for name, sha256 in zip(names, hashes, strict=True))
    return hashlib.sha256(rows.encode()).hexdigest()


def describe_bad_text(
    path: str, *, reason: str, offset: int, detail: str, config: DataConfig
) -> str:
    """Returns what is wrong with a file, as BadTextError says it, and what to do about it."""
    strict = config.on_bad_text == "error"
    advice = "leave it out" + (" or add --on-bad-text=skip" if strict else "")
    if reason == "empty":
        return f"{path} is empty; {advice}"
    if reason == "blank":
        return f"{path} holds only white space; {advice}"
    if reason == "damaged":
        return f"{path} is damaged or cut short ({detail}); make it again, or {advice}"
    if reason == "line":
        return (
            f"{path} has a line that is too long ({detail} after byte offset {offset}); break it "
            f"into lines, or {advice}"
        )
    where = f"({detail} at byte offset {offset})"
    if reason == "binary":
        return f"{path} is a binary file {where}; {advice}"
    other = "--encoding latin-1" if is_utf8(config) else "another --encoding"
    advice = f"try {other}" + (", or --on-bad-text=skip|replace" if strict else "")
    return f"{path} is no {config.encoding} text {where}; {advice}"
