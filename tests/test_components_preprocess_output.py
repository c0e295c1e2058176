from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.preprocess import main
from components.preprocess.main import run
from components.preprocess.passes import scan, work_units, write
from components.preprocess.passes.write import write_group
from model.config import DataConfig
from model.errors import InputError
from model.files import whole_file

ALL_TRAIN = DataConfig(min_count=1, valid_fraction=0.0, test_fraction=0.0)


def write_text(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.txt").write_text("the cat sat\nthe dog ran\n")
    (folder / "b.txt").write_text("the cat ran\n")
    return folder


def run_on(inputs: Path, records: Path, config: DataConfig) -> dict[str, Any]:
    return run(inputs=[str(inputs)], records=str(records), config=config)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    run_on(write_text(folder / "in"), folder / "records", ALL_TRAIN)
    return folder / "records"


def test_an_empty_folder_is_filled(prepared: Path, tmp_path: Path) -> None:
    records = tmp_path / "deep" / "records"
    records.mkdir(parents=True)
    run_on(write_text(tmp_path / "in"), records, ALL_TRAIN)
    assert contents(records) == contents(prepared)
    assert sorted(os.listdir(tmp_path / "deep")) == ["records"]


def test_what_a_killed_attempt_left_is_not_published(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = []

    def write_twice(index: int, units: Any, *, folder: str, **other: Any) -> dict[str, Any]:
        attempt = whole_file(os.path.join(folder, "train-00000-of-00001.tfrecord"))
        attempt.__enter__().write(b"half of a shard")
        killed.append(attempt)  # never leaves the block
        return write_group(index, units, folder=folder, **other)

    monkeypatch.setattr(write, "write_group", write_twice)
    run_on(write_text(tmp_path / "in"), tmp_path / "records", ALL_TRAIN)
    assert len(killed) == 1
    assert contents(tmp_path / "records") == contents(prepared)


def test_an_empty_folder_that_is_mounted_is_filled(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """test_model_files_mounted.py mounts one; that of a new disk is not quite empty."""
    (tmp_path / "records" / "lost+found").mkdir(parents=True)
    (tmp_path / "records" / ".tmp-0a").mkdir()  # of a killed run
    monkeypatch.setattr("model.files._is_mount_point", lambda folder: True)
    for _ in range(2):
        run_on(write_text(tmp_path / "in"), tmp_path / "records", ALL_TRAIN)
        shutil.rmtree(tmp_path / "in")
    shutil.rmtree(tmp_path / "records" / "lost+found")
    shutil.rmtree(tmp_path / "records" / ".tmp-0a")
    assert contents(tmp_path / "records") == contents(prepared)
    assert os.listdir(tmp_path) == ["records"]


def test_missing_parents_are_made(tmp_path: Path) -> None:
    run_on(write_text(tmp_path / "in"), tmp_path / "a" / "b" / "records", ALL_TRAIN)
    assert (tmp_path / "a" / "b" / "records" / "COMPLETED").exists()


def test_what_is_there_already_is_left(prepared: Path, tmp_path: Path, capsys: Any) -> None:
    folder = write_text(tmp_path / "in")
    before = {file.name: file.stat().st_mtime_ns for file in prepared.iterdir()}
    info = run_on(folder, prepared, ALL_TRAIN)
    assert info == json.loads((prepared / "dataset.json").read_text())
    assert {file.name: file.stat().st_mtime_ns for file in prepared.iterdir()} == before
    assert "already prepared" in capsys.readouterr().out


def occupied(records: Path, inputs: Path, config: DataConfig = ALL_TRAIN) -> str:
    before = contents(records)
    with pytest.raises(InputError) as caught:
        run_on(inputs, records, config)
    assert contents(records) == before
    message = str(caught.value)
    assert message.startswith(f"{records} already holds something")
    assert message.endswith("; choose another folder or delete it")
    return message


def test_the_folder_itself_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "half.txt").write_text("half of an older run\n")
    with pytest.raises(InputError, match=r"half\.txt is output of charloom, not text \("):
        run(inputs=[f"{tmp_path}/half.txt"], records=str(tmp_path), config=ALL_TRAIN)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    (records / "thesis.txt").write_text("precious")
    occupied(records, write_text(tmp_path / "in"))


def test_records_of_another_config_or_input_are_refused(prepared: Path, tmp_path: Path) -> None:
    folder = write_text(tmp_path / "in")
    config = dataclasses.replace(ALL_TRAIN, vocab_size=100)
    assert "records made with another config" in occupied(prepared, folder, config)
    (folder / "a.txt").write_text("the cat sat\n")
    assert "records of another input" in occupied(prepared, folder)


def test_damaged_records_are_refused_and_the_shard_named(prepared: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    shutil.copytree(prepared, records)
    os.truncate(records / "train-00000-of-00001.tfrecord", 90)
    message = occupied(records, write_text(tmp_path / "in"))
    assert "train-00000-of-00001.tfrecord has 90 bytes instead of the " in message


def test_records_of_another_config_version_are_refused(prepared: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    shutil.copytree(prepared, records)
    info = json.loads((records / "dataset.json").read_text())
    (records / "dataset.json").write_text(json.dumps({**info, "config_version": 0}))
    message = occupied(records, write_text(tmp_path / "in"))
    assert "was made with config version 0, but this charloom reads version 1" in message


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("x")
    with pytest.raises(InputError, match="records is a file; choose another folder"):
        run_on(write_text(tmp_path / "in"), tmp_path / "records", ALL_TRAIN)


def test_a_folder_that_can_not_be_made_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(main, "_prepare", None)  # not reached
    with pytest.raises(InputError, match=r"can't write to .*; choose another folder"):
        run_on(write_text(tmp_path / "in"), tmp_path / "file" / "records", ALL_TRAIN)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    folder = write_text(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o500)
    with pytest.raises(InputError, match=r"can't write to .*\(Permission denied\)"):
        run_on(folder, tmp_path / "out" / "records", ALL_TRAIN)


@pytest.mark.parametrize("where", ["Unit.save", "_save_index", "_save_seen", "_write_card"])
def test_no_room_for_what_the_main_process_writes_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*unused: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = work_units.Unit if where == "Unit.save" else main
    monkeypatch.setattr(owner, where.removeprefix("Unit."), full)
    (tmp_path / "a.txt").write_text("some words\n")
    with pytest.raises(InputError) as caught:
        run_on(tmp_path, tmp_path / "out", ALL_TRAIN)
    target = tmp_path / "out"
    assert str(caught.value) == (
        f"can't write to {target} (No space left on device); free space or choose another folder"
    )
    assert os.listdir(tmp_path) == ["a.txt"]


def test_no_room_for_the_pieces_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*unused: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scan, "save_pieces", full)
    (tmp_path / "a.txt").write_text("some words\n")
    with pytest.raises(InputError, match=r"can't write to .* \(.*No space left on device.*free"):
        run(inputs=[str(tmp_path / "a.txt")], records=str(tmp_path / "out"), config=DataConfig())
    assert os.listdir(tmp_path) == ["a.txt"]
