from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpointing import checkpoints
from model.checkpointing.checkpoints import (
    best_checkpoint,
    list_checkpoints,
    newest_checkpoint,
    save_checkpoint,
    step_of,
)
from model.checkpointing.retention import WholeCheck, prune_checkpoints, set_aside
from model.errors import InputError
from model.files import hash_file


def save(
    workdir: Path, step: int, *, keep: int, score: float | None = None, **options: Any
) -> Path:
    meta = {} if score is None else {"valid_log_likelihood": score * 10, "valid_words": 10}
    arrays = {"a": np.arange(step)}
    path = save_checkpoint(str(workdir), step=step, arrays=arrays, meta=meta)
    prune_checkpoints(str(workdir), keep=keep, written=path, **options)
    return Path(path)


def steps(workdir: Path) -> list[int]:
    return [step_of(path) for path in list_checkpoints(str(workdir))]


def cut_short(path: Path) -> None:
    (path / "arrays.npz").write_bytes((path / "arrays.npz").read_bytes()[:-1])


def garble(path: Path) -> None:
    data = (path / "meta.json").read_bytes()
    (path / "meta.json").write_bytes(data[:-2] + b" \n")


def lose(path: Path) -> None:
    (path / "arrays.npz").unlink()


@pytest.mark.parametrize("damage", [cut_short, garble, lose])
def test_one_just_saved_stays_though_damaged_ones_are_newer(tmp_path: Path, damage: Any) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=9)
    for step in (20, 30, 40):
        damage(tmp_path / "checkpoints" / f"step-{step:08d}")
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoints" / "step-00000010")
    save(tmp_path, 15, keep=2)
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoints" / "step-00000015")
    save(tmp_path, 20, keep=2)  # takes the place of a damaged one
    assert steps(tmp_path) == [40, 30, 20, 15]
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoints" / "step-00000020")


def test_one_just_saved_stays_though_whole_ones_are_newer(tmp_path: Path) -> None:
    for step in (20, 30):
        save(tmp_path, step, keep=2)
    save(tmp_path, 10, keep=2, good_step=20)
    assert steps(tmp_path) == [30, 20, 10]


def test_damaged_ones_do_not_count(tmp_path: Path) -> None:
    one, two, three = (save(tmp_path, step, keep=9) for step in (10, 20, 30))
    cut_short(two)
    cut_short(three)
    save(tmp_path, 40, keep=2)
    assert steps(tmp_path) == [40, 30, 20, 10]
    save(tmp_path, 50, keep=2)  # two whole ones that are newer: all before goes
    assert steps(tmp_path) == [50, 40]
    assert not one.exists()


def test_the_best_whole_one_is_never_removed(tmp_path: Path) -> None:
    save(tmp_path, 10, keep=2, score=-3.0)
    best = save(tmp_path, 20, keep=2, score=-2.0)
    damaged = save(tmp_path, 30, keep=9, score=-1.0)
    cut_short(damaged)
    for step in (40, 50, 60):
        save(tmp_path, step, keep=2, score=-5.0)
    assert steps(tmp_path) == [60, 50, 20]
    assert best_checkpoint(str(tmp_path)).path == str(best)


def test_nothing_is_removed_while_too_few_are_whole(tmp_path: Path) -> None:
    paths = [save(tmp_path, step, keep=9) for step in (10, 20, 30, 40)]
    for path in paths:
        cut_short(path)
    save(tmp_path, 50, keep=2)
    assert steps(tmp_path) == [50, 40, 30, 20, 10]


def test_the_newest_good_one_stays(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        save(tmp_path, step, keep=2, good_step=step - 1)
    for step in (10, 12, 14, 16):
        save(tmp_path, step, keep=2, good_step=7)
    assert steps(tmp_path) == [16, 14, 6]
    save(tmp_path, 18, keep=2, good_step=17)  # it was one jump only
    assert steps(tmp_path) == [18, 16]


def test_the_newest_good_one_is_a_whole_one(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step, keep=9)
    cut_short(tmp_path / "checkpoints" / "step-00000006")
    for step in (8, 10, 12):
        save(tmp_path, step, keep=2, good_step=6)
    assert steps(tmp_path) == [12, 10, 4]


def test_without_a_good_one_the_newest_stay(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        save(tmp_path, step, keep=2, good_step=-1)
    assert steps(tmp_path) == [8, 6]


def test_what_may_not_be_read_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(tmp_path, 10, keep=2, score=-1.0)  # nobody can say that it isn't the best
    for step in (20, 30, 40):
        save(tmp_path, step, keep=9, score=-2.0)

    def deny(path: str) -> str:
        if path.startswith(str(first)):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return hash_file(path)

    monkeypatch.setattr(checkpoints, "hash_file", deny)
    save(tmp_path, 50, keep=2, score=-2.0)
    assert steps(tmp_path) == [50, 40, 10]
    with pytest.raises(InputError, match="Permission denied"):
        WholeCheck()(str(first))


def test_each_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(save(tmp_path, step, keep=9)) for step in (10, 20)]
    read: list[str] = []
    verify = checkpoints.verify_checkpoint

    def count(path: str) -> dict[str, Any]:
        read.append(path)
        return verify(path)

    monkeypatch.setattr("model.checkpointing.retention.verify_checkpoint", count)
    is_whole = WholeCheck()
    assert [is_whole(path) for path in [*paths, *paths]] == [True] * 4
    assert read == paths
    cut_short(Path(paths[0]))
    assert [is_whole(path) for path in [*paths, *paths]] == [False, True] * 2
    assert read == [*paths, paths[0]]
    lose(Path(paths[1]))
    assert not is_whole(paths[1])


def test_checkpoints_of_a_broken_model_are_set_aside(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=9, score=-1.0)
    folder = tmp_path / "checkpoints"
    assert set_aside(str(tmp_path), first_bad=99) == []
    assert set_aside(str(tmp_path), first_bad=31) == [
        str(folder / "diverged-step-00000040"),
        str(folder / "diverged-step-00000030"),
    ]
    assert steps(tmp_path) == [20, 10]
    assert newest_checkpoint(str(tmp_path)) == str(folder / "step-00000020")
    assert best_checkpoint(str(tmp_path)).step == 20
    save(tmp_path, 30, keep=2)  # it goes on, and breaks again
    assert steps(tmp_path) == [30, 20]
    assert set_aside(str(tmp_path), first_bad=22) == [str(folder / "diverged-step-00000030")]
    assert sorted(os.listdir(folder)) == [
        "diverged-step-00000030",
        "diverged-step-00000040",
        "step-00000020",
    ]
    assert set_aside(str(tmp_path), first_bad=1) == [str(folder / "diverged-step-00000020")]
    assert newest_checkpoint(str(tmp_path)) is None
    assert set_aside(str(tmp_path / "missing"), first_bad=1) == []
