"""The training text of records, trainings and versions; which test records are left out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.preprocess.main import run
from components.train import initial_weights
from model.checkpointing.checkpoints import write_checkpoint
from model.checkpointing.seen_records import (
    CHALLENGER,
    find_left_out,
    read_sides,
    read_training,
    read_training_text,
    read_version,
    save_training,
    save_version,
)
from model.config import DataConfig
from model.data.records import Dataset
from model.data.seen import SEEN_FILE, SeenText
from model.errors import InputError
from model.presets import tiny

CONFIG = DataConfig(document="line", min_count=1, valid_fraction=0.0, test_fraction=0.5)


def _prepare(folder: Path, text: str, config: DataConfig = CONFIG) -> str:
    folder.mkdir()
    (folder / "text.txt").write_text(text)
    records = str(folder / "records")
    run(inputs=[str(folder / "text.txt")], records=records, config=config, beam_workers=1)
    return records


def _lines(start: int, stop: int) -> str:
    return "".join(f"line {at} has its own words a{at} b{at} c{at}\n" for at in range(start, stop))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of 40 lines."""
    return _prepare(tmp_path_factory.mktemp("old") / "of", _lines(0, 40))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of 80 lines, half of them those of `old` at other places, so in other splits."""
    return _prepare(tmp_path_factory.mktemp("new") / "of", "first\n" + _lines(0, 80))


def _texts(dataset: Dataset, split: str) -> list[bytes]:
    count = len(dataset.lengths(split))
    return [b" ".join(dataset.read(split, at).spelled_words()[1:-1]) for at in range(count)]


def _version(folder: Path, records: str, **meta: Any) -> str:
    """Makes what looks like a version of an older charloom."""
    os.makedirs(folder / "checkpoint")
    with Dataset.open(records) as dataset:
        digest = dataset.digest
    write_checkpoint(
        str(folder / "checkpoint"), step=1, arrays={}, meta={"dataset_digest": digest, **meta}
    )
    (folder / "report.json").write_text(json.dumps({"dataset": {"path": records}}))
    return str(folder)


def test_the_file_holds_what_the_records_hold(tiny_records: str, old: str) -> None:
    for records in (tiny_records, old):
        with Dataset.open(records) as dataset:
            stored = read_training_text(dataset)
            del dataset.info["seen"]
            computed = read_training_text(dataset)
        assert len(stored.hashes) > 10
        np.testing.assert_array_equal(stored.hashes, computed.hashes)


def test_a_changed_file_is_refused(old: str, tmp_path: Path) -> None:
    records = str(tmp_path / "records")
    shutil.copytree(old, records)
    SeenText().save(os.path.join(records, SEEN_FILE))
    with (
        Dataset.open(records) as dataset,
        pytest.raises(InputError, match="was truncated or changed"),
    ):
        read_training_text(dataset)


def test_what_either_side_has_seen_is_left_out(old: str, new: str) -> None:
    with Dataset.open(old) as theirs, Dataset.open(new) as ours:
        trained = set(_texts(theirs, "train"))
        sides = {CHALLENGER: read_training_text(ours), "champion": read_training_text(theirs)}
        left_out = find_left_out(ours, "test", sides)
        expected = [text in trained for text in _texts(ours, "test")]
        lengths = ours.lengths("test")
    assert left_out.mask.tolist() == expected
    assert 0 < sum(expected) < len(expected)
    words = int(lengths[left_out.mask].sum())
    assert left_out.describe(lengths) == {
        "records": sum(expected),
        "words": words,
        "share": words / lengths.sum(),
        "sampled_share": 1.0,
        "not_looked_up": 0,
        "by": {"challenger": 0, "champion": sum(expected)},
    }


def test_what_a_sample_can_not_look_up_is_left_out(old: str) -> None:
    with Dataset.open(old) as dataset:
        sides = {CHALLENGER: read_training_text(dataset), "champion": SeenText(halvings=60)}
        left_out = find_left_out(dataset, "test", sides)
        records = len(dataset.lengths("test"))
        described = left_out.describe(dataset.lengths("test"))
    assert left_out.mask.all()
    assert (described["records"], described["not_looked_up"]) == (records, records)
    assert described["by"] == {"challenger": 0, "champion": 0}
    assert described["sampled_share"] == 2.0**-60


def test_an_empty_split_has_nothing_left_out(old: str) -> None:
    with Dataset.open(old) as dataset:
        found = find_left_out(dataset, "valid", {CHALLENGER: read_training_text(dataset)})
        assert find_left_out(dataset, "test", {}).mask.sum() == 0
    assert found.mask.shape == (0,)
    assert found.describe(np.zeros(0, np.int64))["share"] == 0.0


def test_a_training_has_seen_its_records_and_its_base(old: str, new: str, tmp_path: Path) -> None:
    base, workdir, version = (str(tmp_path / name) for name in ("base", "work", "version"))
    for folder in (base, workdir, version):
        os.mkdir(folder)
    with Dataset.open(old) as theirs, Dataset.open(new) as ours:
        read_training_text(theirs).save(os.path.join(base, SEEN_FILE))
        assert save_training(workdir, ours, base=base, is_new=True) == ""
        both = read_training_text(theirs).union(read_training_text(ours))
        save_version(version, workdir, {}, ours)
        # Going on keeps what is there, whatever base is named now.
        assert save_training(workdir, ours, base="", is_new=False) == ""
        for found in (read_training(workdir, {}, ours), read_version(version, ours)):
            np.testing.assert_array_equal(found.hashes, both.hashes)
        # Beginning anew does not.
        assert save_training(workdir, ours, base="", is_new=True) == ""
        alone = read_training(workdir, {}, ours)
        np.testing.assert_array_equal(alone.hashes, read_training_text(ours).hashes)


def test_the_start_of_a_training_writes_what_it_sees(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initial_weights, "_check_beginning", lambda workdir, given: None)
    base, workdir = str(tmp_path / "base"), str(tmp_path / "work")
    os.mkdir(base)
    os.mkdir(workdir)
    with Dataset.open(old) as theirs, Dataset.open(new) as ours:
        text, more = read_training_text(ours), read_training_text(theirs)
        more.save(os.path.join(base, SEEN_FILE))
        for given, is_new, expected in (("", True, text), (base, False, text.union(more))):
            initial_weights.begin(workdir, tiny(), dataset=ours, warm_start=given, is_new=is_new)
            found = SeenText.load(os.path.join(workdir, SEEN_FILE))
            np.testing.assert_array_equal(found.hashes, expected.hashes)


def test_an_old_version_has_seen_its_records_where_they_are_known(
    old: str, new: str, tmp_path: Path
) -> None:
    first = _version(tmp_path / "1", old)
    warm = _version(tmp_path / "2", new, warm_start={"path": first})
    with Dataset.open(old) as theirs, Dataset.open(new) as ours:
        text = read_training_text(theirs)
        for dataset in (theirs, ours):  # at hand, or where the report says
            np.testing.assert_array_equal(read_version(first, dataset).hashes, text.hashes)
        both = text.union(read_training_text(ours))
        np.testing.assert_array_equal(read_version(warm, ours).hashes, both.hashes)
        shutil.rmtree(first)
        with pytest.raises(InputError, match="name another version"):
            read_version(warm, ours)


def test_what_is_not_known_is_refused_with_the_way_on(old: str, new: str, tmp_path: Path) -> None:
    lost = _version(tmp_path / "1", old)
    (tmp_path / "1" / "report.json").write_text(json.dumps({"dataset": {"path": "/nowhere"}}))
    workdir = str(tmp_path / "work")
    os.mkdir(workdir)
    with Dataset.open(new) as ours:
        problem = save_training(workdir, ours, base=lost, is_new=True)
        assert problem == (
            f"what {lost} has seen is unknown: it was published by an older charloom (no "
            "seen.npy), and its records are not at /nowhere any more; prepare them there again, "
            "or publish a model trained without --warm-start"
        )
        assert not os.path.exists(os.path.join(workdir, SEEN_FILE))
        meta = {"warm_start": {"path": lost}}
        sides = read_sides(ours, workdir, meta, {"champion": lost, "reference": ""})
    assert sides.unknown == {CHALLENGER: problem, lost: problem}
    assert list(sides.seen) == [CHALLENGER]


def test_records_of_format_2_are_read() -> None:
    records = str(Path(__file__).parent / "data" / "records_format_2")
    with Dataset.open(records) as dataset:
        assert "seen" not in dataset.info
        text = read_training_text(dataset)
        found = find_left_out(dataset, "train", {CHALLENGER: text})
    assert found.mask.all()
