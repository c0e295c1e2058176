"""Files and folders that a reader sees whole or not at all, flushed to disk. No TensorFlow here."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS}
"""How file systems (some network ones) refuse to flush a folder."""


COMPLETED_FILE = "COMPLETED"
"""The marker that a stage writes last into its folder; without it the folder is not finished."""

TEMPORARY_MARK = ".tmp-"
"""In the name of what is not finished yet, between its later name and a random number."""


def write_whole(path: str, content: str | bytes, *, flush: bool = True) -> None:
    """Writes a file, text as UTF-8, as `whole_file` does."""
    with whole_file(path, flush=flush) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: str, *, flush: bool = True) -> Iterator[BinaryIO]:
    """Yields a temporary file; renames it to `path` on success, deletes it on failure.

    Args:
      path: the file; an older one is replaced.
      flush: whether it must outlive a power failure; scratch files need not.
    """
    temporary = _temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    if flush:
        flush_folder(os.path.dirname(path) or ".")


@contextlib.contextmanager
def temporary_folder(target: str) -> Iterator[str]:
    """Yields a new folder for `publish_folder` to rename to `target`; deletes it if nobody did."""
    folder = _temporary_name(target)
    try:
        os.makedirs(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish_folder(
    folder: str, target: str, *, marker: str | None = None, replace: bool = False
) -> None:
    """Gives a finished folder its name, with all that it holds flushed to disk.

    Args:
      folder: the finished folder, on the same file system as `target`.
      target: its new name.
      marker: content of the file `COMPLETED`, which is written last; None: no such file.
      replace: whether what `target` holds is removed; it stays if the renaming fails.

    Raises:
      OSError: `target` is not empty and not to be replaced, or the disk can't be written.
    """
    flush_tree(folder)
    if marker is not None:
        write_whole(os.path.join(folder, COMPLETED_FILE), marker)
    old = _temporary_name(target)
    if replace and os.path.lexists(target):
        os.rename(target, old)
    try:
        os.rename(folder, target)
    except OSError:
        if os.path.lexists(old):
            os.rename(old, target)
        raise
    flush_folder(os.path.dirname(target) or ".")
    shutil.rmtree(old, ignore_errors=True)


def is_complete(folder: str) -> bool:
    """Whether the stage that fills a folder has finished it."""
    return os.path.exists(os.path.join(folder, COMPLETED_FILE))


def remove_temporaries(folder: str) -> None:
    """Removes what killed processes left unfinished in a folder that only the caller writes to."""
    for name in os.listdir(folder):
        if TEMPORARY_MARK in name:
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.remove(path)


def _temporary_name(path: str) -> str:
    # Not by process id: two containers on one volume may have the same.
    return f"{path}{TEMPORARY_MARK}{uuid.uuid4().hex}"


def flush_tree(folder: str) -> None:
    """Flushes every file below a folder, then the folders, the innermost first."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        flush_folder(parent)


def flush_folder(path: str) -> None:
    """Flushes the names in a folder, so that what was made or renamed in it last stays so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(descriptor)


def read_json(path: str) -> dict[str, Any]:
    """Returns the JSON object that a file holds; an empty one if it can't be read."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def hash_file(path: str) -> str:
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds_saved_model(folder: str) -> bool:
    """Returns whether a folder holds an exported model, as a version in the registry does."""
    return os.path.exists(os.path.join(folder, "saved_model.pb"))


def version_number(folder: str) -> int | None:
    """Returns the number by which a version's folder is named; None if its name is not one."""
    name = os.path.basename(os.path.normpath(folder))
    return int(name) if name.isdecimal() else None
