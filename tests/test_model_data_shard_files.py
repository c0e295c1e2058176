from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from model.data import shard_files
from model.data.example_writer import frame
from model.data.shard_files import ShardFiles, count_open_shards


def write_shards(folder: Path, count: int) -> list[str]:
    """Writes shards of two records: `a0` and `b0`, `a1` and `b1`, ..."""
    paths = []
    for number in range(count):
        path = folder / f"{number}.tfrecord"
        path.write_bytes(frame(f"a{number}".encode()) + frame(f"b{number}".encode()))
        paths.append(str(path))
    return paths


def second(number: int) -> int:
    """Returns the offset of a shard's second record."""
    return len(frame(f"a{number}".encode()))


def open_shards(folder: Path) -> list[str]:
    """Returns the names of the files of a folder that this process has open."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    paths = [os.readlink(link) for link in links if os.path.lexists(link)]
    return sorted(os.path.basename(path) for path in paths if path.startswith(f"{folder}/"))


def test_only_the_last_used_shards_are_open(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, 10)
    files = ShardFiles(3)
    for number, path in enumerate(paths):
        assert files.read(path, 0) == f"a{number}".encode()
        assert files.read(paths[0], 0) == b"a0"  # used all the time, so it stays open
        assert len(files) == min(number + 1, 3)
    assert open_shards(tmp_path) == ["0.tfrecord", "8.tfrecord", "9.tfrecord"]
    for number, path in reversed(list(enumerate(paths))):
        assert files.read(path, second(number)) == f"b{number}".encode()
    assert open_shards(tmp_path) == ["0.tfrecord", "1.tfrecord", "2.tfrecord"]
    files.close()
    assert open_shards(tmp_path) == []
    assert files.read(paths[4], 0) == b"a4"
    files.close()


def test_threads_share_few_files(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, 7)
    files = ShardFiles(2)
    wrong: list[bytes] = []

    def read(start: int) -> None:
        for step in range(400):
            number = (start * step + start) % 7
            found = files.read(paths[number], second(number) if step % 2 else 0)
            if found != f"{'ab'[step % 2]}{number}".encode():
                wrong.append(found)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(files) == 2
    files.close()


def test_a_shard_that_is_gone_leaves_the_others_readable(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, 3)
    os.remove(paths[1])
    files = ShardFiles(1)
    assert files.read(paths[0], 0) == b"a0"
    with pytest.raises(FileNotFoundError):
        files.read(paths[1], 0)
    assert files.read(paths[2], 0) == b"a2"
    files.close()


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (256, 64),
        (1024, 256),
        (1 << 20, shard_files.MAX_OPEN),
        (resource.RLIM_INFINITY, shard_files.MAX_OPEN),
        (20, shard_files.MIN_OPEN),
    ],
)
def test_a_quarter_of_the_files_allowed(
    limit: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    assert count_open_shards() == expected


READ_ALL = """
import glob, os, resource, sys
from model.data.shard_files import ShardFiles

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
held = [open(os.devnull) for _ in range(150)]  # what else the process has open
files = ShardFiles()
paths = sorted(glob.glob(sys.argv[1] + "/*"))
sizes = [len(files.read(path, 0)) for path in paths * 2]
print(len(sizes), len(files))
"""


def test_thousands_of_shards_under_a_limit_of_256_files(tmp_path: Path) -> None:
    write_shards(tmp_path, 2000)
    command = [sys.executable, "-c", READ_ALL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("4000 64\n", "")
