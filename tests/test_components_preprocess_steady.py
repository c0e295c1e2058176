"""Files that change, and the fingerprint of what records depend on."""

from __future__ import annotations

import bz2
import codecs
import dataclasses
import gzip
import os
from pathlib import Path

import pytest

from components.preprocess.inputs.listing import find_files
from components.preprocess.passes.file_scans import hash_text, scans_of_files
from components.preprocess.passes.scan import scan_unit
from components.preprocess.passes.work_units import make_units
from components.preprocess.sources.blocks import read_blocks
from components.preprocess.sources.files import open_file
from components.preprocess.sources.types import ChangedError, InputFile
from model.config import DataConfig
from model.errors import InputError, RestartableError

CONFIG = DataConfig(on_bad_text="skip")
OLD = 10**18
"""A time long ago, in nanoseconds."""


class NoCounter:
    """Takes counts and forgets them."""

    def add(self, split: str, words: list[bytes], counts: list[int]) -> None:
        pass

    def try_out(self) -> NoCounter:
        return self

    def merge(self, other: object) -> None:
        pass

    def discard(self) -> None:
        pass


def write(path: Path, data: bytes, *, time: int = OLD) -> InputFile:
    path.write_bytes(data)
    os.utime(path, ns=(time, time))
    (file,) = find_files([str(path)])
    return file


def hash_of(path: Path, data: bytes) -> str:
    """Returns the hash of a file, once it is sure that both ways to it agree."""
    file = write(path, data)
    (unit,) = make_units([file], CONFIG)
    scans = scan_unit(unit, CONFIG, folder=str(path.parent), counter=NoCounter())  # type: ignore[arg-type]
    (scan,) = scans_of_files(scans, CONFIG)
    assert scan.sha256 == hash_text(file, CONFIG)
    return scan.sha256


def test_the_hash_of_a_file_tells_all_that_records_depend_on(tmp_path: Path) -> None:
    text, packed = tmp_path / "a.txt", tmp_path / "a.bz2"
    data = b"Some words.\nMore words.\n" * 4000
    plain = hash_of(text, data)
    assert hash_of(text, data) == plain
    seen = [plain, hash_of(text, codecs.BOM_UTF8 + data), hash_of(text, data + b"\n")]
    begin, end = data[:24], data[24:]  # in two streams: another size, by which shards are dealt
    seen.append(hash_of(packed, bz2.compress(begin) + bz2.compress(end)))
    whole = bz2.compress(data)
    seen += [hash_of(packed, whole), hash_of(packed, whole[:-1])]  # the end is missing
    seen += [hash_of(text, b""), hash_of(text, b" \n"), hash_of(text, data[:99] + b"\0" + data)]
    seen += [hash_of(text, data[:98] + b"\0\0" + data)]  # of that size, but bad elsewhere
    assert len(set(seen)) == len(seen)


def test_a_byte_order_mark_changes_the_fingerprint(tmp_path: Path) -> None:
    texts = [mark + b"words\n" for mark in (b"", codecs.BOM_UTF8)]
    packed = [gzip.compress(text, mtime=0) for text in texts]
    size = max(map(len, packed))  # of both, padded, so that only the offsets differ
    for name, found in (("a.txt", texts), ("a.gz", [one.ljust(size, b"\0") for one in packed])):
        hashes = [hash_of(tmp_path / name, one) for one in found]
        assert hashes[0] != hashes[1]


def change(path: Path, how: str) -> None:
    """Changes a file of 12 bytes."""
    if how == "removed":
        path.unlink()
    elif how == "grown":
        with path.open("ab") as file:
            file.write(b"more\n")
        os.utime(path, ns=(OLD, OLD))
    elif how == "written":
        path.write_bytes(b"other words\n")
        os.utime(path, ns=(OLD, OLD + 1))
    else:
        other = path.with_name("other")
        other.write_bytes(b"other words\n")
        os.utime(other, ns=(OLD, OLD))  # only the inode differs
        os.replace(other, path)


WHAT = {
    "removed": "it is gone",
    "grown": "it has 17 bytes, not 12",
    "written": "it was written again",
    "replaced": "another file is in its place",
}
"""What is said of each change."""


@pytest.mark.parametrize("how", ["removed", "grown", "written"])
def test_a_file_that_changes_before_it_is_read_is_noticed(tmp_path: Path, how: str) -> None:
    file = write(tmp_path / "a.txt", b"Some words.\n")
    change(tmp_path / "a.txt", how)
    with pytest.raises(ChangedError, match=WHAT[how]):
        list(read_blocks(file, CONFIG))
    said = rf"a\.txt has changed since it was listed \({WHAT[how]}\); "
    with pytest.raises(RestartableError, match=f"{said}run the command again$"):
        hash_text(file, CONFIG)
    with pytest.raises(InputError, match=f"{said}start a new run, which lists the text anew$"):
        hash_text(dataclasses.replace(file, from_listing=True), CONFIG)


@pytest.mark.parametrize("how", ["removed", "grown", "written", "replaced"])
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.txt"
    for fault in (None, EOFError()):  # a fault of the text may come from the change
        file = write(path, b"Some words.\n")
        with pytest.raises(ChangedError, match=WHAT[how]):
            change_while_open(file, how, fault)


def change_while_open(file: InputFile, how: str, fault: Exception | None) -> None:
    with open_file(file.path, size=file.size, modified=file.modified) as opened:
        assert opened.read() == b"Some words.\n"
        change(Path(file.path), how)
        if fault:
            raise fault


def test_a_file_that_is_read_only_is_steady(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", b"Some words.\n")
    os.utime(tmp_path / "a.txt", ns=(5, OLD))  # read
    os.chmod(tmp_path / "a.txt", 0o444)
    os.link(tmp_path / "a.txt", tmp_path / "b.txt")
    (block,) = read_blocks(file, CONFIG)
    assert block.data == b"Some words.\n"
    with pytest.raises(ZeroDivisionError), open_file(file.path, size=12, modified=OLD):
        raise ZeroDivisionError  # an error of another kind is left as it is
