"""Finds the input files and opens them, plain or compressed, here or in an object store; no TensorFlow."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import errno
import glob
import hashlib
import io
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from components.preprocess.packed import DamagedError, open_packed
from model.config import DataConfig
from model.errors import InputError

_UTF8 = ("utf-8", "utf-8-sig")


class UnsteadyError(OSError):
    """A file that could be read another time: its store is out of reach, or it has changed."""

    def __init__(self, text: str):
        """Keeps what is wrong."""
        super().__init__(errno.EIO, text)


class Found(NamedTuple):
    """A file as it was listed."""

    path: str
    size: int
    modified: int
    """When its content last changed, in nanoseconds; of whole seconds in some stores."""


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One file of the corpus.

    Attributes:
      path: where it is.
      name: its path below the folder that all inputs share, with `/`; this name, not
        the path, decides its order and its split, so that another checkout gives the
        same records.
      size: its bytes.
      split: where all its records go; empty if a hash chooses for each of them.
      modified: when its content last changed, in nanoseconds.
    """

    path: str
    name: str
    size: int
    split: str = ""
    modified: int = 0

    @property
    def full_name(self) -> str:
        """The name, after the split if one is given."""
        return f"{self.split}:{self.name}" if self.split else self.name


def find_files(
    inputs: Sequence[str] = (),
    *,
    train: Sequence[str] = (),
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
) -> list[InputFile]:
    """Lists the files that inputs name, each once, in the order of their names.

    Args:
      inputs: files, glob patterns (`**` crosses folders) or folders; a folder stands
        for all files below it, hidden ones left out. `@FILE` stands for those that a file
        lists, one a line.
      train: in place of `inputs`, those of the training split.
      valid: those of the validation split.
      test: those of the test split.

    Raises:
      InputError: an input gives no file, or gives something that is no readable file, or a
        file is named for two splits.
    """
    given = {"input": inputs, "train": train, "valid": valid, "test": test}
    used = [f"--{flag}" for flag, patterns in given.items() if patterns]
    if not used:
        raise InputError(
            "no input given; name files, glob patterns or folders with --input, or those of each "
            "split with --train, --valid and --test"
        )
    if inputs and len(used) > 1:
        raise InputError(
            f"--input and {used[1]} exclude each other; name all text with --input, or that of "
            "each split with --train, --valid and --test"
        )
    if not inputs and not train:
        raise InputError(f"{used[0]} is given without --train; name the training text, too")
    found: dict[str, tuple[Found, str]] = {}
    for flag, patterns in given.items():
        for file in _find_all(patterns, flag):
            place = file.path if is_remote(file.path) else os.path.abspath(file.path)
            _, other = found.setdefault(place, (file, flag))
            if other != flag:
                raise InputError(f"{file.path} is named for --{other} and for --{flag}; choose one")
    root = _common_folder(list(found))
    files = [
        InputFile(
            path=file.path,
            name=_relative_name(place, root),
            size=file.size,
            split="" if flag == "input" else flag,
            modified=file.modified,
        )
        for place, (file, flag) in found.items()
    ]
    return sorted(files, key=lambda file: file.name)


def exists(pattern: str) -> bool:
    """Returns whether there is anything that a pattern matches, or the list that it names.

    Raises:
      InputError: a store can't be asked.
    """
    pattern = pattern.removeprefix("@")
    if is_remote(pattern):
        return bool(_match_remote(pattern))
    return bool(_match(pattern))


def _find_all(patterns: Sequence[str], flag: str) -> Iterator[Found]:
    for pattern in patterns:
        if not pattern.startswith("@"):
            yield from _find(pattern, f"--{flag} {pattern!r}")
            continue
        for number, line in _read_list(pattern[1:], flag):
            yield from _find(line, f"line {number} of the list {pattern[1:]} ({line!r})")


def _find(pattern: str, shown: str) -> Iterator[Found]:
    """Yields what a pattern matches; `shown` says where it comes from."""
    if is_remote(pattern):
        found = iter(_match_remote(pattern))
    else:
        found = (_look_at(path) for match in _match(pattern) for path in _below(match))
    first = next(found, None)
    if first is None:
        raise InputError(f"no file matches {shown}; check the path and the pattern")
    yield first
    yield from found


def _read_list(path: str, flag: str) -> list[tuple[int, str]]:
    """Returns the lines of a list of files that name any, with their numbers from 1."""
    try:
        with open_file(path) as file:
            data = file.read()
    except (OSError, DamagedError) as error:
        detail = getattr(error, "strerror", None) or error
        raise InputError(
            f"--{flag} @{path}: the list can't be read ({detail}); check its path, or write ./@... "
            "for a file of such a name"
        ) from None
    lines = []
    for number, raw in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        line = os.fsdecode(raw.strip())
        if not line or line.startswith("#"):
            continue
        if "\0" in line or line.startswith("@"):
            raise InputError(
                f"line {number} of the list {path} is no path; a list has text files, folders or "
                "patterns, one a line"
            )
        lines.append((number, line))
    if not lines:
        raise InputError(f"the list {path} names no file; write one path or pattern a line")
    return lines


def _match(pattern: str) -> list[str]:
    if os.path.lexists(pattern):
        return [pattern]
    return sorted(glob.glob(pattern, recursive=True))


def _match_remote(pattern: str) -> list[Found]:
    from components.preprocess import remote  # Beam takes a while

    return remote.match(pattern)


def is_remote(path: str) -> bool:
    """Returns whether a path or pattern names a place in an object store."""
    return "://" in path


def is_utf8(config: DataConfig) -> bool:
    """Returns whether text is in UTF-8, whatever name it is given."""
    return codecs.lookup(config.encoding).name in _UTF8


@contextlib.contextmanager
def open_file(path: str, *, size: int | None = None, modified: int = 0) -> Iterator[BinaryIO]:
    """Opens a file for reading, decompressed, for the length of a block.

    Args:
      path: where it is.
      size: its bytes as it was listed; None: whatever is there is meant.
      modified: when it was last changed, as it was listed.

    Raises:
      UnsteadyError: it is in a store, and can't be read for now or is not what was listed;
        some come at the end of the block.
      OSError: it can't be read.
      DamagedError: it is packed and damaged; raised by `read`.
    """
    if not is_remote(path):
        with open(path, "rb") as raw:
            yield open_packed(path, raw)
        return
    from components.preprocess import remote  # Beam takes a while

    with remote.open_remote(path, size=size, modified=modified) as file:
        try:
            yield open_packed(path, io.BufferedReader(file, remote.BUFFER_BYTES))
        except UnsteadyError:
            raise
        except Exception:  # another file in its place may be the cause
            file.check_unchanged()
            raise
        file.check_unchanged()


def _below(path: str) -> list[str]:
    """Returns the files below a folder; a file is returned as it is."""
    if not os.path.isdir(path):
        return [path]
    found: list[str] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} can't be read ({error.strerror}); leave it out")

    for folder, folders, names in os.walk(path, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(folder, name) for name in names if not name.startswith(".")]
    return found


def _common_folder(places: Sequence[str]) -> str:
    """Returns the folder that holds all of some paths or addresses, with a slash at its end."""
    if len({place.partition("://")[0] if is_remote(place) else "" for place in places}) > 1:
        raise InputError(
            "the input lies partly here and partly in an object store, or in two; bring it to one place"
        )
    # The first and the last share what all share. An address may have empty parts: no os.path.
    first, last = (place.split("/")[:-1] for place in (min(places), max(places)))
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(f"{part}/" for part, _ in shared)


def _relative_name(place: str, root: str) -> str:
    return os.fsencode(place.removeprefix(root)).decode("utf-8", "backslashreplace")


def _look_at(path: str) -> Found:
    """Returns what is known of a file that can be read twice."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is no regular file; copy its content to a file first")
        with open(path, "rb"):
            return Found(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); leave it out") from None


def fingerprint(names: Sequence[str], hashes: Sequence[str]) -> str:
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
