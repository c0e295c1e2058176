"""Reads text of any encoding as UTF-8, a little at a time; no TensorFlow."""

from __future__ import annotations

import codecs
import re
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

REPLACEMENT = "\ufffd"

CHUNK_BYTES = 1 << 20
"""Bytes to decode at once."""

_SURROGATES = re.compile("[\ud800-\udfff]")
BOM = "\ufeff".encode()
_ERRORS = "charloom-replace"
"""Name of our error handler: as `replace`, but notes the first fault."""

_NATIVE = {"little": "le", "big": "be"}[sys.byteorder]
MARKED = {
    "utf-16": {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"},
    "utf-32": {codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"},
}
"""Encodings whose byte order a mark tells; Python decodes them without one only if they are in
memory as a whole."""


def marked_encoding(data: bytes) -> str:
    """Returns the encoding whose byte order mark data begins with; empty if with none of `MARKED`."""
    for encoding in sorted(MARKED, reverse=True):  # a mark of UTF-32 begins with one of UTF-16
        if data.startswith(tuple(MARKED[encoding])):
            return encoding
    return ""


_WHOLE = ("idna", "punycode")
"""Encodings that can't be decoded in parts; the file is held in memory."""

_ESCAPE, _ESCAPE_BYTES = b"\x1b", 16
"""Begin and maximum size of an escape sequence in ISO 2022 encodings."""

_thread = threading.local()


class NulError(Exception):
    """Text has a NUL character: it is binary."""

    def __init__(self, offset: int):
        """Stores the byte offset, in the file or, if NUL bytes are part of the encoding, in UTF-8."""
        super().__init__(offset)
        self.offset = offset


class Decoded(NamedTuple):
    """What was decoded since the last time; see `Block`."""

    size: int
    stray: int
    fault: tuple[int, str] | None


class DecodedFile:
    """Text as UTF-8: without a byte order mark, with U+FFFD in undecodable places.

    Unpaired surrogates, which some codecs accept, are replaced, too.
    """

    def __init__(self, source: BinaryIO, encoding: str):
        """Takes the bytes and their encoding."""
        self._source = source
        self._chunks = self._decode(codecs.lookup(encoding).name)
        # Otherwise NUL bytes are part of the encoding.
        self._no_nul = b"\0" not in "\n".encode(encoding)
        self._text, self._at = b"", 0
        self._fed = self._passed = 0
        """Bytes read, and those of them that the codec has."""
        self._taken = 0
        """Those that `take` has returned."""
        self._made = 0
        """Bytes of UTF-8, including the byte order mark."""
        self._mark = 0
        """Bytes of that mark."""
        self._fault: tuple[int, str] | None = None
        self._faulty = False
        """Whether a byte was undecodable."""
        self._replaced = self._halves = 0
        """U+FFFD from the codec, and halves of surrogate pairs, that `take` has not returned."""

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes, none at the end.

        Raises:
          NulError: the text has a NUL character.
          OSError, DamagedError: as of the source.
        """
        while self._at == len(self._text):
            text = next(self._chunks, None)
            if text is None:
                return b""
            self._text, self._at = self._encode(text), 0
        part = self._text[self._at : self._at + size]
        self._at += len(part)
        return part

    def take(self) -> Decoded:
        """Returns what was read since the last call, and the undecodable places in it.

        A codec may accept U+FFFD itself, which counts only in a file that has a fault.
        """
        taken = Decoded(
            size=self._fed - self._taken,
            stray=self._halves + (self._replaced if self._faulty else 0),
            fault=self._fault,
        )
        self._taken, self._halves = self._fed, 0
        if self._faulty:
            self._replaced = 0
        return taken

    def _read(self) -> bytes:
        chunk = self._source.read(CHUNK_BYTES)
        if self._no_nul and (nul := chunk.find(b"\0")) >= 0:
            self._refuse(self._fed + nul)
        self._fed += len(chunk)
        return chunk

    def _refuse(self, offset: int) -> None:
        """Raises NulError, unless the rest of the source is damaged."""
        while self._source.read(CHUNK_BYTES):
            pass
        raise NulError(offset)

    def _decode(self, encoding: str) -> Iterator[str]:
        """Yields the text in parts."""
        if encoding in _WHOLE or codecs.lookup(encoding).incrementaldecoder is None:
            yield self._decode_whole(b"".join(iter(self._read, b"")), encoding)
            return
        begin = b""
        if encoding in MARKED:
            while len(begin) < 4 and (more := self._read()):
                begin += more
            marks = MARKED[encoding]
            mark = next((one for one in marks if begin.startswith(one)), b"")
            encoding = marks.get(mark, f"{encoding}-{_NATIVE}")
            begin, self._passed = begin[len(mark) :], len(mark)
        decoder = codecs.getincrementaldecoder(encoding)(_ERRORS)
        has_escapes = encoding.startswith("iso2022")
        while chunk := self._read():
            begin += chunk
            cut = _before_escape(begin) if has_escapes else len(begin)
            yield self._decode_part(decoder, begin[:cut])
            begin = begin[cut:]
        yield self._decode_part(decoder, begin, final=True)

    def _decode_part(
        self, decoder: codecs.IncrementalDecoder, part: bytes, *, final: bool = False
    ) -> str:
        _thread.fault = None
        text = decoder.decode(part, final)
        self._passed += len(part)
        if _thread.fault:
            left, byte = _thread.fault
            self._note(self._passed - left, byte)
        return text

    def _decode_whole(self, data: bytes, encoding: str) -> str:
        try:
            return data.decode(encoding)
        except UnicodeError as error:  # some codecs give no more detail
            offset = error.start if isinstance(error, UnicodeDecodeError) else 0
            self._note(offset, data[offset])
        try:
            return data.decode(encoding, "replace")
        except UnicodeError:  # and some can't replace
            return REPLACEMENT * len(data)

    def _note(self, offset: int, byte: int) -> None:
        """Notes an undecodable byte."""
        self._fault = self._fault or (offset, f"the byte 0x{byte:02x}")
        self._faulty = True

    def _encode(self, text: str) -> bytes:
        """Returns a part of the text as UTF-8."""
        self._replaced += text.count(REPLACEMENT)
        if half := _SURROGATES.search(text):
            before = len(text[: half.start()].encode())
            self._fault = self._fault or (self._made + before, "half a surrogate pair")
            text, halves = _SURROGATES.subn(REPLACEMENT, text)
            self._halves += halves
        data = text.encode()
        begins = self._made == 0
        self._made += len(data)
        if begins and data.startswith(BOM):
            data, self._mark = data[len(BOM) :], len(BOM)
        if (nul := data.find(b"\0")) >= 0:
            self._refuse(self._made - self._mark - len(data) + nul)
        return data


def _before_escape(data: bytes) -> int:
    """Returns where to cut so that no escape sequence is near the end: codecs refuse parts of some."""
    cut = len(data)
    while (place := data.find(_ESCAPE, max(0, cut - _ESCAPE_BYTES), cut)) >= 0:
        cut = place
    return cut


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError) and not getattr(_thread, "fault", None):
        _thread.fault = len(error.object) - error.start, error.object[error.start]
    return codecs.replace_errors(error)


codecs.register_error(_ERRORS, _replace)
