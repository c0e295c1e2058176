from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.preprocess.main import run
from model.config import DataConfig
from model.errors import InputError
from model.records import (
    Dataset,
    encode_record,
    framed_size,
    parse_record,
    read_framed,
    shard_name,
)
from model.vocab import Vocabulary

VOCAB = Vocabulary.build({b"the": 3, "é".encode(): 2, b"\n": 1}, max_size=8, min_count=1)
STREAM = [b"", b"the", "é".encode(), b"zebra", b"\n"]


def test_a_record_holds_ids_and_true_spellings() -> None:
    record = parse_record(encode_record(STREAM, VOCAB, source="f:7"))
    assert record.word_ids.tolist() == [2, 3, 4, 1, 0]
    assert record.word_lengths.tolist() == [1, 3, 2, 5, 1]
    letters = [byte + 5 for byte in "theézebra".encode()]
    assert record.char_ids.tolist() == [3, *letters, 4]
    assert record.source == "f:7"
    assert record.words == 4
    assert record.spelled_words() == STREAM
    assert {array.dtype for array in (record.word_ids, record.char_ids)} == {np.dtype(np.int64)}


def test_the_bytes_of_a_record_are_fixed() -> None:
    one = encode_record(STREAM, VOCAB, source="é:0")
    assert one == encode_record(STREAM, VOCAB, source="é:0")
    assert parse_record(one).source == "é:0"
    example = tf.train.Example.FromString(one)
    assert sorted(example.features.feature) == ["char_ids", "source", "word_ids", "word_lengths"]


def test_a_context_word_of_a_later_piece_keeps_its_spelling() -> None:
    record = parse_record(encode_record([b"zebra", b"the"], VOCAB, source="f:0"))
    assert record.word_ids.tolist() == [1, 3]
    assert record.spelled_words() == [b"zebra", b"the"]


def test_shard_names() -> None:
    assert shard_name("train", 3, 12) == "train-00003-of-00012.tfrecord"


@pytest.fixture
def framed(tmp_path: Path) -> bytes:
    """A TFRecord file of three records, as TensorFlow writes it."""
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for record in (b"one", b"", b"three"):
            writer.write(record)
    return (tmp_path / "x.tfrecord").read_bytes()


def test_records_are_read_by_their_offset(framed: bytes) -> None:
    offsets = [0, framed_size(b"one"), framed_size(b"one") + framed_size(b"")]
    assert offsets == [0, 19, 35]
    assert len(framed) == 35 + framed_size(b"three")
    file = io.BytesIO(framed)
    assert [read_framed(file, offset) for offset in offsets[::-1]] == [b"three", b"", b"one"]


@pytest.mark.parametrize("size", [0, 5, 11, 12, 14, 18])
def test_a_record_cut_short(framed: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="ends inside a record at byte 0"):
        read_framed(io.BytesIO(framed[:size]), 0)


@pytest.mark.parametrize("at", [0, 8, 11, 12, 14, 15, 18])
def test_a_damaged_record(framed: bytes, at: int) -> None:
    damaged = bytearray(framed)
    damaged[at] ^= 1
    with pytest.raises(ValueError, match="is damaged at byte 0"):
        read_framed(io.BytesIO(bytes(damaged)), 0)


@pytest.fixture
def records(corpus: Path, tmp_path: Path) -> Path:
    """Records of two short files."""
    config = DataConfig(record_words=64, min_count=1, valid_fraction=0.2, test_fraction=0.2)
    inputs = [str(corpus / name) for name in ("01_baker.txt", "06_cat.txt")]
    run(inputs=inputs, records=str(tmp_path / "records"), config=config)
    return tmp_path / "records"


def test_a_dataset_is_read_in_order_and_at_random(records: Path) -> None:
    with Dataset.open(str(records)) as dataset:
        count = len(dataset.lengths("train"))
        read = [dataset.read("train", index) for index in range(count)]
        assert [record.words for record in read] == dataset.lengths("train").tolist()
        again = dataset.read("train", 3)
        assert again.source == read[3].source
        assert again.char_ids.tolist() == read[3].char_ids.tolist()
        places = [record.source.rpartition(":") for record in read]
        assert places == sorted(places, key=lambda place: (place[0], int(place[2])))
        assert dataset.config.record_words == 64
        assert dataset.digest == dataset.info["digest"]
        assert dataset.path == str(records)
        for record in read:
            assert dataset.vocab.encode(record.spelled_words()) == record.word_ids.tolist()


def open_error(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        Dataset.open(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_info(records: Path, **values: Any) -> None:
    path = records / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def remove_info_field(records: Path) -> None:
    info = json.loads((records / "dataset.json").read_text())
    del info["format_version"]
    (records / "dataset.json").write_text(json.dumps(info))


def test_no_folder(tmp_path: Path) -> None:
    assert "nothing is no folder of records; make it with charloom prepare" in open_error(
        tmp_path / "nothing"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: os.remove(folder / "COMPLETED"), "is not complete (no COMPLETED)"),
        (lambda folder: os.remove(folder / "dataset.json"), "dataset.json can't be read"),
        (lambda folder: os.truncate(folder / "dataset.json", 300), "dataset.json can't be read"),
        (remove_info_field, "dataset.json can't be read"),
        (
            lambda folder: change_info(folder, format_version=0),
            "dataset.json has record format 0, this charloom reads 1; run charloom prepare again",
        ),
        (
            lambda folder: change_info(folder, config_version=7),
            "dataset.json was made by config version 7, this charloom reads version 1",
        ),
        (
            lambda folder: os.truncate(folder / "train-00000-of-00001.tfrecord", 1000),
            "train-00000-of-00001.tfrecord has 1000 bytes, not the",
        ),
        (
            lambda folder: os.remove(folder / "test-00000-of-00001.tfrecord"),
            "test-00000-of-00001.tfrecord is missing; run charloom prepare again",
        ),
        (lambda folder: os.remove(folder / "vocab.txt"), "vocab.txt is missing"),
        (
            lambda folder: Vocabulary.build({}, max_size=8, min_count=1).save(
                str(folder / "vocab.txt")
            ),
            "vocab.txt was changed; run charloom prepare again",
        ),
    ],
)
def test_a_folder_that_is_not_whole(
    records: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(records)
    assert message in open_error(records)


def test_a_damaged_record_is_found_when_it_is_read(records: Path) -> None:
    shard = records / "train-00000-of-00001.tfrecord"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(bytes(data))
    with Dataset.open(str(records)) as dataset:
        dataset.read("train", 1)
        with pytest.raises(
            InputError, match=r"train-00000-of-00001\.tfrecord is damaged at byte 0"
        ):
            dataset.read("train", 0)
