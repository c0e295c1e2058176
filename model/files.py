"""Files and folders that a reader sees whole or not at all, flushed to disk. No TensorFlow here."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import uuid
from typing import Any

_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS}
"""How file systems (some network ones) refuse to flush a folder."""


def write_whole(path: str, content: str | bytes, *, flush: bool = True) -> None:
    """Writes a file, text as UTF-8, under another name, then renames it; replaces an older one.

    Args:
      path: the file.
      content: all that it will hold.
      flush: whether it must outlive a power failure; scratch files need not.
    """
    data = content.encode() if isinstance(content, str) else content
    # Not by process id: two containers on one volume may have the same.
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
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


def publish_folder(folder: str, target: str) -> None:
    """Gives a finished folder its name, with all that it holds flushed to disk.

    Args:
      folder: the finished folder, on the same file system as `target`.
      target: its new name; nothing, or an empty folder, has it yet.

    Raises:
      OSError: `target` exists and is not empty, or the disk can't be written.
    """
    flush_tree(folder)
    os.rename(folder, target)
    flush_folder(os.path.dirname(target) or ".")


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
