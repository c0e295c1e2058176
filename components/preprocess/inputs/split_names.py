"""Gives files their names: what decides their order, their sources and their splits.

A name is the path below the fixed part of the pattern that gave the file, below `/./` in it, or
below `--source-root`. So it depends on no other file, and on no date that was filled in.
"""

from __future__ import annotations

import os
import re

from components.preprocess.sources.files import is_remote
from model.errors import InputError

MARK = "/./"
"""In a pattern: names begin after it, as with rsync."""

_VARIABLE = re.compile(r"[*?[]|\{date:")


def split_mark(pattern: str) -> tuple[str, str | None]:
    """Returns a pattern without its mark, and the folder below which names begin.

    The folder ends in a slash; it is None if there is no mark.
    """
    scheme, body = _split_scheme(pattern)
    if scheme and body.startswith("./"):
        return scheme + body[2:], scheme
    head, mark, tail = body.partition(MARK)
    if not mark:
        return pattern, None
    return f"{scheme}{head}/{tail}", f"{scheme}{head}/"


def mark_root(pattern: str) -> str:
    """Marks in a pattern where its names begin: at the part with its first wildcard or date.

    A pattern that has a mark, or names a list, is returned as it is.
    """
    if pattern.startswith("@") or split_mark(pattern)[1] is not None:
        return pattern
    scheme, body = _split_scheme(pattern)
    found = _VARIABLE.search(body)
    slash = body.rfind("/", 0, found.start() if found else len(body))
    if slash < 0:
        return f"{scheme}./{body}" if scheme else f".{MARK}{body}"
    return f"{scheme}{body[:slash]}{MARK}{body[slash + 1 :]}"


def name_below(path: str, root: str, *, shown: str) -> str:
    """Returns the name of a file: its path below a folder, with `/`.

    Args:
      path: where it is.
      root: a folder here, or the beginning of an address.
      shown: what gave the folder, for the message.

    Raises:
      InputError: the file lies outside the folder.
    """
    place, folder = find_place(path), find_place(root).rstrip("/") + "/"
    if is_remote(root) and root.endswith("://"):
        folder = root
    if not place.startswith(folder):
        raise InputError(f"{path} lies outside {shown} {root}; name a folder that holds all text")
    return os.fsencode(place.removeprefix(folder)).decode("utf-8", "backslashreplace")


def find_place(path: str) -> str:
    """Returns an address, or the absolute path of what is here; links are left as they are."""
    place = path if is_remote(path) else os.path.abspath(path)
    return path if place == path else place  # the same object: there may be millions


def _split_scheme(pattern: str) -> tuple[str, str]:
    scheme, mark, body = pattern.partition("://")
    return (f"{scheme}://", body) if mark else ("", pattern)
