"""Files and folders that are there whole or not at all, and how a version's folder is known."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from model import files
from model.errors import InputError
from model.files import (
    holds_saved_model,
    is_complete,
    lock_file,
    publish_folder,
    read_json,
    remove_temporaries,
    temporary_folder,
    version_number,
    whole_file,
    write_whole,
)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("registry/lm/3", 3),
        ("registry/lm/3/", 3),
        ("12", 12),
        ("registry/3/lm", None),
        ("v3", None),
        ("-3", None),
        (".", None),
        ("/", None),
    ],
)
def test_the_number_of_a_versions_folder(path: str, number: int | None) -> None:
    assert version_number(path) == number


def test_what_holds_a_saved_model(tmp_path: Path) -> None:
    assert not holds_saved_model(str(tmp_path))
    assert not holds_saved_model(str(tmp_path / "gone"))
    (tmp_path / "saved_model.pb").touch()
    assert holds_saved_model(str(tmp_path))


class _Stop(BaseException):
    """Stands for Ctrl-C and SIGTERM."""


@pytest.mark.parametrize("flush", [True, False])
def test_a_file_appears_whole_and_replaces_an_older_one(tmp_path: Path, flush: bool) -> None:
    path = tmp_path / "a"
    write_whole(str(path), "old")
    with whole_file(str(path), flush=flush) as file:
        file.write(b"n")
        assert path.read_text() == "old"
        file.write(b"ew")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_text_is_written_as_utf_8_without_a_change(tmp_path: Path) -> None:
    write_whole(str(tmp_path / "a"), "é\r\n\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\r\n\n"


@pytest.mark.parametrize("error", [OSError, _Stop])
def test_a_file_that_fails_leaves_the_older_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail() -> None:
        with whole_file(str(path)) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_gets_its_name_and_its_marker(tmp_path: Path) -> None:
    target = tmp_path / "above" / "a"
    with temporary_folder(str(target)) as folder:
        Path(folder, "x").write_text("1")
        assert not target.exists()
        publish_folder(folder, str(target), marker="done\n")
    assert (target / "COMPLETED").read_text() == "done\n"
    assert sorted(os.listdir(target)) == ["COMPLETED", "x"]
    assert is_complete(str(target))
    assert os.listdir(tmp_path / "above") == ["a"]


@pytest.mark.parametrize("error", [OSError, _Stop])
def test_a_folder_that_nobody_published_is_removed(
    tmp_path: Path, error: type[BaseException]
) -> None:
    with temporary_folder(str(tmp_path / "a")) as folder:
        Path(folder, "x").write_text("1")
    assert os.listdir(tmp_path) == []
    with pytest.raises(error), temporary_folder(str(tmp_path / "a")) as folder:
        raise error
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_is_taken_and_a_full_one_is_not(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.mkdir()
    with temporary_folder(str(target)) as folder:
        Path(folder, "x").write_text("1")
        publish_folder(folder, str(target))
    assert not is_complete(str(target))  # no marker was asked for
    with temporary_folder(str(target)) as folder:
        Path(folder, "y").touch()
        with pytest.raises(OSError, match="not empty"):
            publish_folder(folder, str(target))
    assert os.listdir(target) == ["x"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_replaced_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    target.mkdir()
    (target / "old").touch()
    rename = os.rename

    def fail_on_new(source: str, to: str) -> None:
        if os.path.exists(os.path.join(source, "new")):
            raise OSError("no")
        rename(source, to)

    with monkeypatch.context() as patch, temporary_folder(str(target)) as folder:
        patch.setattr(files.os, "rename", fail_on_new)
        Path(folder, "new").touch()
        with pytest.raises(OSError, match="no"):
            publish_folder(folder, str(target), replace=True)
        assert os.listdir(target) == ["old"]
    assert os.listdir(tmp_path) == ["a"]
    with temporary_folder(str(target)) as folder:
        Path(folder, "new").touch()
        publish_folder(folder, str(target), replace=True)
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_forked_process_does_not_remove_what_its_parent_is_writing(tmp_path: Path) -> None:
    with temporary_folder(str(tmp_path / "a")) as folder:
        child = os.fork()
        if not child:
            try:
                files.remove_unfinished()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert os.path.isdir(folder)


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    write_whole(str(tmp_path / "kept"), "x")
    (tmp_path / "a.tmp-12").mkdir()
    (tmp_path / "a.tmp-12" / "x").touch()
    (tmp_path / "b.tmp-34").touch()
    remove_temporaries(str(tmp_path))
    assert os.listdir(tmp_path) == ["kept"]


def test_json_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_json(str(path)) == {}
    for text, content in (("{", {}), ("[1]", {}), ('{"a": 1}', {"a": 1})):
        path.write_text(text)
        assert read_json(str(path)) == content


def test_a_lock_is_held_until_its_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with open(path, "w") as first, open(path) as second:
        assert lock_file(first)
        assert not lock_file(second, wait=False)
        first.close()
        assert lock_file(second, wait=False)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("wait", [True, False])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wait: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with open(tmp_path / "a", "w") as file, pytest.raises(InputError) as raised:
        lock_file(file, wait=wait)
    assert str(raised.value) == (
        f"files in {tmp_path} can't be locked ({os.strerror(number)}); choose a folder on a local "
        "disk, or mount that one with locks (NFS: vers=4 or local_lock=flock, Lustre: flock)"
    )
