"""Reads text files in blocks: byte ranges cut at line ends, so that a huge file can be divided.

Block boundaries depend only on the file: block k lies between the first line start at or after byte
`k * BLOCK_BYTES` and the start of block k + 1. So any number of processes produces the same
blocks. No TensorFlow, no Beam.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from components.preprocess.sources.decoded import (
    BOM,
    REPLACEMENT,
    DecodedFile,
    NulError,
    marked_encoding,
)
from components.preprocess.sources.files import MARK_DETAIL, is_utf8, open_file
from components.preprocess.sources.packed import DamagedError, is_packed
from components.preprocess.sources.types import InputFile, UnsteadyError
from model.config import DataConfig

BLOCK_BYTES = 8 << 20
"""Nominal size of a block of text."""

MAX_LINE_BYTES = 64 << 20
"""Longer lines are rejected: a line is held in memory several times over."""

TAIL_BYTES = 1 << 16
"""Bytes before a block that are known with it, to find the word before its first one."""

_LINE_END = re.compile(rb"\r\n?|\n")


class BadTextError(Exception):
    """A file that is not text.

    Attributes:
      reason: `empty`, `blank`, `binary`, `undecodable`, `damaged` or `line`; `changed`,
        `unsteady` or `unreadable` if the content is unknown.
      offset: byte offset of the fault.
      detail: description of the fault.
      alone: whether the hash of the file is of this fault alone, without the blocks before it.
    """

    def __init__(self, reason: str, offset: int = 0, detail: str = "", *, alone: bool = False):
        """Stores its arguments."""
        super().__init__(reason, offset, detail)
        self.reason = reason
        self.offset = offset
        self.detail = detail
        self.alone = alone

    @classmethod
    def unread(cls, error: OSError) -> BadTextError:
        """Returns the fault of a file that can't be read."""
        reason = error.reason if isinstance(error, UnsteadyError) else "unreadable"
        return cls(reason, detail=error.strerror or " ".join(str(error).split()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Whole lines of a file.

    Attributes:
      index: number of the block in the file.
      offset: its start: a byte offset in the (decompressed) file if its encoding is UTF-8,
        otherwise in its text encoded as UTF-8.
      data: the bytes of its lines; UTF-8 except at `stray` places.
      tail: up to `TAIL_BYTES` of preceding text.
      size: bytes of the unpacked file that it comes from; if the encoding is not UTF-8, those
        decoded since the block before.
      stray: number of undecodable places, which become U+FFFD; likewise.
      fault: offset and description of the first one.
    """

    index: int
    offset: int
    data: bytes
    tail: bytes
    size: int
    stray: int = 0
    fault: tuple[int, str] | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of its bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def text(self) -> bytes:
        """Returns its lines as valid UTF-8."""
        return self.data.decode("utf-8", "replace").encode() if self.stray else self.data


def is_divisible(file: InputFile, config: DataConfig) -> bool:
    """Returns whether blocks of a file can be read independently of those before them."""
    return not is_packed(file.path) and is_utf8(config)


def count_blocks(file: InputFile) -> int:
    """Returns the number of blocks of a divisible file; some may be empty."""
    return max(1, -(-file.size // BLOCK_BYTES))


def read_blocks(
    file: InputFile, config: DataConfig, *, first: int = 0, last: int | None = None
) -> Iterator[Block]:
    """Yields the blocks `first` to `last` (exclusive; None: all) of a file.

    For a file that is not divisible, only all blocks can be read.

    Raises:
      BadTextError: the file is empty, binary, undecodable or damaged, or has a huge line.
      UnsteadyError: it has changed since it was listed, or its store is temporarily unreadable.
      OSError: it can't be read.
    """
    try:
        with open_file(file.path, size=file.size, modified=file.modified) as source:
            if not is_utf8(config):
                yield from _decoded_blocks(source, config)
                return
            stop = None if last is None else last * BLOCK_BYTES
            begin = first * BLOCK_BYTES
            at = max(0, begin - 1 - TAIL_BYTES)
            if at:
                source.seek(at)
            for block in _Cutter(source, begin=begin, at=at).blocks(stop):
                yield _checked(block)
    except DamagedError as error:
        detail = " ".join(str(error).split())
        raise BadTextError("damaged", detail=detail, alone=not is_utf8(config)) from None


def _decoded_blocks(source: BinaryIO, config: DataConfig) -> Iterator[Block]:
    """Yields the blocks of a file whose encoding is not UTF-8."""
    decoded = DecodedFile(source, config.encoding)
    try:
        try:
            for block in _Cutter(decoded, begin=0).blocks(None):
                yield dataclasses.replace(block, **decoded.take()._asdict())
        except BadTextError:  # a line; a NUL or damage outranks it wherever it is
            while decoded.read(BLOCK_BYTES):
                pass
            raise
    except NulError as error:
        raise BadTextError("binary", error.offset, "a NUL byte", alone=True) from None


class _Source(Protocol):
    """What a file is read from."""

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes, none at the end."""


class _Cutter:
    """Cuts a stream into blocks."""

    def __init__(self, source: _Source, *, begin: int, at: int = 0):
        """Takes a source at byte `at`, early enough before `begin`, where a block begins."""
        self._source = source
        self._begin = begin
        self._buffer = b""
        self._at = at
        """Offset of the buffer's first byte."""
        self._ended = False

    def _fill(self, until: int) -> None:
        """Reads until the buffer reaches an offset, or the stream ends."""
        parts, size = [self._buffer], self._at + len(self._buffer)
        while size < until and not self._ended:
            part = self._source.read(min(BLOCK_BYTES, until - size))
            self._ended = not part
            parts.append(part)
            size += len(part)
        self._buffer = b"".join(parts)

    def _border(self, nominal: int) -> int:
        """Returns the first line start at or after an offset, or the end of the text."""
        if nominal == 0:
            return 0
        searched = nominal - 1
        while True:
            # One more byte, as a carriage return may be the first half of a line end.
            more = max(TAIL_BYTES, searched - nominal)
            self._fill(min(max(nominal, searched) + more, nominal + MAX_LINE_BYTES) + 2)
            end = self._at + len(self._buffer)
            found = _LINE_END.search(self._buffer, searched - self._at)
            if found and (self._at + found.end() < end or self._ended):
                return self._at + found.end()
            if self._ended:
                return end
            if end - nominal > MAX_LINE_BYTES:
                raise _too_long(nominal)
            searched = max(searched, end - 1)

    def _check_last_line(self, begin: int, end: int) -> None:
        """Raises BadTextError if the last line of a block, the only one that may be, is too long."""
        if end - begin <= MAX_LINE_BYTES:
            return
        first, stop = begin - self._at, end - self._at
        for mark in (b"\n", b"\r"):
            stop -= self._buffer.endswith(mark, first, stop)
        ends = (self._buffer.rfind(mark, first, stop) + 1 for mark in (b"\n", b"\r"))
        start = max(first, *ends)
        if stop - start > MAX_LINE_BYTES:
            raise _too_long(self._at + start)

    def blocks(self, stop: int | None) -> Iterator[Block]:
        nominal = self._begin
        begin = self._border(nominal)
        while stop is None or nominal < stop:
            end = self._border(nominal + BLOCK_BYTES)
            if end > begin:
                self._check_last_line(begin, end)
                cut = begin - self._at
                yield Block(
                    index=nominal // BLOCK_BYTES,
                    offset=begin,
                    data=self._buffer[cut : end - self._at],
                    tail=self._buffer[max(0, cut - TAIL_BYTES) : cut],
                    size=end - begin,
                )
                keep = max(0, end - self._at - TAIL_BYTES - 1)
                self._buffer = self._buffer[keep:]
                self._at += keep
            nominal, begin = nominal + BLOCK_BYTES, end
            if self._ended and begin >= self._at + len(self._buffer):
                return


def _too_long(offset: int) -> BadTextError:
    return BadTextError("line", offset, f"{MAX_LINE_BYTES >> 20} MiB without a line end")


def _checked(block: Block) -> Block:
    """Returns a block of UTF-8 text with its undecodable bytes counted."""
    encoding = "" if block.offset else marked_encoding(block.data)
    mark = f"{MARK_DETAIL} {encoding}" if encoding else ""
    nul = block.data.find(b"\0")
    if nul >= 0:
        raise BadTextError("binary", block.offset + nul, mark or "a NUL byte")
    if block.offset == 0 and block.data.startswith(BOM):
        data = block.data[len(BOM) :]
        block = dataclasses.replace(block, data=data, offset=len(BOM))
    if block.data.isascii():
        return block
    try:
        block.data.decode()
        return block
    except UnicodeDecodeError as error:
        stray = block.data.decode("utf-8", "replace").count(REPLACEMENT)
        stray -= block.data.count(REPLACEMENT.encode())
        byte = f"the byte 0x{block.data[error.start]:02x}"
        fault = (block.offset + error.start, mark or byte)
        return dataclasses.replace(block, stray=stray, fault=fault)
