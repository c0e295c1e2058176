"""Scratch folders that a later process removes if theirs was killed. No TensorFlow here."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator

from model.files import removed_at_end

PREFIX = "charloom-run-"
LOCK_FILE = ".lock"


@contextlib.contextmanager
def swept_folder() -> Iterator[str]:
    """Yields a folder for intermediate files; removes it at the end, and those of dead processes.

    A lock on a file in it, which ends with the process, shows that it is in use.
    """
    sweep_scratch()
    with removed_at_end(
        os.path.join(tempfile.gettempdir(), f"{PREFIX}{uuid.uuid4().hex}")
    ) as folder:
        os.mkdir(folder, 0o700)
        lock = os.path.join(folder, LOCK_FILE)
        with open(f"{lock}.new", "w", encoding="utf-8") as file:
            with contextlib.suppress(OSError):  # no locks here: a sweep leaves it
                fcntl.flock(file, fcntl.LOCK_EX)
            os.rename(f"{lock}.new", lock)  # it never has this name without being locked
            yield folder


def sweep_scratch() -> None:
    """Removes the scratch folders whose processes have ended; those of other users stay."""
    top = tempfile.gettempdir()
    for name in os.listdir(top):
        path = os.path.join(top, name)
        if name.startswith(PREFIX) and not _is_in_use(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_in_use(folder: str) -> bool:
    try:
        if os.lstat(folder).st_uid != os.getuid():
            return True
        with open(os.path.join(folder, LOCK_FILE), "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, being made, or without locks
        return True
    return False
