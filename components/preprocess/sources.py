"""Finds the input files, reads them as text and gives their lines; no TensorFlow, no Beam."""

from __future__ import annotations

import codecs
import dataclasses
import glob
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence

from model.config import DataConfig
from model.errors import InputError

BLOCK_BYTES = 1 << 20
"""Lines are handed on in blocks of about this many bytes."""

_LINE_END = re.compile(rb"\r\n?|\n")
_SURROGATES = re.compile("[\ud800-\udfff]")
_BOM = "\ufeff".encode()
_REPLACEMENT = "\ufffd"
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
    found: dict[str, tuple[str, str]] = {}
    for flag, patterns in given.items():
        for path in _list_paths(patterns, flag):
            _, other = found.setdefault(os.path.abspath(path), (path, flag))
            if other != flag:
                raise InputError(f"{path} is named for --{other} and for --{flag}; choose one")
    root = os.path.commonpath([os.path.dirname(path) for path in found])
    files = [
        InputFile(
            path=shown,
            name=_relative_name(path, root),
            size=_check_readable(shown),
            split="" if flag == "input" else flag,
        )
        for path, (shown, flag) in found.items()
    ]
    return sorted(files, key=lambda file: file.name)


def _list_paths(patterns: Sequence[str], flag: str) -> Iterator[str]:
    for pattern in patterns:
        paths = [path for match in _match(pattern) for path in _below(match)]
        if not paths:
            raise InputError(
                f"no file matches --{flag} {pattern!r}; check the path and the pattern"
            )
        yield from paths


def _match(pattern: str) -> list[str]:
    if os.path.lexists(pattern):
        return [pattern]
    return sorted(glob.glob(pattern, recursive=True))


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


class BadTextError(Exception):
    """A file that is no text.

    Attributes:
      reason: `empty`, `blank`, `binary` or `undecodable`.
      offset: byte offset of what is wrong.
      detail: what is wrong there.
    """

    def __init__(self, reason: str, offset: int = 0, detail: str = ""):
        """Keeps its arguments."""
        super().__init__(reason, offset, detail)
        self.reason = reason
        self.offset = offset
        self.detail = detail


@dataclasses.dataclass(frozen=True)
class SourceText:
    """The text of a file.

    Attributes:
      data: its bytes, as UTF-8.
      start: where its first line begins in `data`; not 0 after a byte order mark.
      stray: undecodable places of the file. In `data` that was not decoded they are
        replaced line by line, so that offsets stay those of the file.
    """

    data: bytes
    start: int = 0
    stray: int = 0

    def blocks(self) -> Iterator[tuple[list[bytes], list[int]]]:
        r"""Yields blocks of whole lines: the lines, and the offset in `data` of each.

        A line ends at `\n`, `\r\n` or `\r`, which is not part of it.
        """
        begin = self.start
        while begin < len(self.data):
            found = _LINE_END.search(self.data, begin + BLOCK_BYTES)
            end = found.end() if found else len(self.data)
            # Unlike that of str, bytes.splitlines splits at \n, \r\n and \r only.
            raw = self.data[begin:end].splitlines(keepends=True)
            offsets = list(itertools.accumulate(map(len, raw), initial=begin))[:-1]
            lines = [line.rstrip(b"\r\n") for line in raw]
            if self.stray:
                lines = [line.decode("utf-8", "replace").encode() for line in lines]
            yield lines, offsets
            begin = end


def read_file(path: str) -> tuple[bytes, str]:
    """Returns a file's bytes and their SHA-256."""
    with open(path, "rb") as file:
        data = file.read()
    return data, hashlib.sha256(data).hexdigest()


def fingerprint(names: Sequence[str], hashes: Sequence[str]) -> str:
    """Returns one SHA-256 over the files' full names and the hashes of their contents."""
    rows = "".join(f"{sha256}  {name}\n" for name, sha256 in zip(names, hashes, strict=True))
    return hashlib.sha256(rows.encode()).hexdigest()


def decode_text(data: bytes, config: DataConfig) -> SourceText:
    """Reads the bytes of a file as text.

    A byte order mark is dropped. Offsets are those of the file where its encoding is
    UTF-8, else those of the decoded text written as UTF-8.

    Raises:
      BadTextError: it is empty, binary, or not of `config.encoding`, bad bytes not being
        replaced and too many to be `config.max_stray_bytes`.
    """
    if not data:
        raise BadTextError("empty")
    codec = codecs.lookup(config.encoding).name
    if b"\0" not in "\n".encode(codec):  # else NUL bytes are part of the encoding
        _check_binary(data)
    if codec in _UTF8:
        return SourceText(data=data, start=_text_start(data), stray=_count_stray(data, config))
    text, stray = _decode(data, codec, config)
    _check_binary(text)
    return SourceText(data=text, start=_text_start(text), stray=stray)


def _check_binary(data: bytes) -> None:
    nul = data.find(b"\0")
    if nul >= 0:
        raise BadTextError("binary", nul, "a NUL byte")


def _text_start(data: bytes) -> int:
    return len(_BOM) if data.startswith(_BOM) else 0


def _count_stray(data: bytes, config: DataConfig) -> int:
    """Returns how many places of a file are not UTF-8, where `config` lets them be replaced."""
    try:
        data.decode()
        return 0
    except UnicodeDecodeError as error:
        stray = data.decode("utf-8", "replace").count(_REPLACEMENT)
        stray -= data.count(_REPLACEMENT.encode())
        _check_stray(stray, data, config, offset=error.start)
        return stray


def _check_stray(stray: int, data: bytes, config: DataConfig, *, offset: int) -> None:
    if config.on_bad_text != "replace" and stray > config.max_stray_bytes * len(data):
        raise BadTextError("undecodable", offset, f"the byte 0x{data[offset]:02x}") from None


def _decode(data: bytes, codec: str, config: DataConfig) -> tuple[bytes, int]:
    """Returns text of any encoding as UTF-8, and how many places of it had to be replaced.

    Some codecs let half a surrogate pair through; that is replaced, too.
    """
    try:
        text, stray = data.decode(codec), 0
    except UnicodeError as error:  # some codecs say no more than that
        offset = error.start if isinstance(error, UnicodeDecodeError) else 0
        try:
            text = data.decode(codec, "replace")
        except UnicodeError:  # and some can't replace
            text = _REPLACEMENT * len(data)
        stray = text.count(_REPLACEMENT)
        _check_stray(stray, data, config, offset=offset)
    halves = _SURROGATES.findall(text)
    if halves and config.on_bad_text != "replace":
        offset = len(text[: text.index(halves[0])].encode())
        raise BadTextError("undecodable", offset, "half a surrogate pair")
    return _SURROGATES.sub(_REPLACEMENT, text).encode(), stray + len(halves)


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
    where = f"({detail} at byte offset {offset})"
    if reason == "binary":
        return f"{path} is a binary file {where}; {advice}"
    utf8 = codecs.lookup(config.encoding).name in _UTF8
    other = "--encoding latin-1" if utf8 else "another --encoding"
    advice = f"try {other}" + (", or --on-bad-text=skip|replace" if strict else "")
    return f"{path} is no {config.encoding} text {where}; {advice}"
