"""Files that a reader sees whole or not at all. No TensorFlow here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid


def write_whole(path: str, text: str) -> None:
    """Writes a UTF-8 text file under another name, then renames it; replaces an older one."""
    # Not by process id: two containers on one volume may have the same.
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def hash_file(path: str) -> str:
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
