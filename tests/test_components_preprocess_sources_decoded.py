"""Decoding in parts gives what decoding at once does, in every encoding that Python knows."""

from __future__ import annotations

import codecs
import encodings.aliases
import io
import random
import re

import pytest

from components.preprocess.sources import decoded
from components.preprocess.sources.decoded import Decoded, DecodedFile, NulError

SIGNS = "abc \n\r\u00e9\u00df\u0416\u0436\u3042\u6f22\u5b57\U0001f600\ufffd\ufeff\ud55c\uae00\u0627\u0e01"


def is_of_text(encoding: str) -> bool:
    try:
        "\n".encode(encoding)
    except (LookupError, UnicodeError):
        return False
    return True


ENCODINGS = sorted(filter(is_of_text, set(encodings.aliases.aliases.values()) - {"utf_8"}))


def random_data(chance: random.Random, encoding: str) -> bytes:
    """Returns text in an encoding, whole or with some bytes changed, or bytes of any kind."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.randrange(40)).replace(b"\0", b"\n")
    text = "".join(chance.choices(SIGNS, k=chance.randrange(40)))
    try:
        data = bytearray(text.encode(encoding, "ignore"))
    except UnicodeError:  # idna refuses long names
        return b"a"
    if kind > 1 and data:
        for _ in range(2):
            data[chance.randrange(len(data))] = chance.randrange(1 if kind == 2 else 0, 256)
        del data[len(data) - chance.randrange(2) :]
    return bytes(data)


def decode_at_once(data: bytes, encoding: str) -> tuple[bytes, int] | int:
    """Returns UTF-8 and the number of undecodable places, or the offset of a NUL."""
    if b"\0" not in "\n".encode(encoding) and b"\0" in data:
        return data.index(b"\0")
    stray = 0
    try:
        text = data.decode(encoding)
    except UnicodeError:
        try:
            text = data.decode(encoding, "replace")
        except UnicodeError:
            text = "\ufffd" * len(data)
        stray = text.count("\ufffd")
    text, halves = re.subn("[\ud800-\udfff]", "\ufffd", text)
    made = text.removeprefix("\ufeff").encode()
    return made.index(b"\0") if b"\0" in made else (made, stray + halves)


def decode_in_parts(data: bytes, encoding: str, chance: random.Random) -> tuple[bytes, int] | int:
    """Returns what `decode_at_once` returns."""
    file = DecodedFile(io.BytesIO(data), encoding)
    parts: list[bytes] = []
    taken: list[Decoded] = []
    try:
        while part := file.read(chance.choice([1, 7, 100])):
            parts.append(part)
            if chance.random() < 0.2:
                taken.append(file.take())
    except NulError as error:
        return error.offset
    taken.append(file.take())
    assert sum(one.size for one in taken) == len(data)
    return b"".join(parts), sum(one.stray for one in taken)


def test_there_are_many() -> None:
    assert len(ENCODINGS) > 80
    assert {"latin_1", "utf_16", "gb18030", "shift_jis", "iso2022_jp"} <= set(ENCODINGS)


@pytest.mark.parametrize("encoding", [*ENCODINGS, "idna", "punycode", "raw_unicode_escape"])
def test_parts_give_the_whole(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(encoding)
    for _ in range(60):
        data = random_data(chance, encoding)
        monkeypatch.setattr(decoded, "CHUNK_BYTES", chance.choice([1, 2, 3, 5, 100]))
        expected = decode_at_once(data, encoding)
        assert decode_in_parts(data, encoding, chance) == expected, data


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("data", "encoding", "offset"),
    [
        (b"abc\xe9de\xe9", "ascii", 3),
        ("a\u6f22".encode("shift_jis") + b"\x81\x20b", "shift_jis", 3),
        (codecs.BOM_UTF16_BE + b"\0a\xd8\0\0b", "utf-16", 4),
        (b"b" * 9 + b"\x1b$B4A\x1b$\xbb;", "iso2022_jp", 14),
    ],
)
def test_the_first_fault(
    data: bytes, encoding: str, offset: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded, "CHUNK_BYTES", size)
    with pytest.raises(UnicodeDecodeError) as caught:
        data.decode(encoding)
    assert caught.value.start == offset
    file = DecodedFile(io.BytesIO(data), encoding)
    while file.read(100):
        pass
    assert file.take().fault == (offset, f"the byte 0x{data[offset]:02x}")


def test_characters_that_were_there_count_from_the_first_fault_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoded, "CHUNK_BYTES", 1)
    data = "\ufffda\ufffdb".encode("utf-16-le") + b"\x00\xd8"
    file = DecodedFile(io.BytesIO(data), "utf-16-le")
    assert file.read(3).decode() == "\ufffd"
    assert file.take() == Decoded(2, 0, None)
    while file.read(100):
        pass
    assert file.take() == Decoded(8, 3, (8, "the byte 0x00"))
    assert file.take().stray == 0
