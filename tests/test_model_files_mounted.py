"""Results that are written to a folder that can't be renamed: a mounted one, say."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from mounts import run_with_mount

from components.interruption import ending_on_signals
from model import files
from model.errors import RestartableError
from model.files import is_complete, publish_folder, temporary_folder

BIND = "--bind {}"
"""Mounts a folder of the same file system, of which os.path.ismount knows nothing."""

PUBLISHED = """
import os, sys
from model import files
target = {target!r}
assert files.is_fixed(target)
for round in range(2):
    with files.temporary_folder(target) as folder:
        print(os.path.dirname(folder) == target)
        os.mkdir(folder + "/d")
        open(f"{{folder}}/d/{{round}}", "w").close()
        open(f"{{folder}}/{{round}}", "w").close()
        files.publish_folder(folder, target, marker="done", replace=True)
    print(sorted(os.listdir(target)), os.listdir(target + "/d"), open(target + "/COMPLETED").read())
with files.temporary_folder(target) as folder:
    pass
print(len(os.listdir(target)))
try:
    with files.temporary_folder(target) as folder:
        files.publish_folder(folder, target)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("bind", [False, True])
def test_a_mounted_folder_is_filled_and_filled_again(tmp_path: Path, bind: bool) -> None:
    target, source = tmp_path / "a folder", tmp_path / "source"
    target.mkdir()
    source.mkdir()
    mount = {"mount": BIND.format(source)} if bind else {}
    done = run_with_mount(target, PUBLISHED.format(target=str(target)), **mount)
    assert done.stdout.splitlines() == [
        "True",
        "['0', 'COMPLETED', 'd'] ['0'] done",
        "True",
        "['1', 'COMPLETED', 'd'] ['1'] done",
        "3",
        os.strerror(errno.ENOTEMPTY),
    ], done.stderr
    assert os.listdir(target) == []
    assert len(os.listdir(source)) == (3 if bind else 0)


def test_an_ordinary_folder_is_not_fixed(tmp_path: Path) -> None:
    assert not files.is_fixed(str(tmp_path / "none"))
    assert not files.is_fixed(str(tmp_path))
    (tmp_path / "x").touch()
    assert not files.is_fixed(str(tmp_path))
    assert not files.is_fixed(str(tmp_path / "x"))


def test_what_a_file_system_and_killed_processes_leave_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".tmp-12").mkdir()
    assert files.list_entries(str(tmp_path)) == []
    with temporary_folder(str(tmp_path)) as folder:
        Path(folder, "x").touch()
        publish_folder(folder, str(tmp_path), marker="done")
    assert sorted(os.listdir(tmp_path)) == [".tmp-12", "COMPLETED", "lost+found", "x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_in_one_that_can_not_be_written_is_filled(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    tmp_path.chmod(0o500)
    with temporary_folder(str(tmp_path / "a")) as folder:
        publish_folder(folder, str(tmp_path / "a"), marker="done")
    tmp_path.chmod(0o700)
    assert os.listdir(tmp_path / "a") == ["COMPLETED"]


@pytest.mark.parametrize("move", [1, 2, 3])
@pytest.mark.parametrize("error", [None, OSError("no")])
def test_a_fixed_folder_is_filled_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: int, error: OSError | None
) -> None:
    """Whatever comes between two of its files."""
    rename, calls = os.rename, []

    def interrupted(source: str, target: str) -> None:
        rename(source, target)
        calls.append(target)
        if len(calls) == move:
            if error:
                raise error
            os.kill(os.getpid(), 15)

    monkeypatch.setattr(files, "is_fixed", os.path.isdir)
    expected = type(error) if error else RestartableError
    with (  # noqa: PT012 (what is there when it is interrupted is part of the test)
        pytest.raises(expected),
        ending_on_signals(lambda _: None, seconds=300),
        temporary_folder(str(tmp_path)) as folder,
    ):
        Path(folder, "x").touch()
        Path(folder, "y").mkdir()
        monkeypatch.setattr("model.files.os.rename", interrupted)
        publish_folder(folder, str(tmp_path), marker="done")
    assert [Path(target).name for target in calls][2:] == ["COMPLETED"][: move - 2]
    assert os.listdir(tmp_path) == []
    assert not is_complete(str(tmp_path))
