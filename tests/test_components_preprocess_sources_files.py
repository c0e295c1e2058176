from __future__ import annotations

import gzip
import hashlib
import os
import re
from pathlib import Path

import pytest

from components.preprocess.inputs.listing import find_files
from components.preprocess.sources.files import ContentFingerprint, describe_bad_text
from model.config import DataConfig
from model.errors import InputError


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}\n")


def names_of(*inputs: Path | str) -> list[str]:
    return [file.name for file in find_files([str(one) for one in inputs])]


def test_a_file_is_named_by_its_base_name(tmp_path: Path) -> None:
    write(tmp_path, "deep/down/a.txt")
    (file,) = find_files([str(tmp_path / "deep/down/a.txt")])
    assert (file.name, file.size) == ("a.txt", 24)
    assert file.path == str(tmp_path / "deep/down/a.txt")


def test_a_folder_stands_for_all_files_below_it_without_hidden_ones(tmp_path: Path) -> None:
    write(tmp_path, "b.txt", "a/z.txt", "a/c", "a.txt", ".hidden", ".git/x.txt", "a/.y")
    assert names_of(tmp_path) == ["a.txt", "a/c", "a/z.txt", "b.txt"]


def test_names_begin_at_the_first_wildcard_below_a_folder_or_at_the_base_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "one/x/a.txt", "one/y/b.txt", "two/c.txt")
    assert names_of(tmp_path / "one/x/a.txt", tmp_path / "one/y") == ["a.txt", "b.txt"]
    assert names_of(tmp_path / "one", tmp_path / "t*") == ["two/c.txt", "x/a.txt", "y/b.txt"]
    assert names_of(tmp_path / "one/x*/*") == ["x/a.txt"]  # the part with the wildcard counts
    assert names_of(f"{tmp_path}/one/*/") == ["x/a.txt", "y/b.txt"]
    monkeypatch.chdir(tmp_path)
    assert names_of("one/../one/?/*.txt") == ["x/a.txt", "y/b.txt"]
    assert names_of("*/*.txt") == ["two/c.txt"]
    assert names_of(".") == names_of("**") == ["one/x/a.txt", "one/y/b.txt", "two/c.txt"]


def test_a_mark_in_a_pattern_says_where_names_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "one/x/a.txt", "one/y/b.txt")
    assert names_of(f"{tmp_path}/./one/x/*") == ["one/x/a.txt"]
    assert names_of(f"{tmp_path}/one/./x/a.txt", f"{tmp_path}/one/./y") == ["x/a.txt", "y/b.txt"]
    monkeypatch.chdir(tmp_path)
    assert names_of("././one/x/*") == ["one/x/a.txt"]
    (tmp_path / "list").write_text("./one/./x/a.txt\none/y/b.txt\n")
    assert names_of("@list") == ["b.txt", "x/a.txt"]
    with pytest.raises(
        InputError, match=r"^one/x/.*b\.txt lies outside the folder before /\./, one/x/;"
    ) as caught:
        names_of("one/x/./../../one/x/../y/b.txt")
    assert "\n" not in str(caught.value)


def test_a_source_root_says_where_all_names_begin(tmp_path: Path) -> None:
    write(tmp_path, "one/x/a.txt", "one/y/a.txt", "two/c.txt")
    inputs = [f"{tmp_path}/one/x/a.txt", f"{tmp_path}/one/y"]
    found = find_files(inputs, source_root=f"{tmp_path}/one/")
    assert [file.name for file in found] == ["x/a.txt", "y/a.txt"]
    assert [file.name for file in find_files(inputs, source_root=str(tmp_path))] == [
        "one/x/a.txt",
        "one/y/a.txt",
    ]
    marked = find_files([f"{tmp_path}/./two", inputs[0]], source_root=f"{tmp_path}/one")
    assert [file.name for file in marked] == ["two/c.txt", "x/a.txt"]
    message = f"{tmp_path}/two/c.txt lies outside --source-root {tmp_path}/one; name a folder that"
    with pytest.raises(InputError, match=re.escape(message)):
        find_files([f"{tmp_path}/two"], source_root=f"{tmp_path}/one")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "one/a.txt", "two/a.txt")
    inputs = [f"{tmp_path}/two/a.txt", f"{tmp_path}/one/*"]
    with pytest.raises(InputError) as caught:
        find_files(inputs)
    assert str(caught.value) == (
        f"{tmp_path}/one/a.txt and {tmp_path}/two/a.txt are both named 'a.txt'; give "
        "--source-root, a folder that holds both, or write /./ in the patterns where names begin"
    )
    assert len(find_files(inputs, source_root=str(tmp_path))) == 2
    by_split = find_files(train=inputs[:1], valid=inputs[1:])
    assert [file.full_name for file in by_split] == ["train:a.txt", "valid:a.txt"]


def test_other_files_do_not_change_a_name(tmp_path: Path) -> None:
    write(tmp_path, "text/23/a.txt")
    before = names_of(tmp_path / "text/*/*")
    write(tmp_path, "text/b.txt", "text/24/a.txt", "more/c.txt")
    assert before == ["23/a.txt"]
    assert set(before) < set(names_of(tmp_path / "text/*/*", tmp_path / "more"))


def test_patterns(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt")
    assert names_of(tmp_path / "*.txt") == ["a.txt"]
    assert names_of(tmp_path / "**" / "*.txt") == ["a.txt", "sub/c.txt", "sub/deep/d.txt"]
    assert names_of(tmp_path / "s*") == ["sub/c.txt", "sub/deep/d.txt"]  # a folder that matches


def test_a_file_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.txt", "b.txt")
    monkeypatch.chdir(tmp_path)
    assert names_of("a.txt", "./a.txt", tmp_path / "a.txt", "*.txt", ".") == ["a.txt", "b.txt"]


def test_a_name_with_pattern_signs_is_a_file(tmp_path: Path) -> None:
    write(tmp_path, "a[1].txt", "a1.txt")
    assert names_of(tmp_path / "a[1].txt") == ["a[1].txt"]


def test_a_list_names_files_patterns_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.txt", "b.md", "sub/c.txt", "sub/d.txt", "#x.txt", "two words.txt")
    lines = "\ufeff# all of it\r\n\r\n  a.txt\t\r\n*.md\nsub\n# sub/c.txt\n./#x.txt\na.txt\ntwo words.txt"
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/all").write_text(lines, newline="")
    monkeypatch.chdir(tmp_path)  # what relative paths are relative to, not the list's folder
    expected = ["#x.txt", "a.txt", "b.md", "c.txt", "d.txt", "two words.txt"]
    assert names_of("@lists/all") == expected
    assert names_of("sub", f"@{tmp_path}/lists/all", "a.txt") == expected
    files = find_files(train=["@lists/all"], valid=["lists/all"])
    assert [file.split for file in files if file.name == "all"] == ["valid"]
    assert {file.split for file in files if file.name != "all"} == {"train"}


def test_a_list_may_be_compressed_and_name_files_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(name, "w") as file:
        file.write("x")
    (tmp_path / "list.gz").write_bytes(gzip.compress(name + b"\n"))
    assert names_of(f"@{tmp_path}/list.gz") == ["caf\\xe9.txt"]


def test_a_file_whose_name_begins_like_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "@a.txt")
    monkeypatch.chdir(tmp_path)
    assert names_of("./@a.txt") == names_of("*.txt") == ["@a.txt"]
    with pytest.raises(InputError, match=r"write \./@\.\.\. for a file of such a name"):
        find_files(["@a.txt"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "--valid @list: the list can't be read (No such file or directory); check its path"),
        (b"", "the list list names no file; write one path or pattern a line"),
        (b"# a.txt\n \n", "the list list names no file; write one path or pattern a line"),
        (b"a.txt\n\n*.md\n", "no file matches line 3 of the list list ('*.md'); check the path"),
        (
            b"a.txt\n@more\n",
            "line 2 of the list list is not a path; a list has text files, folders",
        ),
        (b"\x00\x01\n", "line 1 of the list list is not a path; a list has text files, folders"),
    ],
)
def test_a_list_that_can_not_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None, message: str
) -> None:
    write(tmp_path, "a.txt", "b.txt")
    monkeypatch.chdir(tmp_path)
    if data is not None:
        (tmp_path / "list").write_bytes(data)
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        find_files(train=["b.txt"], valid=["@list"])


def test_a_list_that_is_damaged_or_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.gz").write_bytes(gzip.compress(b"a.txt\n")[:-4])
    with pytest.raises(
        InputError, match=r"list\.gz: the list can't be read \(ends inside stream 1\)"
    ):
        find_files([f"@{tmp_path}/list.gz"])
    with pytest.raises(InputError, match=r"the list can't be read \(Is a directory\)"):
        find_files([f"@{tmp_path}"])


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
    with pytest.raises(InputError, match="pipe is not a regular file"):
        find_files([str(tmp_path / "pipe")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(InputError, match=r"a\.txt can't be read \(Permission denied\)"):
        find_files([str(tmp_path)])


def test_messages_say_what_where_and_what_next() -> None:
    def describe(reason: str, **config: str) -> str:
        return describe_bad_text(
            "x", reason=reason, offset=7, detail="the byte 0xe9", config=DataConfig(**config)
        )

    assert describe("empty") == "x is empty; leave it out or add --on-bad-text=skip"
    assert describe("empty", on_bad_text="skip") == "x is empty; leave it out"
    assert describe("blank", on_bad_text="replace") == "x contains only white space; leave it out"
    assert describe("binary") == (
        "x is a binary file (the byte 0xe9 at byte offset 7); leave it out or add "
        "--on-bad-text=skip"
    )
    assert describe("damaged", on_bad_text="skip") == (
        "x is damaged or truncated (the byte 0xe9); make it again, or leave it out"
    )
    assert describe("line") == (
        "x has a line that is too long (the byte 0xe9 after byte offset 7); break it into lines, "
        "or leave it out or add --on-bad-text=skip"
    )
    assert describe("undecodable") == (
        "x is not utf-8 text (the byte 0xe9 at byte offset 7); try --encoding latin-1, or "
        "--on-bad-text=skip|replace"
    )
    assert describe("undecodable", encoding="ascii", on_bad_text="skip") == (
        "x is not ascii text (the byte 0xe9 at byte offset 7); try another --encoding"
    )


def test_fingerprint_sees_names_and_contents() -> None:
    def of(*files: tuple[str, str]) -> str:
        fingerprint = ContentFingerprint()
        for name, digit in files:
            fingerprint.add(name, digit * 64)
        return fingerprint.hexdigest()

    one = of(("a", "0"), ("b", "1"))
    rows = f"{'0' * 64}  a\n{'1' * 64}  b\n"
    assert one == hashlib.sha256(rows.encode()).hexdigest()
    assert one not in (of(("a", "0"), ("c", "1")), of(("a", "0"), ("b", "2")))
