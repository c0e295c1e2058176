"""Files that a reader sees whole or not at all. No TensorFlow here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid


def write_whole(path: str, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, under another name, then renames it; replaces an older one."""
    data = content.encode() if isinstance(content, str) else content
    # Not by process id: two containers on one volume may have the same.
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def hash_file(path: str) -> str:
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
