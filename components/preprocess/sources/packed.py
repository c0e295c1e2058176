"""Reads packed text (gzip, bzip2, Zstandard) and detects any damage; no TensorFlow.

A packed file consists of one or more streams: gzip calls them members, Zstandard frames. Some
readers are lenient: Python's bzip2 takes a damaged second stream for the end of the file,
zstandard's overlooks truncation. Here each stream must be followed by another one or by the end
of the file. The only exception, as in gzip(1): zero bytes between the last gzip member and the
end of the file are padding.
"""

from __future__ import annotations

import abc
import bz2
import os
import zlib
from typing import BinaryIO, cast

import zstandard

READ_BYTES = 1 << 17
"""Packed bytes to read at once."""

UNPACKED_BYTES = 1 << 20
"""Maximum text of a gzip or bzip2 stream to unpack at once."""

_ZSTANDARD_BYTES = 1 << 9
"""Packed bytes to pass to Zstandard at once: at most 16 MiB of text, 128 KiB for each 4 bytes."""

_GZIP_FORMAT = 16 + zlib.MAX_WBITS


class DamagedError(Exception):
    """A packed file is damaged, truncated, or continues with something other than a stream."""


def is_packed(path: str) -> bool:
    """Returns whether a file's name marks it as compressed."""
    return _ending(path) in _STREAMS


def open_packed(path: str, raw: BinaryIO) -> BinaryIO:
    """Returns a reader of a file's text, whether packed or not.

    Args:
      path: the file's name, whose suffix determines the compression.
      raw: its bytes.

    Returns:
      `raw` if the name has no such suffix, otherwise an object whose `read` raises DamagedError.
    """
    if not is_packed(path):
        return raw
    return cast("BinaryIO", PackedFile(raw, _STREAMS[_ending(path)]))


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


class _Stream(abc.ABC):
    """One stream of a packed file.

    Attributes:
      ended: whether it is complete.
      hungry: whether it needs more packed bytes to continue.
    """

    may_be_padded = False
    """Whether zero bytes may follow the last stream."""

    def __init__(self) -> None:
        self.ended = False
        self.hungry = True

    @abc.abstractmethod
    def unpack(self, packed: bytes) -> tuple[bytes, bytes]:
        """Returns some text, and the unused packed bytes."""


class _GzipMember(_Stream):
    may_be_padded = True

    def __init__(self) -> None:
        super().__init__()
        self._member = zlib.decompressobj(_GZIP_FORMAT)

    def unpack(self, packed: bytes) -> tuple[bytes, bytes]:
        text = self._member.decompress(packed, UNPACKED_BYTES)
        self.ended = self._member.eof
        self.hungry = len(text) < UNPACKED_BYTES
        return text, self._member.unused_data if self.ended else self._member.unconsumed_tail


class _Bzip2Stream(_Stream):
    def __init__(self) -> None:
        super().__init__()
        self._stream = bz2.BZ2Decompressor()

    def unpack(self, packed: bytes) -> tuple[bytes, bytes]:
        text = self._stream.decompress(packed, UNPACKED_BYTES)
        self.ended, self.hungry = self._stream.eof, self._stream.needs_input
        return text, self._stream.unused_data


class _ZstandardFrame(_Stream):
    def __init__(self) -> None:
        super().__init__()
        self._frame = zstandard.ZstdDecompressor().decompressobj()

    def unpack(self, packed: bytes) -> tuple[bytes, bytes]:
        texts, size, at = [], 0, 0
        while at < len(packed) and size < UNPACKED_BYTES and not self._frame.eof:
            texts.append(self._frame.decompress(packed[at : at + _ZSTANDARD_BYTES]))
            size += len(texts[-1])
            at += _ZSTANDARD_BYTES
        self.ended = self._frame.eof
        return b"".join(texts), self._frame.unused_data + packed[at:]


_STREAMS: dict[str, type[_Stream]] = {
    ".gz": _GzipMember,
    ".bz2": _Bzip2Stream,
    ".zst": _ZstandardFrame,
}


class PackedFile:
    """Reads the streams of a packed file in order."""

    def __init__(self, raw: BinaryIO, kind: type[_Stream]):
        """Stores the packed bytes and the type of their streams."""
        self._raw = raw
        self._kind = kind
        self._stream: _Stream | None = None
        self._streams = 0
        self._packed = b""
        self._text, self._at = b"", 0

    def read(self, size: int = -1) -> bytes:
        """Returns up to `size` bytes of text, all remaining if negative; empty at the end.

        Raises:
          DamagedError: the file is damaged.
          OSError: the packed bytes can't be read.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(UNPACKED_BYTES), b""))
        if self._at == len(self._text):
            self._text, self._at = self._unpack(), 0
        part = self._text[self._at : self._at + size]
        self._at += len(part)
        return part

    def _unpack(self) -> bytes:
        while True:
            if not self._packed and (self._stream is None or self._stream.hungry):
                self._packed = self._raw.read(READ_BYTES)
                if not self._packed:
                    self._check_end()
                    return b""
            if self._stream is None:
                if self._streams and self._kind.may_be_padded and self._packed[0] == 0:
                    self._skip_padding()
                    continue
                self._stream = self._kind()
                self._streams += 1
            try:
                text, self._packed = self._stream.unpack(self._packed)
            except (zlib.error, OSError, EOFError, ValueError, zstandard.ZstdError) as error:
                raise DamagedError(f"stream {self._streams}: {error}") from None
            if self._stream.ended:
                self._stream = None
            if text:
                return text

    def _check_end(self) -> None:
        if self._stream is not None:
            raise DamagedError(f"ends inside stream {self._streams}")
        if not self._streams:
            raise DamagedError("has no stream")

    def _skip_padding(self) -> None:
        """Reads to the end of the file, which must contain only zero bytes."""
        while self._packed:
            if self._packed.strip(b"\0"):
                raise DamagedError(f"has other bytes after stream {self._streams} and zero bytes")
            self._packed = self._raw.read(READ_BYTES)
