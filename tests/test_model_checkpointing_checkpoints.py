from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.checkpointing import checkpoints
from model.checkpointing.checkpoints import (
    ARRAYS_FILE,
    META_FILE,
    Arrays,
    best_checkpoint,
    disk_full_error,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    read_newest,
    save_checkpoint,
    verify_checkpoint,
)
from model.checkpointing.retention import prune_checkpoints
from model.errors import CharloomError, InputError
from model.files import hash_file

ROOT = Path(__file__).resolve().parent.parent


def make_arrays(step: int = 0) -> Arrays:
    random = np.random.default_rng(step)
    return {
        "model/a/kernel": random.normal(size=(3, 4)).astype(np.float32),
        "adam/first/a/kernel": np.asarray([np.nan, -0.0, np.inf, 1e-45], np.float32),
        "state": random.normal(size=(2, 1, 2, 3)),
        "count": np.asarray(step, np.int64),
        "nothing": np.zeros((0, 5), np.float32),
    }


def save(workdir: Path, step: int, *, score: float | None = None, keep: int = 99) -> Path:
    meta: dict[str, Any] = {"dataset_digest": "d"}
    if score is not None:
        meta |= {"valid_log_likelihood": score * 10, "valid_words": 10}
    arrays = make_arrays(step)
    path = save_checkpoint(str(workdir), step=step, arrays=arrays, meta=meta)
    prune_checkpoints(str(workdir), keep=keep, written=path)
    return Path(path)


def names(workdir: Path) -> list[str]:
    return sorted(os.listdir(workdir / "checkpoints"))


def steps(workdir: Path) -> list[int]:
    return [int(Path(path).name.split("-")[1]) for path in list_checkpoints(str(workdir))]


def test_round_trip_bit_for_bit(tmp_path: Path) -> None:
    path = save(tmp_path, 20, score=-2.5)
    assert path == tmp_path / "checkpoints" / "step-00000020"
    assert sorted(os.listdir(path)) == [ARRAYS_FILE, META_FILE]
    checkpoint = read_checkpoint(str(path))
    expected = make_arrays(20)
    assert list(checkpoint.arrays) == list(expected)
    for name, array in expected.items():
        got = checkpoint.arrays[name]
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert got.tobytes() == array.tobytes()
    assert checkpoint.step == 20
    assert len(checkpoint.digest) == 64
    assert checkpoint.meta == {
        "dataset_digest": "d",
        "valid_log_likelihood": -25.0,
        "valid_words": 10,
        "step": 20,
        "arrays_sha256": checkpoint.digest,
    }


def test_same_arrays_give_same_bytes(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one", 5), save(tmp_path / "two", 5)
    assert (one / ARRAYS_FILE).read_bytes() == (two / ARRAYS_FILE).read_bytes()
    other = save(tmp_path / "one", 6)
    assert read_checkpoint(str(other)).digest != read_checkpoint(str(one)).digest


def test_newest_is_by_step_not_by_spelling(tmp_path: Path) -> None:
    for step in (7, 99_999_999, 1_000, 100_000_000):
        save(tmp_path, step)
    assert steps(tmp_path) == [100_000_000, 99_999_999, 1_000, 7]
    newest = newest_checkpoint(str(tmp_path))
    assert newest is not None
    assert read_checkpoint(newest).step == 100_000_000


def assert_falls_back(
    workdir: Path, caplog: pytest.LogCaptureFixture, *, to: Path, past: Path, why: str
) -> None:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(str(workdir)) == str(to)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"checkpoint {past} is not whole (")
    assert caplog.messages[0].endswith(f"); falling back to {to}")
    assert why in caplog.messages[0]
    with pytest.raises(ValueError, match=r"."):
        verify_checkpoint(str(past))
    with pytest.raises(ValueError, match=r"."):
        read_checkpoint(str(past))


def test_cut_arrays_fall_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    older, newer = save(tmp_path, 20), save(tmp_path, 40)
    data = (newer / ARRAYS_FILE).read_bytes()
    for length in [*range(0, len(data), 37), len(data) - 1]:
        (newer / ARRAYS_FILE).write_bytes(data[:length])
        assert_falls_back(
            tmp_path, caplog, to=older, past=newer, why=f"{ARRAYS_FILE} is cut short or damaged"
        )
    (newer / ARRAYS_FILE).write_bytes(data)
    assert newest_checkpoint(str(tmp_path)) == str(newer)


def test_a_flipped_bit_anywhere_falls_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = save(tmp_path, 20, score=-2.5), save(tmp_path, 40, score=-2.5)
    for name in (META_FILE, ARRAYS_FILE):
        data = (newer / name).read_bytes()
        for at in range(0, len(data), 61 if name == ARRAYS_FILE else 3):
            for bit in (1, 0x20):  # 0x20 turns a letter to a capital, a space to a NUL
                flipped = bytearray(data)
                flipped[at] ^= bit
                (newer / name).write_bytes(flipped)
                assert_falls_back(tmp_path, caplog, to=older, past=newer, why=f"{name} is cut")
        (newer / name).write_bytes(data)
    assert newest_checkpoint(str(tmp_path)) == str(newer)


def test_damaged_arrays_fall_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    older, newer = save(tmp_path, 20), save(tmp_path, 40)
    data = (newer / ARRAYS_FILE).read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for content in (bytes(flipped), data + b"\0", bytes(len(data))):
        (newer / ARRAYS_FILE).write_bytes(content)
        assert_falls_back(tmp_path, caplog, to=older, past=newer, why="cut short or damaged")
    (newer / ARRAYS_FILE).unlink()
    assert_falls_back(tmp_path, caplog, to=older, past=newer, why="No such file")


def test_cut_meta_falls_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    older, newer = save(tmp_path, 20), save(tmp_path, 40)
    data = (newer / META_FILE).read_bytes()
    for length in range(len(data)):
        (newer / META_FILE).write_bytes(data[:length])
        assert_falls_back(tmp_path, caplog, to=older, past=newer, why="")
    (newer / META_FILE).write_bytes(data)
    assert newest_checkpoint(str(tmp_path)) == str(newer)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b"null", b"[]", b'"step"', b'{"step": 40}', b'{"arrays_sha256": "0"}', None],
)
def test_garbled_or_missing_meta_falls_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    older, newer = save(tmp_path, 20), save(tmp_path, 40)
    if content is None:
        (newer / META_FILE).unlink()
    else:
        (newer / META_FILE).write_bytes(content)
    assert_falls_back(tmp_path, caplog, to=older, past=newer, why="")


def test_several_damaged_ones_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [save(tmp_path, step) for step in (20, 40, 60)]
    for path in paths[1:]:
        (path / ARRAYS_FILE).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(str(tmp_path)) == str(paths[0])
    assert [str(paths[2]) in caplog.messages[0], str(paths[1]) in caplog.messages[1]] == [True] * 2


def test_none_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_checkpoint(str(tmp_path / "missing")) is None
    with pytest.raises(InputError, match="has no whole checkpoint; run charloom train"):
        best_checkpoint(str(tmp_path / "missing"))
    path = save(tmp_path, 20, score=-1.0)
    (path / ARRAYS_FILE).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(str(tmp_path)) is None
    assert caplog.messages[-1].endswith("no older checkpoint exists")
    with pytest.raises(InputError, match="has no whole checkpoint"):
        best_checkpoint(str(tmp_path))


def test_best_is_by_score_per_word(tmp_path: Path) -> None:
    save(tmp_path, 20, score=-3.0)
    save(tmp_path, 40, score=-2.0)
    save(tmp_path, 60, score=-2.5)
    save(tmp_path, 80)
    assert best_checkpoint(str(tmp_path)).step == 40
    save(tmp_path, 100, score=-2.0)
    assert best_checkpoint(str(tmp_path)).step == 100  # among equals the newest


def test_best_without_scores_is_the_newest(tmp_path: Path) -> None:
    for step in (20, 40):
        save(tmp_path, step)
    assert best_checkpoint(str(tmp_path)).step == 40


def test_damaged_best_gives_the_next_best(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step, score in ((20, -3.0), (40, -2.0), (60, -4.0)):
        save(tmp_path, step, score=score)
    (tmp_path / "checkpoints" / "step-00000040" / ARRAYS_FILE).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert best_checkpoint(str(tmp_path)).step == 20
    assert "falling back to" in caplog.text


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, score in ((10, -5.0), (20, -1.0), (30, -4.0), (40, None), (50, -3.0), (60, -2.0)):
        save(tmp_path, step, score=score, keep=2)
        assert len(steps(tmp_path)) <= 3
    assert steps(tmp_path) == [60, 50, 20]
    save(tmp_path, 70, score=-0.5, keep=2)
    assert steps(tmp_path) == [70, 60]  # the best is one of the newest


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in ("step-12", "notes", "step-00000020.bak", "xstep-00000020"):
        (folder / name).mkdir(parents=True)
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=2)
    assert steps(tmp_path) == [40, 30]
    assert {"step-12", "notes", "step-00000020.bak", "xstep-00000020"} <= set(names(tmp_path))


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    path = save(tmp_path, 20)
    (path / ARRAYS_FILE).write_bytes(b"damaged")
    (path / "junk").write_bytes(b"")
    assert save(tmp_path, 20) == path
    assert read_checkpoint(str(path)).step == 20
    assert sorted(os.listdir(path)) == [ARRAYS_FILE, META_FILE]


def test_saving_a_step_again_with_its_score_changes_the_score_only(tmp_path: Path) -> None:
    path = save(tmp_path, 20)
    before = os.stat(path / ARRAYS_FILE)
    assert save(tmp_path, 20, score=-2.5) == path
    assert read_checkpoint(str(path)).meta["valid_words"] == 10
    assert os.stat(path / ARRAYS_FILE).st_ino == before.st_ino
    assert names(tmp_path) == ["step-00000020"]


def test_what_may_not_be_read_is_no_reason_to_fall_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = [save(tmp_path, step) for step in (20, 40)][1]

    def deny(path: str, *unused: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(checkpoints, "hash_file", deny)
    with pytest.raises(InputError) as caught:
        newest_checkpoint(str(tmp_path))
    path = newest / ARRAYS_FILE
    assert str(caught.value) == f"{path} can't be read (Permission denied); make it readable"


def test_a_file_in_the_folder_s_place(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(InputError) as caught:
        newest_checkpoint(str(tmp_path))
    assert str(caught.value) == (
        f"folder of checkpoints {tmp_path}/checkpoints can't be read (Not a directory); "
        "make it readable, or choose another --workdir"
    )


def test_left_over_temporary_folder_is_ignored_and_removed(tmp_path: Path) -> None:
    path = save(tmp_path, 20)
    shutil.copytree(path, path.parent / ".tmp-00000040-99999")
    assert steps(tmp_path) == [20]
    assert newest_checkpoint(str(tmp_path)) == str(path)
    save(tmp_path, 30)
    assert names(tmp_path) == ["step-00000020", "step-00000030"]


@pytest.mark.parametrize("broken", ["savez", "fsync", "mkdir", "rename"])
def test_failed_save_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = save(tmp_path, 20)

    error = OSError(errno.EIO, "Input/output error")

    def fail(*unused: object, **unused_too: object) -> None:
        raise error

    monkeypatch.setattr(np if broken == "savez" else os, broken, fail)
    with pytest.raises(OSError, match="Input/output error"):
        save(tmp_path, 40)
    for code in (errno.ENOSPC, errno.EDQUOT):
        error = OSError(code, "full")
        with pytest.raises(CharloomError) as caught:
            save(tmp_path, 40)
        assert re.fullmatch(
            rf"a checkpoint needs 0\.0 MB, [\d.]+ MB are free in {path.parent}; free some and run "
            "the same command to continue from the previous checkpoint",
            str(caught.value),
        )
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000020"]
    assert newest_checkpoint(str(tmp_path)) == str(path)
    assert save(tmp_path, 40).is_dir()


CRASH = """
import os, sys
import numpy as np
from model.checkpointing.checkpoints import save_checkpoint

left = int(sys.argv[2])

def count_down(function):
    def called(*arguments):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return function(*arguments)
    return called

os.fsync = count_down(os.fsync)
os.rename = count_down(os.rename)
arrays = {"a": np.zeros(100_000)}
save_checkpoint(sys.argv[1], step=40, arrays=arrays, meta={})
"""


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 4])
def test_killed_save_leaves_no_half_checkpoint(tmp_path: Path, calls: int) -> None:
    older = save(tmp_path, 20)
    command = [sys.executable, "-c", CRASH, str(tmp_path), str(calls)]
    killed = subprocess.run(command, cwd=ROOT, check=False).returncode
    if calls == 4:  # both files flushed and their folder, and renamed; not the folder above
        assert killed == -9
        assert names(tmp_path) == ["step-00000020", "step-00000040"]
        return
    assert killed == -9
    (temporary,) = set(names(tmp_path)) - {"step-00000020"}
    assert temporary.startswith("step-00000040.tmp-")
    assert newest_checkpoint(str(tmp_path)) == str(older)
    save(tmp_path, 40)
    assert names(tmp_path) == ["step-00000020", "step-00000040"]


def test_meta_is_json_for_people_too(tmp_path: Path) -> None:
    text = (save(tmp_path, 20) / META_FILE).read_text(encoding="utf-8")
    assert json.loads(text)["step"] == 20
    assert text.splitlines()[:3] == ["{", '  "dataset_digest": "d",', '  "step": 20,']


def test_a_full_disk_is_told_in_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000_000_000))
    assert str(disk_full_error(str(tmp_path), needed=5_000_000_000_000)) == (
        f"a checkpoint needs 5000000.0 MB, 3000000.0 MB are free in {tmp_path}; free some and run "
        "the same command to continue from the previous checkpoint"
    )


def test_the_newest_whole_one_is_read(tmp_path: Path) -> None:
    assert read_newest(str(tmp_path)) is None
    save(tmp_path, 20)
    (save(tmp_path, 40) / ARRAYS_FILE).write_bytes(b"")
    found = read_newest(str(tmp_path))
    assert found is not None
    assert found.step == 20
    np.testing.assert_array_equal(found.arrays["state"], make_arrays(20)["state"])


def test_what_would_have_to_be_unpickled_is_not_read(tmp_path: Path) -> None:
    """Whole by its digests, but whoever wrote it could have any code run."""
    np.savez(tmp_path / ARRAYS_FILE, state=np.asarray([{}], object))
    meta = {"step": 20, "arrays_sha256": hash_file(str(tmp_path / ARRAYS_FILE))}
    (tmp_path / META_FILE).write_text(checkpoints._meta_text(meta))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_checkpoint(str(tmp_path))
