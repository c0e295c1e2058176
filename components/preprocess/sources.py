"""Finds the input files and opens them, plain or compressed, here or in an object store; no TensorFlow."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import dataclasses
import glob
import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import zstandard

from model.config import DataConfig
from model.errors import InputError

_DECOMPRESSORS: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".zst": lambda raw: _ZstandardFile(raw),
}
DAMAGES = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
"""What reading a damaged compressed file may raise; bz2 raises an OSError without a number."""

_UTF8 = ("utf-8", "utf-8-sig")


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
    """

    path: str
    name: str
    size: int
    split: str = ""

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
        for all files below it, hidden ones left out.
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
    found: dict[str, tuple[str, str, int | None]] = {}
    for flag, patterns in given.items():
        for path, size in _list_paths(patterns, flag):
            place = path if is_remote(path) else os.path.abspath(path)
            _, other, _ = found.setdefault(place, (path, flag, size))
            if other != flag:
                raise InputError(f"{path} is named for --{other} and for --{flag}; choose one")
    root = _common_folder([os.path.dirname(path) for path in found])
    files = [
        InputFile(
            path=shown,
            name=_relative_name(path, root),
            size=_check_readable(shown) if size is None else size,
            split="" if flag == "input" else flag,
        )
        for path, (shown, flag, size) in found.items()
    ]
    return sorted(files, key=lambda file: file.name)


def _list_paths(patterns: Sequence[str], flag: str) -> Iterator[tuple[str, int | None]]:
    """Yields paths, and their sizes where they are known already."""
    for pattern in patterns:
        found: list[tuple[str, int | None]]
        if is_remote(pattern):
            from components.preprocess import remote  # Beam takes a while

            found = list(remote.match(pattern))
        else:
            found = [(path, None) for match in _match(pattern) for path in _below(match)]
        if not found:
            raise InputError(
                f"no file matches --{flag} {pattern!r}; check the path and the pattern"
            )
        yield from found


def _match(pattern: str) -> list[str]:
    if os.path.lexists(pattern):
        return [pattern]
    return sorted(glob.glob(pattern, recursive=True))


def is_remote(path: str) -> bool:
    """Returns whether a path or pattern names a place in an object store."""
    return "://" in path


def is_compressed(path: str) -> bool:
    """Returns whether a file's name says that it is compressed."""
    return os.path.splitext(path)[1].lower() in _DECOMPRESSORS


def is_utf8(config: DataConfig) -> bool:
    """Returns whether text is in UTF-8, whatever name it is given."""
    return codecs.lookup(config.encoding).name in _UTF8


@contextlib.contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """Opens a file for reading, decompressed, for the length of a block.

    Raises:
      OSError: it can't be read; some of `DAMAGES` come when it is read.
    """
    if is_remote(path):
        from components.preprocess import remote  # Beam takes a while

        raw = remote.open_remote(path)
    else:
        raw = open(path, "rb")
    ending = os.path.splitext(path)[1].lower()
    with contextlib.closing(raw):
        yield _DECOMPRESSORS[ending](raw) if ending in _DECOMPRESSORS else raw


class _ZstandardFile:
    """Reads frames of Zstandard, one after the other; zstandard's own reader overlooks a cut."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._buffer, self._at = b"", 0
        self._inside = False

    def read(self, size: int = -1) -> bytes:
        """Returns up to `size` bytes, all that are left if it is negative; none at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        while self._at == len(self._buffer):
            packed = self._raw.read(1 << 17)
            if not packed:
                if self._inside:
                    raise EOFError("ends inside a frame")
                return b""
            self._buffer, self._at = self._unpack(packed), 0
        part = self._buffer[self._at : self._at + size]
        self._at += len(part)
        return part

    def _unpack(self, packed: bytes) -> bytes:
        parts = []
        while packed:
            parts.append(self._frame.decompress(packed))
            self._inside = not self._frame.eof
            packed = b"" if self._inside else self._frame.unused_data
            if not self._inside:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
        return b"".join(parts)


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


def _common_folder(folders: Sequence[str]) -> str:
    if len({folder.partition("://")[0] for folder in folders if is_remote(folder)}) > 1 or (
        len({is_remote(folder) for folder in folders}) > 1
    ):
        raise InputError(
            "the input lies partly here and partly in an object store, or in two; bring it to one place"
        )
    return os.path.commonpath(folders)


def _relative_name(path: str, root: str) -> str:
    name = os.path.relpath(path, root).replace(os.sep, "/")
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _check_readable(path: str) -> int:
    """Returns the bytes of a file that can be read twice."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is no regular file; copy its content to a file first")
        with open(path, "rb"):
            return status.st_size
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
