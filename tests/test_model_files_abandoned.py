"""What killed processes leave of their temporary folders, and who may remove it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.files import STALE_SECONDS, publish_folder, temporary_folder

WORKER = """
import sys
from model import files
files.is_fixed = lambda folder: {inside}
with files.temporary_folder(sys.argv[1]) as folder:
    open(folder + "/x", "w").close()
    print(folder, flush=True)
    input()
"""


def age(folder: str | Path) -> None:
    then = time.time() - STALE_SECONDS - 60
    os.utime(folder, (then, then))


@pytest.mark.parametrize("inside", [False, True])
def test_only_what_a_killed_process_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    """Not by its number: that of another container's process may be the same."""
    if inside:
        monkeypatch.setattr("model.files.is_fixed", lambda folder: True)
        tmp_path.joinpath("a").mkdir()
    parent, prefix = (tmp_path / "a", "") if inside else (tmp_path, "a")
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WORKER.format(inside=inside), str(tmp_path / "a")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]
        made = [Path(worker.stdout.readline().strip()) for worker in workers if worker.stdout]
        workers[0].kill()
        workers[0].wait()
        other = parent / f"{prefix}.tmp-old"  # a user's
        other.mkdir()
        for folder in (*made, other):
            age(folder)
        fresh = parent / f"{prefix}.tmp-{'0' * 32}"  # of a process killed just now
        fresh.mkdir()
        with temporary_folder(str(tmp_path / "a")) as folder:
            assert set(os.listdir(parent)) == {
                *(path.name for path in (made[1], other, fresh)),
                os.path.basename(folder),
            }
            assert os.listdir(made[1]) == ["x"]
        workers[1].communicate("\n")


def test_where_folders_can_not_be_locked_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))  # as on NFS

    monkeypatch.setattr(fcntl, "flock", refuse)
    old = tmp_path / f"a.tmp-{'0' * 32}"
    old.mkdir()
    age(old)
    with temporary_folder(str(tmp_path / "a")) as folder:
        publish_folder(folder, str(tmp_path / "a"))
    assert sorted(os.listdir(tmp_path)) == ["a", old.name]
