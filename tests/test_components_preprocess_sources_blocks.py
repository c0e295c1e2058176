import bz2
import contextlib
import gzip
import hashlib
import io
import random
from pathlib import Path

import pytest
import zstandard
from blocks import blocks_of, lines_of, scan

from components.preprocess.passes import work_units
from components.preprocess.passes.file_scans import scans_of_files
from components.preprocess.passes.scan import scan_unit
from components.preprocess.passes.word_counts import WordCounter
from components.preprocess.sources import blocks, decoded
from components.preprocess.sources.blocks import BadTextError, read_blocks
from components.preprocess.sources.files import describe_bad_text
from components.preprocess.sources.types import InputFile
from model.config import DataConfig

PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress}


def test_lines_and_offsets() -> None:
    assert lines_of("é\n\r\na b\rc\r\nlast".encode(), DataConfig()) == [
        ("é".encode(), 0),
        (b"", 3),
        (b"a b", 5),
        (b"c", 9),
        (b"last", 12),
    ]


def test_only_line_ends_end_a_line() -> None:
    text = "a\x0bb\x0cc\x1cd\x85e\u2028f\n"
    assert lines_of(text.encode(), DataConfig()) == [(text[:-1].encode(), 0)]


@pytest.mark.parametrize(("size", "count"), [(1, 7), (3, 5), (7, 3), (1000, 1)])
def test_blocks_hold_whole_lines(monkeypatch: pytest.MonkeyPatch, size: int, count: int) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    text = b"one\r\ntwo\r\n\r\n\rthree\n\nfour"
    assert lines_of(text, DataConfig()) == [
        (b"one", 0),
        (b"two", 5),
        (b"", 10),
        (b"", 12),
        (b"three", 13),
        (b"", 19),
        (b"four", 20),
    ]
    assert len(blocks_of(text, DataConfig())) == count


def test_a_byte_order_mark_is_dropped_and_counted_in_offsets() -> None:
    assert lines_of(b"\xef\xbb\xbfa\nb\n", DataConfig()) == [(b"a", 3), (b"b", 5)]
    assert lines_of(b"\xef\xbb\xbfa", DataConfig(encoding="utf-8-sig")) == [(b"a", 3)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings(encoding: str) -> None:
    data = "\ufeffé\r\nb\n".encode(encoding)
    lines = lines_of(data, DataConfig(encoding=encoding))
    assert [line for line, _ in lines] == ["é".encode(), b"b"]


def test_offsets_of_other_encodings_are_those_of_utf8() -> None:
    assert lines_of("äö\nb\n".encode("latin-1"), DataConfig(encoding="latin-1")) == [
        ("äö".encode(), 0),
        (b"b", 5),
    ]


@pytest.mark.parametrize(
    ("data", "encoding", "reason", "offset", "detail"),
    [
        (b"", "utf-8", "empty", 0, ""),
        (b"abc\0def", "utf-8", "binary", 3, "a NUL byte"),
        (b"\xff\xd8\0", "utf-8", "binary", 2, "a NUL byte"),
        (b"\xff\xd8\0", "latin-1", "binary", 2, "a NUL byte"),
        ("a\0".encode("utf-16-le"), "utf-16-le", "binary", 1, "a NUL byte"),
        (b"caf\xe9 ol\xe9", "utf-8", "undecodable", 3, "the byte 0xe9"),
        (b"\xed\xa0\x80", "utf-8", "undecodable", 0, "the byte 0xed"),
        (b"caf\xe9", "ascii", "undecodable", 3, "the byte 0xe9"),
        ("ab".encode("utf-16-le") + b"\x00\xd8", "utf-16-le", "undecodable", 4, "the byte 0x00"),
        ("é".encode() + b"+2AA-", "utf-7", "undecodable", 0, "the byte 0xc3"),
        (b"a+2AA-", "utf-7", "undecodable", 1, "half a surrogate pair"),
    ],
)
def test_what_is_no_text(data: bytes, encoding: str, reason: str, offset: int, detail: str) -> None:
    found = scan(data, DataConfig(encoding=encoding))
    assert (found.reason, found.offset, found.detail) == (reason, offset, detail)


def test_replace_keeps_the_offsets_of_the_file() -> None:
    config = DataConfig(on_bad_text="replace")
    assert lines_of(b"caf\xe9\nol\xe9\xe9\r\nend", config) == [
        ("caf\ufffd".encode(), 0),
        ("ol\ufffd\ufffd".encode(), 5),
        (b"end", 11),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_few_stray_bytes_are_replaced_where_the_config_lets_them(encoding: str) -> None:
    data = b"x" * 398 + b"\n\xe9"
    config = DataConfig(encoding=encoding, max_stray_bytes=1 / 400)
    assert (scan(data, config).stray, scan(data, config).reason) == (1, "")
    assert lines_of(data, config) == [(b"x" * 398, 0), ("\ufffd".encode(), 399)]
    found = scan(data, DataConfig(encoding=encoding, max_stray_bytes=1 / 401))
    assert (found.reason, found.offset) == ("undecodable", 399)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("ending", ["txt", *PACKERS])
@pytest.mark.parametrize("block", [100, 1 << 20])
def test_stray_bytes_are_a_share_of_the_text_however_it_is_packed(
    encoding: str, ending: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    monkeypatch.setattr(work_units, "BLOCK_BYTES", block)
    data = b"some text\n" * 39 + b"caf\xe9 cafe\n"  # 400 bytes; packed, a tenth of it
    path = tmp_path / f"f.{ending}"
    path.write_bytes(PACKERS.get(ending, bytes)(data))
    file = InputFile(str(path), "f", path.stat().st_size)
    for share, reason in ((1 / 400, ""), (1 / 401, "undecodable")):
        config = DataConfig(encoding=encoding, max_stray_bytes=share)
        parts = [
            part
            for unit in work_units.make_units([file], config)
            for part in scan_unit(unit, config, folder=str(tmp_path), counter=WordCounter())
        ]
        assert len(parts) == (4 if (encoding, ending, block) == ("utf-8", "txt", 100) else 1)
        (found,) = scans_of_files(parts, config)
        assert (found.reason, found.stray) == (reason, 0 if reason else 1)


@pytest.mark.parametrize("text", ["plain words\n", "\u6f22\u5b57\u4eee\u540d"])  # without a NUL
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("order", ["le", "be"])
def test_text_with_the_mark_of_another_encoding_is_named(
    text: str, encoding: str, order: str
) -> None:
    found = scan(f"\ufeff{text}".encode(f"{encoding}-{order}"), DataConfig())
    assert found.reason in ("binary", "undecodable")
    message = describe_bad_text(
        "f.txt",
        reason=found.reason,
        offset=found.offset,
        detail=found.detail,
        config=DataConfig(on_bad_text="skip"),
    )
    assert message == (
        f"f.txt begins with the byte order mark of {encoding}; add --encoding {encoding}, or leave "
        "it out"
    )


def test_stray_bytes_are_counted_without_those_that_were_there() -> None:
    found = scan("a\ufffd".encode() + b"\xff", DataConfig(on_bad_text="replace"))
    assert (found.stray, found.reason) == (1, "")


def test_replace_in_another_encoding() -> None:
    config = DataConfig(encoding="ascii", on_bad_text="replace")
    assert lines_of(b"caf\xe9\nb", config) == [("caf\ufffd".encode(), 0), (b"b", 7)]


def test_replace_does_not_make_text_of_a_binary_file() -> None:
    assert scan(b"\x7fELF\0\0\xff", DataConfig(on_bad_text="replace")).reason == "binary"


def random_text(seed: int) -> bytes:
    chance = random.Random(seed)
    signs = ["a", "bc", " ", "\n", "\r\n", "\r", "\r\r\n", "é", "中"]
    return "".join(chance.choices(signs, k=chance.randrange(60))).encode()


@pytest.mark.parametrize("seed", range(60))
def test_blocks_that_are_read_apart_are_those_of_the_whole_file(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random_text(seed)
    (tmp_path / "f").write_bytes(data)
    file = InputFile(str(tmp_path / "f"), "f", len(data))
    for size in (1, 2, 3, 5, 8, 13):
        for tail in (1, 4, 1000):
            monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
            monkeypatch.setattr(blocks, "TAIL_BYTES", tail)
            whole = list(read_blocks(file, DataConfig()))
            assert b"".join(block.data for block in whole) == data
            for block in whole:
                assert block.data == data[block.offset :][: len(block.data)]
                assert block.tail == data[max(0, block.offset - tail) : block.offset]
                assert block.data.endswith((b"\n", b"\r")) or block is whole[-1]
                assert data[: block.offset + 1].count(b"\r\n") == data[: block.offset].count(
                    b"\r\n"
                )
            count = blocks.count_blocks(file)
            apart = [
                block
                for first in range(count)
                for block in read_blocks(file, DataConfig(), first=first, last=first + 1)
            ]
            assert apart == whole


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_give_the_blocks_of_plain_ones(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    data = b"".join(b"line %d of some text\r\n" % number for number in range(2000))
    half = len(data) // 2
    for packed in (
        PACKERS[ending](data),
        PACKERS[ending](data[:half]) + PACKERS[ending](data[half:]),
    ):
        path = tmp_path / f"f.{ending}"
        path.write_bytes(packed)
        file = InputFile(str(path), path.name, len(packed))
        assert list(read_blocks(file, DataConfig())) == blocks_of(data, DataConfig())
        for cut in (1, len(packed) // 2, len(packed) - 1):
            path.write_bytes(packed[:cut])
            with pytest.raises(BadTextError) as caught:
                list(read_blocks(file, DataConfig()))
            assert caught.value.reason == "damaged"
    path.write_bytes(b"this is no archive at all, only some text")
    with pytest.raises(BadTextError) as caught:
        list(read_blocks(file, DataConfig()))
    assert caught.value.reason == "damaged"


def test_a_line_that_memory_could_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    monkeypatch.setattr(blocks, "TAIL_BYTES", 10)
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", 1000)
    assert len(blocks_of(b"a" * 1000 + b"\n", DataConfig())) == 1
    with pytest.raises(BadTextError) as caught:
        blocks_of(b"short\n" + b"a" * 3000 + b"\nshort\n", DataConfig())
    assert (caught.value.reason, caught.value.offset) == ("line", 100)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b""])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_no_line_is_longer_than_the_limit(
    end: bytes, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8)
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", 64)
    monkeypatch.setattr(blocks, "TAIL_BYTES", 4)
    config = DataConfig(encoding=encoding)
    for before in (b"", b"\n", b"abcde\r", b"a\n" * 7, b"abcdefgh\r\n"):
        for size in (56, 63, 64, 65, 66, 70, 72, 73, 80, 127, 128, 129, 150):
            for after in (b"", b"b", b"\nb") if end else (b"",):
                data = before + b"x" * size + end + after
                (tmp_path / "f").write_bytes(data)
                file = InputFile(str(tmp_path / "f"), "f", len(data))
                fault = find_fault(file, config)
                assert (fault is not None) == (size > 64)
                if fault:
                    assert fault.reason == "line"
                    assert len(before) <= fault.offset <= len(before) + size - 64
                if encoding == "utf-8":
                    assert is_refused_in_parts(file) == (size > 64)


def find_fault(file: InputFile, config: DataConfig) -> BadTextError | None:
    """Returns why a file is bad; None if its blocks are the whole file."""
    try:
        read = b"".join(block.data for block in read_blocks(file, config))
    except BadTextError as error:
        return error
    assert read == Path(file.path).read_bytes()
    return None


def is_refused_in_parts(file: InputFile) -> bool:
    """Returns whether a block that is read without those before it is refused."""
    try:
        for number in range(blocks.count_blocks(file)):
            for _ in read_blocks(file, DataConfig(), first=number, last=number + 1):
                pass
    except BadTextError:
        return True
    return False


class Counted(io.BytesIO):
    """Bytes, with what has been read of them."""

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size >= 0
        return super().read(size)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "shift_jis", "iso2022_jp", "utf-8"])
def test_a_file_is_decoded_as_it_is_read(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(blocks, "TAIL_BYTES", 10)
    monkeypatch.setattr(decoded, "CHUNK_BYTES", 500)
    text = "".join(f"line {number} of a text\n" for number in range(5000))
    source = Counted(text.encode(encoding))
    monkeypatch.setattr(blocks, "open_file", lambda *a, **k: contextlib.nullcontext(source))
    size = len(source.getvalue())
    seen = begin = 0
    for block in read_blocks(InputFile("f", "f", size), DataConfig(encoding=encoding)):
        assert block.offset == begin
        begin += len(block.data)
        seen += block.size
        assert seen * len(text) <= size * (begin + 3000)  # read little ahead of the blocks
    assert (begin, seen) == (len(text), size)


def fault_hash(size: int, *rows: str) -> str:
    return hashlib.sha256("\n".join([str(size), *rows]).encode()).hexdigest()


def test_the_hash_of_a_bad_file_in_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 10)
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", 20)
    monkeypatch.setattr(decoded, "CHUNK_BYTES", 7)
    config = DataConfig(encoding="latin-1", on_bad_text="skip")
    lines = b"a b c d\n" * 9
    found = scan(lines + b"\0", config)
    assert (found.reason, found.sha256) == ("binary", fault_hash(73, "72 binary"))
    # A NUL outranks a line that is too long before it.
    found = scan(b"x" * 99 + lines + b"\0", config)
    assert (found.reason, found.sha256) == ("binary", fault_hash(172, "171 binary"))
    row = f"0 {hashlib.sha256(lines[:16]).hexdigest()}"
    found = scan(lines[:16] + b"x" * 99, config)
    assert (found.reason, found.sha256) == ("line", fault_hash(115, row, "20 line"))


def test_damage_outranks_a_nul_before_it(tmp_path: Path) -> None:
    packed = gzip.compress(b"a\n\0" + random.Random(1).randbytes(300_000))
    (tmp_path / "f.gz").write_bytes(packed[:-1])
    file = InputFile(str(tmp_path / "f.gz"), "f", len(packed) - 1)
    with pytest.raises(BadTextError) as caught:
        list(read_blocks(file, DataConfig(encoding="latin-1")))
    assert (caught.value.reason, caught.value.alone) == ("damaged", True)
