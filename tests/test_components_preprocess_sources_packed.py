"""Packed text is read whole or refused: one stream, several, damage and cuts at every place."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from components.preprocess.inputs.listing import find_files
from components.preprocess.sources import packed
from components.preprocess.sources.blocks import BadTextError, read_blocks
from components.preprocess.sources.packed import DamagedError, open_packed
from model.config import DataConfig
from model.errors import InputError

Packer = Callable[[bytes], bytes]

PACKERS: dict[str, Packer] = {
    "gz": lambda text: gzip.compress(text, mtime=0),
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
FIRST, SECOND = b"the first stream\n", b"and the second one\n"


def unpack(kind: str, data: bytes) -> bytes:
    return open_packed(f"text.{kind}", io.BytesIO(data)).read()


def refused(kind: str, data: bytes) -> str:
    with pytest.raises(DamagedError) as caught:
        unpack(kind, data)
    return str(caught.value)


@pytest.fixture(params=list(PACKERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_streams_follow_one_another(kind: str) -> None:
    pack = PACKERS[kind]
    assert unpack(kind, pack(FIRST)) == FIRST
    assert unpack(kind, pack(FIRST) + pack(b"") + pack(SECOND)) == FIRST + SECOND
    assert unpack(kind, pack(b"")) == b""


@pytest.mark.parametrize("size", [1, 3, 1 << 17])
def test_streams_that_end_where_a_read_does(
    kind: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "READ_BYTES", size)
    monkeypatch.setattr(packed, "UNPACKED_BYTES", 5)
    pack = PACKERS[kind]
    assert unpack(kind, pack(FIRST) + pack(SECOND)) == FIRST + SECOND


def test_much_text_is_unpacked_little_by_little(kind: str) -> None:
    text = b"a b\n" * (3 << 20)
    file = open_packed(f"x.{kind}", io.BytesIO(PACKERS[kind](text)))
    parts = list(iter(lambda: file.read(8 << 20), b""))
    assert b"".join(parts) == text
    if kind != "zst":
        assert max(map(len, parts)) == packed.UNPACKED_BYTES


def test_plain_text_is_read_as_it_is() -> None:
    raw = io.BytesIO(FIRST)
    assert open_packed("text.txt", raw) is raw


def test_a_cut_anywhere_but_between_streams(kind: str) -> None:
    one, two = PACKERS[kind](FIRST), PACKERS[kind](SECOND)
    whole = one + two
    for size in range(1, len(whole)):
        if size == len(one):
            assert unpack(kind, whole[:size]) == FIRST
        else:
            number = 1 if size < len(one) else 2
            assert refused(kind, whole[:size]) == f"ends inside stream {number}"
    assert refused(kind, b"") == "has no stream"


def test_a_changed_bit_is_refused_or_changes_no_letter(kind: str) -> None:
    """Some bits mean nothing: a header's time, unused tables, what fills a last byte up."""
    whole = PACKERS[kind](FIRST) + PACKERS[kind](SECOND)
    refusals = 0
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        try:
            assert unpack(kind, bytes(damaged)) == FIRST + SECOND
        except DamagedError:
            refusals += 1
    assert refusals > 5 * len(whole)


@pytest.mark.parametrize("stream", [1, 2])
def test_a_wrong_checksum_in_any_stream(kind: str, stream: int) -> None:
    place = {"gz": -8, "bz2": -3, "zst": -1}[kind]
    damaged = bytearray(PACKERS[kind](FIRST))
    damaged[place] ^= 1
    before = PACKERS[kind](SECOND) * (stream - 1)
    assert refused(kind, before + damaged).startswith(f"stream {stream}: ")


@pytest.mark.parametrize("more", [b"x", b"garbage that is no stream", b"\0\0x", b"\n"])
def test_what_follows_is_a_stream_or_nothing(kind: str, more: bytes) -> None:
    refused(kind, PACKERS[kind](FIRST) + more)


def test_only_gzip_is_padded_with_zeros(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "READ_BYTES", 7)
    for size in (1, 512):
        data = PACKERS[kind](FIRST) + bytes(size)
        if kind == "gz":
            assert unpack(kind, data) == FIRST
            message = "has other bytes after stream 1 and zero bytes"
            assert refused(kind, data + PACKERS[kind](SECOND)) == message
        else:
            refused(kind, data)
    refused(kind, bytes(512) + PACKERS[kind](FIRST))


def test_frames_to_be_skipped() -> None:
    pack = PACKERS["zst"]
    skipped = struct.pack("<II", 0x184D2A53, 5) + b"notes"
    for data in (skipped + pack(FIRST), pack(FIRST) + skipped, skipped * 2 + pack(FIRST) + skipped):
        assert unpack("zst", data) == FIRST
    assert refused("zst", pack(FIRST) + skipped[:-1]) == "ends inside stream 2"
    assert unpack("zst", skipped) == b""


def test_a_file_with_a_damaged_second_stream_is_refused(kind: str, tmp_path: Path) -> None:
    second = bytearray(PACKERS[kind](SECOND))
    second[0] ^= 0xFF  # what Python's reader of bzip2 takes for the end
    path = tmp_path / f"text.{kind}"
    path.write_bytes(PACKERS[kind](FIRST) + second)
    (file,) = find_files([str(path)])
    with pytest.raises(BadTextError) as caught:
        list(read_blocks(file, DataConfig()))
    assert caught.value.reason == "damaged"
    with pytest.raises(InputError, match=r"the list can't be read \(stream 2: "):
        find_files([f"@{path}"])


def test_an_error_of_the_disk_is_not_taken_for_damage() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        open_packed("x.bz2", Broken()).read()


def test_a_zstandard_bomb_is_unpacked_a_little_at_a_time() -> None:
    size = 300 << 20
    packer = zstandard.ZstdCompressor(write_checksum=True).compressobj(size=size)
    data = b"".join(packer.compress(b"a" * (1 << 20)) for _ in range(300)) + packer.flush()
    assert len(data) < 30_000
    file = open_packed("f.zst", io.BytesIO(data))
    sizes = [len(part) for part in iter(lambda: file.read(size), b"")]
    assert sum(sizes) == size
    assert max(sizes) <= 17 << 20
