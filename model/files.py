"""Writes files and folders atomically, flushed to disk. No TensorFlow here."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO

from model.errors import InputError

_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS}
"""Errors of file systems (some network ones) that refuse to flush a folder."""


COMPLETED_FILE = "COMPLETED"
"""Marker file that a stage writes last; without it the folder is not finished."""

TEMPORARY_MARK = ".tmp-"
"""Separates the final name from a random number in the names of unfinished files and folders."""

STALE_SECONDS = 24 * 3600
"""Age from which an unfinished folder counts as left behind, if nobody holds its lock."""

_LOST_AND_FOUND = "lost+found"
"""Folder in the root of an empty ext4 file system."""

_unfinished: dict[str, Callable[[], None]] = {}
"""Temporary files and folders of this process, and what to do about each at the end."""
os.register_at_fork(after_in_child=_unfinished.clear)


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed because the disk or quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: str, content: str | bytes, *, flush: bool = True) -> None:
    """Writes a file like `whole_file`, text as UTF-8."""
    with whole_file(path, flush=flush) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: str, *, flush: bool = True) -> Iterator[BinaryIO]:
    """Yields a temporary file; renames it to `path` on success, deletes it on failure.

    Args:
      path: the file; an older one is replaced.
      flush: whether it must survive a power failure; scratch files need not.
    """
    with removed_at_end(_temporary_name(path)) as temporary:
        with open(temporary, "wb") as file:
            yield file
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    if flush:
        flush_folder(os.path.dirname(path) or ".")


@contextlib.contextmanager
def temporary_folder(target: str) -> Iterator[str]:
    """Yields a new folder for `publish_folder` to turn into `target`; deletes it otherwise.

    It lies beside `target`, or in it if that folder can't be renamed, such as a mount point. A lock
    on it shows that this process still works on it; earlier ones that nobody works on are deleted.
    """
    place = os.path.join(target, "") if is_fixed(target) else os.path.normpath(target)
    _remove_abandoned(place)
    with removed_at_end(_temporary_name(place)) as folder:
        os.makedirs(folder)
        with _locked_folder(folder):
            yield folder


def _remove_abandoned(place: str) -> None:
    """Removes what killed processes left of their temporary folders for the same target."""
    parent, name = os.path.split(place)
    pattern = re.compile(re.escape(name + TEMPORARY_MARK) + "[0-9a-f]{32}")
    with contextlib.suppress(OSError):  # there may be no such folder yet
        for entry in filter(pattern.fullmatch, os.listdir(parent or ".")):
            path = os.path.join(parent, entry)
            with _locked_folder(path) as is_free:
                if is_free and is_stale(path):
                    remove_path(path)


@contextlib.contextmanager
def _locked_folder(path: str) -> Iterator[bool]:
    """Locks a folder during the block; yields whether that succeeded.

    It does not if another process holds the lock, or where folders can't be locked, as on NFS.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_held = True
    except OSError:
        is_held = False
    try:
        yield is_held
    finally:
        os.close(descriptor)


def is_stale(folder: str) -> bool:
    """Whether nothing was created or removed in a folder for `STALE_SECONDS`.

    Where two machines don't see each other's locks, this is what keeps a folder in use.
    """
    times = [os.stat(parent).st_mtime for parent, _, _ in os.walk(folder)]
    return bool(times) and time.time() - max(times) > STALE_SECONDS


@contextlib.contextmanager
def scratch_folder(parent: str = "") -> Iterator[str]:
    """Yields a new folder in `parent`, or in the system's temporary one; deletes it at the end."""
    name = f"charloom-{uuid.uuid4().hex}"
    with removed_at_end(os.path.join(parent or tempfile.gettempdir(), name)) as folder:
        os.mkdir(folder, 0o700)
        yield folder


@contextlib.contextmanager
def removed_at_end(path: str) -> Iterator[str]:
    """Yields the path of a temporary file or folder; at the end removes it, if it is there."""
    with _undone_at_end(path, functools.partial(remove_path, path)):
        yield path


@contextlib.contextmanager
def _undone_at_end(path: str, undo: Callable[[], None]) -> Iterator[None]:
    """Calls a function at the end of the block, or in `remove_unfinished`."""
    _unfinished[path] = undo  # first: a signal may come at any time
    try:
        yield
    finally:
        undo()
        _unfinished.pop(path, None)


def remove_unfinished() -> None:
    """Removes all temporary files and folders of this process, which is about to end.

    Callable from any thread and from signal handlers. A folder that was moved away to be replaced
    gets its name back, if nothing has that name yet.
    """
    for path, undo in list(_unfinished.items()):
        undo()
        _unfinished.pop(path, None)


def list_entries(folder: str) -> list[str]:
    """Returns what a folder holds, except for what file systems and killed processes leave in it."""
    return [
        name
        for name in os.listdir(folder)
        if name != _LOST_AND_FOUND and not name.startswith(TEMPORARY_MARK)
    ]


def is_fixed(folder: str) -> bool:
    """Whether a folder exists that may be filled, but not renamed or replaced by another."""
    if not os.path.isdir(folder):
        return False
    parent = os.path.dirname(os.path.realpath(folder))
    above, user = os.stat(parent), os.geteuid()
    is_sticky = above.st_mode & stat.S_ISVTX  # as /tmp: only owners may rename
    return (
        _is_mount_point(folder)
        or not os.access(parent, os.W_OK | os.X_OK)
        or bool(is_sticky and user not in (0, above.st_uid, os.stat(folder).st_uid))
        or bool(os.listdir(folder) and not list_entries(folder))
    )


def _is_mount_point(folder: str) -> bool:
    if os.path.ismount(folder):
        return True
    try:  # a folder of the same file system may be mounted there, which only this file tells
        with open("/proc/self/mountinfo", "rb") as file:
            points = [line.split(b" ")[4] for line in file]
    except OSError:
        return False
    path = os.fsencode(os.path.realpath(folder))
    return path in (re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), p) for p in points)


def publish_folder(
    folder: str, target: str, *, marker: str | None = None, replace: bool = False
) -> None:
    """Flushes a finished folder to disk and renames it to `target`.

    If `temporary_folder` has placed it inside `target`, its content is moved into that instead, the
    marker last.

    Args:
      folder: the finished folder, on the same file system as `target`.
      target: its new name.
      marker: content of `COMPLETED`, which is written last; None: no such file.
      replace: whether to remove existing content of `target`; it stays if the renaming fails.

    Raises:
      OSError: `target` is not empty and `replace` is false, or the disk can't be written.
    """
    flush_tree(folder)
    if marker is not None:
        write_whole(os.path.join(folder, COMPLETED_FILE), marker)
    if os.path.normpath(os.path.dirname(folder)) == os.path.normpath(target):
        _move_up(folder, target, replace=replace)
        return
    with _moved_away(target) if replace else contextlib.nullcontext():
        os.rename(folder, target)
        flush_folder(os.path.dirname(target) or ".")


@contextlib.contextmanager
def _moved_away(target: str) -> Iterator[None]:
    """Gives a folder another name; at the end deletes it, or renames it back if not replaced."""
    if not os.path.lexists(target):
        yield
        return
    old = _temporary_name(target)

    def settle() -> None:
        if os.path.lexists(target):
            remove_path(old)
        else:
            with contextlib.suppress(OSError):
                os.rename(old, target)

    with _undone_at_end(old, settle):
        os.rename(target, old)
        yield


def _move_up(folder: str, target: str, *, replace: bool) -> None:
    """Moves what a folder holds into its parent, the marker last; all of it or nothing."""
    old = list_entries(target)
    if old and not replace:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
    names = sorted(os.listdir(folder), key=lambda name: name == COMPLETED_FILE)
    is_done = False

    def undo() -> None:
        if not is_done:
            for name in reversed(names):
                remove_path(os.path.join(target, name))

    for name in sorted(old, key=lambda name: name != COMPLETED_FILE):
        remove_path(os.path.join(target, name))
    with _undone_at_end(os.path.join(target, COMPLETED_FILE), undo):
        for name in names:
            if name == COMPLETED_FILE:
                flush_folder(target)
            os.rename(os.path.join(folder, name), os.path.join(target, name))
        flush_folder(target)
        is_done = True


def is_complete(folder: str) -> bool:
    """Whether a folder's stage has finished it."""
    return os.path.exists(os.path.join(folder, COMPLETED_FILE))


def remove_temporaries(folder: str) -> None:
    """Removes what killed processes left unfinished; only the caller may write to the folder."""
    for name in os.listdir(folder):
        if TEMPORARY_MARK in name:
            remove_path(os.path.join(folder, name))


def remove_path(path: str) -> None:
    """Removes a file, a link or a folder with all it holds, if it is there and can be removed."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.remove(path)


def _temporary_name(path: str) -> str:
    # Not by process id: two containers on one volume may share it.
    return f"{path}{TEMPORARY_MARK}{uuid.uuid4().hex}"


def flush_tree(folder: str) -> None:
    """Flushes every file below a folder, then the folders, innermost first."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        flush_folder(parent)


def flush_folder(path: str) -> None:
    """Flushes a folder's entries, so that recently created or renamed names persist."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(descriptor)


def lock_file(file: IO[Any], *, wait: bool = True) -> bool:
    """Locks an open file; the lock ends when it is closed, or with the process.

    Args:
      file: the open file.
      wait: whether to wait for another process that holds the lock.

    Returns:
      Whether the lock is held: always, with `wait`.

    Raises:
      InputError: the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        folder = os.path.dirname(os.path.abspath(file.name))
        raise InputError(
            f"files in {folder} can't be locked ({error.strerror}); choose a folder on a local "
            "disk, or mount that one with locks (NFS: vers=4 or local_lock=flock, Lustre: flock)"
        ) from None
    return True


def read_json(path: str) -> dict[str, Any]:
    """Returns the JSON object in a file; an empty one if it can't be read."""
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
    """Returns whether a folder holds an exported model, as registry versions do."""
    return os.path.exists(os.path.join(folder, "saved_model.pb"))


def version_number(folder: str) -> int | None:
    """Returns the version number in a folder's name; None if there is none."""
    name = os.path.basename(os.path.normpath(folder))
    return int(name) if name.isdecimal() else None
