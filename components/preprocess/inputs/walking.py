"""Expands patterns and folders of this machine into files; no TensorFlow.

As `glob` does, but each real folder is visited once, so that links that lead back up end, and
folders that charloom made are left out.
"""

from __future__ import annotations

import collections
import fnmatch
import os
import re
from collections.abc import Iterator

from model.errors import InputError
from model.files import COMPLETED_FILE, TEMPORARY_MARK

MAGIC = re.compile(r"[*?[]")
"""What makes a name a pattern."""

_VERSION_FILES = ("MANIFEST.json", "saved_model.pb")
"""Both are in a published version, whose marker is the first."""

_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_MARK)}[0-9a-f]+$")


class Walker:
    """Lists files below folders.

    Attributes:
      left_out: folders that were skipped because charloom made them.
    """

    def __init__(self, output: str = ""):
        """Takes the folder that is to be made of the files; empty: none."""
        self._output = os.path.realpath(output) if output else ""
        self.left_out: dict[str, None] = {}

    def files(self, pattern: str) -> Iterator[str]:
        """Yields the files that a file name, folder or pattern gives; some more than once.

        Raises:
          InputError: the pattern itself names what charloom made, or a folder can't be read.
        """
        if os.path.lexists(pattern):
            self._refuse_own(pattern)
            yield from self._below(pattern) if os.path.isdir(pattern) else [pattern]
            return
        fixed, parts = split_fixed(pattern)
        self._refuse_own(fixed or ".")
        for path in self._match(fixed, parts):
            if not os.path.isdir(path):
                yield path
            elif not self._skips(path):
                yield from self._below(path)

    def _match(self, base: str, parts: list[str]) -> Iterator[str]:
        """Yields what the parts of a pattern match below a folder."""
        part, rest = parts[0], parts[1:]
        if part == "**":
            while rest[:1] == ["**"]:
                rest = rest[1:]
            if not rest:
                yield from self._below(base) if os.path.isdir(base or ".") else []
                return
            for folder in self._folders(base, strict=False):
                yield from self._match(folder, rest)
            return
        for path in _children(base, part):
            if not rest:
                yield path
            elif os.path.isdir(path) and not self._skips(path):
                yield from self._match(path, rest)

    def _below(self, base: str) -> Iterator[str]:
        for folder in self._folders(base, strict=True):
            names, folders = _scan(folder, strict=True)
            yield from (os.path.join(folder, name) for name in names if name not in folders)

    def _folders(self, base: str, *, strict: bool) -> Iterator[str]:
        """Yields a folder and all below it, those that are reached without a link first."""
        seen: set[str] = set()
        starts = collections.deque([base])
        while starts:
            links: list[str] = []
            waiting = [starts.popleft()]
            while waiting:
                folder = waiting.pop()
                real = os.path.realpath(folder)
                if real in seen:
                    continue
                seen.add(real)
                yield folder
                for name, is_link in sorted(_scan(folder, strict=strict)[1].items()):
                    path = os.path.join(folder, name)
                    if not self._skips(path):
                        (links if is_link else waiting).append(path)
            starts.extend(sorted(links))

    def _skips(self, folder: str) -> bool:
        """Returns whether a folder that was come across is none of the text."""
        skipped = bool(_TEMPORARY.search(folder.rstrip("/")) or self._why_own(folder))
        if skipped:
            self.left_out[folder] = None
        return skipped

    def _why_own(self, folder: str) -> str:
        """Returns why a folder counts as made by charloom; nothing if it does not."""
        if os.path.lexists(os.path.join(folder, COMPLETED_FILE)):
            return f"holds {COMPLETED_FILE}"
        if all(os.path.lexists(os.path.join(folder, name)) for name in _VERSION_FILES):
            return f"holds {_VERSION_FILES[0]}"
        real = os.path.realpath(folder)
        if self._output and (
            real == self._output or real.startswith(self._output + TEMPORARY_MARK)
        ):
            return "is what the records are written to"
        return ""

    def _refuse_own(self, path: str) -> None:
        """Raises InputError if a path that a user named is or lies in what charloom made."""
        folder = os.path.realpath(path)
        while True:
            if why := self._why_own(folder):
                raise InputError(
                    f"{path} is output of charloom, not text ({folder} {why}); name the text, "
                    "or move it elsewhere"
                )
            above = os.path.dirname(folder)
            if above == folder:
                return
            folder = above


def split_fixed(pattern: str) -> tuple[str, list[str]]:
    """Splits a pattern into the folder before its first wildcard, with a slash, and the parts after."""
    found = MAGIC.search(pattern)
    begin = pattern.rfind("/", 0, found.start() if found else len(pattern)) + 1
    return pattern[:begin], pattern[begin:].split("/")


def _children(base: str, part: str) -> list[str]:
    """Returns what one part of a pattern matches in a folder."""
    if not MAGIC.search(part):
        path = os.path.join(base, part)
        return [path] if os.path.lexists(path) else []
    names, _ = _scan(base, strict=False, hidden=part.startswith("."))
    return [os.path.join(base, name) for name in names if fnmatch.fnmatchcase(name, part)]


def _scan(folder: str, *, strict: bool, hidden: bool = False) -> tuple[list[str], dict[str, bool]]:
    """Returns the names in a folder, sorted, and which are folders -> whether through a link.

    Names alone, because an entry of `os.scandir` takes four times the memory.
    """
    names, folders = [], {}
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if hidden or not entry.name.startswith("."):
                    names.append(entry.name)
                    if entry.is_dir():
                        folders[entry.name] = entry.is_symlink()
    except OSError as error:
        if strict:
            raise InputError(
                f"{folder or '.'} can't be read ({error.strerror}); leave it out"
            ) from None
        return [], {}
    return sorted(names), folders
