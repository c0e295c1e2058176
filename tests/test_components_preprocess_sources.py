from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from components.preprocess import sources
from components.preprocess.sources import (
    BadTextError,
    SourceText,
    decode_text,
    describe_bad_text,
    find_files,
    fingerprint,
)
from model.config import DataConfig
from model.errors import InputError


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}\n")


def names_of(*inputs: Path | str) -> list[str]:
    return [file.name for file in find_files([str(one) for one in inputs])]


def read_lines(text: SourceText) -> list[tuple[bytes, int]]:
    return [pair for lines, offsets in text.blocks() for pair in zip(lines, offsets, strict=True)]


def test_a_file_is_named_by_its_base_name(tmp_path: Path) -> None:
    write(tmp_path, "deep/down/a.txt")
    (file,) = find_files([str(tmp_path / "deep/down/a.txt")])
    assert (file.name, file.size) == ("a.txt", 24)
    assert file.path == str(tmp_path / "deep/down/a.txt")


def test_a_folder_stands_for_all_files_below_it_without_hidden_ones(tmp_path: Path) -> None:
    write(tmp_path, "b.txt", "a/z.txt", "a/c", "a.txt", ".hidden", ".git/x.txt", "a/.y")
    assert names_of(tmp_path) == ["a.txt", "a/c", "a/z.txt", "b.txt"]


def test_names_begin_below_the_folder_that_all_files_share(tmp_path: Path) -> None:
    write(tmp_path, "one/x/a.txt", "one/y/b.txt", "two/c.txt")
    assert names_of(tmp_path / "one/x/a.txt", tmp_path / "one/y") == ["x/a.txt", "y/b.txt"]
    assert names_of(tmp_path / "two", tmp_path / "one") == [
        "one/x/a.txt",
        "one/y/b.txt",
        "two/c.txt",
    ]
    assert names_of(tmp_path / "one" / "x") == ["a.txt"]


def test_patterns(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt")
    assert names_of(tmp_path / "*.txt") == ["a.txt"]
    assert names_of(tmp_path / "**" / "*.txt") == ["a.txt", "sub/c.txt", "sub/deep/d.txt"]
    assert names_of(tmp_path / "s*") == ["c.txt", "deep/d.txt"]  # a folder that matches


def test_a_file_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.txt", "b.txt")
    monkeypatch.chdir(tmp_path)
    assert names_of("a.txt", "./a.txt", tmp_path / "a.txt", "*.txt", ".") == ["a.txt", "b.txt"]


def test_a_name_with_pattern_signs_is_a_file(tmp_path: Path) -> None:
    write(tmp_path, "a[1].txt", "a1.txt")
    assert names_of(tmp_path / "a[1].txt") == ["a[1].txt"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, "data/a.txt", "far/b.txt")
    (tmp_path / "data/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/far").symlink_to(tmp_path / "far")
    assert names_of(tmp_path / "data") == ["a.txt", "far/b.txt"]


def test_a_name_that_is_no_utf8_can_be_written(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
        file.write("x")
    assert names_of(tmp_path) == ["caf\\xe9.txt"]


@pytest.mark.parametrize("pattern", ["nothing.txt", "*.md", "no/such/folder", "empty"])
def test_an_input_without_files_is_named(tmp_path: Path, pattern: str) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "empty").mkdir()
    message = f"no file matches --input '{tmp_path / pattern}'"
    with pytest.raises(InputError, match=re.escape(message)):
        find_files([str(tmp_path / "a.txt"), str(tmp_path / pattern)])


def test_no_input() -> None:
    with pytest.raises(InputError, match="no input given"):
        find_files([])


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(InputError, match=r"a\.txt can't be read \(No such file or directory\)"):
        find_files([str(tmp_path)])


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is no regular file"):
        find_files([str(tmp_path / "pipe")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(InputError, match=r"a\.txt can't be read \(Permission denied\)"):
        find_files([str(tmp_path)])


def test_lines_and_offsets() -> None:
    text = decode_text("é\n\r\na b\rc\r\nlast".encode(), DataConfig())
    assert read_lines(text) == [
        ("é".encode(), 0),
        (b"", 3),
        (b"a b", 5),
        (b"c", 9),
        (b"last", 12),
    ]


def test_only_line_ends_end_a_line() -> None:
    text = "a\x0bb\x0cc\x1cd\x85e\u2028f\n"
    assert read_lines(decode_text(text.encode(), DataConfig())) == [(text[:-1].encode(), 0)]


@pytest.mark.parametrize(("size", "blocks"), [(1, 5), (3, 4), (7, 3), (1000, 1)])
def test_blocks_hold_whole_lines(monkeypatch: pytest.MonkeyPatch, size: int, blocks: int) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", size)
    text = SourceText(data=b"one\r\ntwo\r\n\r\n\rthree\n\nfour")
    assert read_lines(text) == [
        (b"one", 0),
        (b"two", 5),
        (b"", 10),
        (b"", 12),
        (b"three", 13),
        (b"", 19),
        (b"four", 20),
    ]
    assert len(list(text.blocks())) == blocks


def test_a_byte_order_mark_is_dropped_and_counted_in_offsets() -> None:
    text = decode_text(b"\xef\xbb\xbfa\nb\n", DataConfig())
    assert read_lines(text) == [(b"a", 3), (b"b", 5)]
    assert read_lines(decode_text(b"\xef\xbb\xbfa", DataConfig(encoding="utf-8-sig"))) == [
        (b"a", 3)
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings(encoding: str) -> None:
    data = "\ufeffé\r\nb\n".encode(encoding)
    text = decode_text(data, DataConfig(encoding=encoding))
    assert [line for line, _ in read_lines(text)] == ["é".encode(), b"b"]


def test_offsets_of_other_encodings_are_those_of_utf8() -> None:
    text = decode_text("äö\nb\n".encode("latin-1"), DataConfig(encoding="latin-1"))
    assert read_lines(text) == [("äö".encode(), 0), (b"b", 5)]


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
    with pytest.raises(BadTextError) as caught:
        decode_text(data, DataConfig(encoding=encoding))
    assert (caught.value.reason, caught.value.offset, caught.value.detail) == (
        reason,
        offset,
        detail,
    )


def test_replace_keeps_the_offsets_of_the_file() -> None:
    config = DataConfig(on_bad_text="replace")
    text = decode_text(b"caf\xe9\nol\xe9\xe9\r\nend", config)
    assert read_lines(text) == [
        ("caf\ufffd".encode(), 0),
        ("ol\ufffd\ufffd".encode(), 5),
        (b"end", 11),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_few_stray_bytes_are_replaced_where_the_config_lets_them(encoding: str) -> None:
    data = b"x" * 398 + b"\n\xe9"
    text = decode_text(data, DataConfig(encoding=encoding, max_stray_bytes=1 / 400))
    assert text.stray == 1
    assert read_lines(text) == [(b"x" * 398, 0), ("\ufffd".encode(), 399)]
    with pytest.raises(BadTextError) as caught:
        decode_text(data, DataConfig(encoding=encoding, max_stray_bytes=1 / 401))
    assert (caught.value.reason, caught.value.offset) == ("undecodable", 399)


def test_stray_bytes_are_counted_without_those_that_were_there() -> None:
    text = decode_text("a\ufffd".encode() + b"\xff", DataConfig(on_bad_text="replace"))
    assert text.stray == 1


def test_replace_in_another_encoding() -> None:
    text = decode_text(b"caf\xe9\nb", DataConfig(encoding="ascii", on_bad_text="replace"))
    assert read_lines(text) == [("caf\ufffd".encode(), 0), (b"b", 7)]


def test_replace_does_not_make_text_of_a_binary_file() -> None:
    with pytest.raises(BadTextError):
        decode_text(b"\x7fELF\0\0\xff", DataConfig(on_bad_text="replace"))


def test_messages_say_what_where_and_what_next() -> None:
    def describe(reason: str, **config: str) -> str:
        return describe_bad_text(
            "x", reason=reason, offset=7, detail="the byte 0xe9", config=DataConfig(**config)
        )

    assert describe("empty") == "x is empty; leave it out or add --on-bad-text=skip"
    assert describe("empty", on_bad_text="skip") == "x is empty; leave it out"
    assert describe("blank", on_bad_text="replace") == "x holds only white space; leave it out"
    assert describe("binary") == (
        "x is a binary file (the byte 0xe9 at byte offset 7); leave it out or add "
        "--on-bad-text=skip"
    )
    assert describe("undecodable") == (
        "x is no utf-8 text (the byte 0xe9 at byte offset 7); try --encoding latin-1, or "
        "--on-bad-text=skip|replace"
    )
    assert describe("undecodable", encoding="ascii", on_bad_text="skip") == (
        "x is no ascii text (the byte 0xe9 at byte offset 7); try another --encoding"
    )


def test_fingerprint_sees_names_and_contents() -> None:
    one = fingerprint(["a", "b"], ["0" * 64, "1" * 64])
    assert one == fingerprint(["a", "b"], ["0" * 64, "1" * 64])
    assert one != fingerprint(["a", "c"], ["0" * 64, "1" * 64])
    assert one != fingerprint(["a", "b"], ["0" * 64, "2" * 64])
