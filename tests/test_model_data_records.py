from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from model.config import CONFIG_VERSION, DataConfig, to_dict
from model.data.example_writer import frame
from model.data.records import (
    Dataset,
    encode_record,
    load_characters,
    load_index,
    parse_record,
    save_characters,
    save_index,
    shard_name,
)
from model.data.shard_files import read_framed
from model.errors import InputError
from model.text.vocab import Vocabulary

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


def test_unknown_words_by_their_true_spelling() -> None:
    words = [b"zebra", b"the", b"</s>", b"\n", b"\x00\xff", b"the", b"zebra"]
    record = parse_record(encode_record(words, VOCAB, source="f:0"))
    assert record.unknown_words() == [b"zebra", b"</s>", b"\x00\xff", b"zebra"]
    assert parse_record(encode_record([b"", b"the"], VOCAB, source="f:0")).unknown_words() == []


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
    offsets = [0, 19, 35]
    assert len(framed) == 35 + 21
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


WORDS = [b"the", "é".encode(), b"zebra", b"\n", b"of", b"owl"]
CONFIG = DataConfig(record_words=64, min_count=1, valid_fraction=0.2, test_fraction=0.2)
RECORDS = {"train": (3, 0, 4), "valid": (2, 1, 0), "test": (0, 0, 0)}
"""Records in each shard of each split."""


def stream_of(split: str, index: int) -> list[bytes]:
    """Returns the words of a record; records have 1 to 40."""
    size = 1 + 13 * (index + len(split)) % 40
    return [b"", *(WORDS[at % len(WORDS)] for at in range(index, index + size))]


def index_parts(offsets: Sequence[int], lengths: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """Returns an index in parts of up to two records."""
    rows = np.asarray([offsets, lengths], np.int64).T
    return [rows[begin : begin + 2] for begin in range(0, len(rows), 2)]


def write_split(folder: Path, split: str, counts: Sequence[int]) -> dict[str, Any]:
    """Writes shards and index of a split; returns its entry in dataset.json."""
    offsets: list[int] = []
    lengths: list[int] = []
    shards = []
    for number, count in enumerate(counts):
        name, size = shard_name(split, number, len(counts)), 0
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for _ in range(count):
                words = stream_of(split, len(offsets))
                data = encode_record(words, VOCAB, source=f"{split}.txt:{len(offsets)}")
                writer.write(data)
                offsets.append(size)
                lengths.append(len(words) - 1)
                size += len(frame(data))
        shards.append({"file": name, "records": count, "words": sum(lengths), "bytes": size})
    index = save_index(str(folder), split, index_parts(offsets, lengths))
    return {"records": len(lengths), "words": sum(lengths), "shards": shards, "index": index}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder of records, with shards and a split that are empty."""
    folder = tmp_path / "records"
    folder.mkdir()
    VOCAB.save(str(folder / "vocab.txt"))
    info = {
        "format_version": 2,
        "config_version": CONFIG_VERSION,
        "config": to_dict(CONFIG),
        "vocab": {"size": len(VOCAB), "sha256": VOCAB.digest},
        "splits": {split: write_split(folder, split, counts) for split, counts in RECORDS.items()},
        "digest": "abc",
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    (folder / "COMPLETED").write_text("abc\n")
    return folder


def test_a_dataset_is_read_in_order_and_at_random(records: Path) -> None:
    with Dataset.open(str(records)) as dataset:
        places = [(split, at) for split, counts in RECORDS.items() for at in range(sum(counts))]
        assert len(places) == 10
        for split, at in [*places, *places[::-1], *places[::3]]:
            record = dataset.read(split, at)
            assert record.spelled_words() == stream_of(split, at)
            assert record.word_ids.tolist() == dataset.vocab.encode(stream_of(split, at))
            assert record.source == f"{split}.txt:{at}"
            assert record.words == dataset.lengths(split)[at]
        for split, counts in RECORDS.items():
            assert dataset.lengths(split).tolist() == [
                len(stream_of(split, at)) - 1 for at in range(sum(counts))
            ]
            assert dataset.lengths(split).dtype == np.int64
        assert dataset.config == CONFIG
        assert dataset.digest == dataset.info["digest"] == "abc"
        assert dataset.path == str(records)


def test_the_index_exactly(tmp_path: Path) -> None:
    entry = save_index(str(tmp_path), "valid", index_parts([0, 120, 1 << 40], [4, 3, 1]))
    data = (tmp_path / "valid.index.npy").read_bytes()
    assert entry == {"file": "valid.index.npy", "sha256": hashlib.sha256(data).hexdigest()}
    assert os.listdir(tmp_path) == ["valid.index.npy"]
    index = np.load(tmp_path / "valid.index.npy", allow_pickle=False)
    assert index.dtype == np.dtype("<i8")
    assert index.tolist() == [[0, 120, 1 << 40], [4, 3, 1]]
    # The bytes are a part of the contract: numpy's form 1.0, its head padded to 128 bytes.
    head = b"{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }"
    assert data[:128] == b"\x93NUMPY\x01\x00\x76\x00" + head.ljust(117) + b"\n"
    assert data[128:] == index.tobytes()
    (tmp_path / "again").mkdir()
    again = np.asarray([[0, 4], [120, 3], [1 << 40, 1]], ">u8")
    assert save_index(str(tmp_path / "again"), "valid", [again]) == entry
    np.lib.format.write_array(file := io.BytesIO(), index, version=(1, 0))
    assert data == file.getvalue()


def test_an_index_of_nothing(tmp_path: Path) -> None:
    entry = save_index(str(tmp_path), "test", [])
    index = load_index(str(tmp_path), {"index": entry, "shards": []})
    assert (index.shape, index.dtype) == ((2, 0), np.int64)


def test_characters_exactly(tmp_path: Path) -> None:
    parts = [np.asarray([5, 1 << 33]), np.zeros(0, np.int64), np.asarray([7])]
    saved = save_characters(str(tmp_path), "train", parts)
    np.lib.format.write_array(
        file := io.BytesIO(), np.asarray([5, 1 << 33, 7]), version=(1, 0), allow_pickle=False
    )
    assert (tmp_path / "train.characters.npy").read_bytes() == file.getvalue()
    assert saved == {
        "text_characters": (1 << 33) + 12,
        "character_counts": {
            "file": "train.characters.npy",
            "sha256": hashlib.sha256(file.getvalue()).hexdigest(),
        },
    }
    found = load_characters(str(tmp_path), {**saved, "shards": [{"records": 3}]})
    assert found is not None
    assert found.tolist() == [5, 1 << 33, 7]


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


def replace_index(records: Path, data: bytes) -> None:
    """Puts other bytes in the place of an index, with their hash in dataset.json."""
    (records / "train.index.npy").write_bytes(data)
    info = json.loads((records / "dataset.json").read_text())
    info["splits"]["train"]["index"]["sha256"] = hashlib.sha256(data).hexdigest()
    (records / "dataset.json").write_text(json.dumps(info))


def npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def change_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


NOT_THE_INDEX = (
    "train.index.npy does not match dataset.json; it was truncated or changed, run charloom"
)
NO_INDEX = "train.index.npy is not an int64 array [2, 7]; run charloom prepare again"


def test_no_folder(tmp_path: Path) -> None:
    assert "nothing is not a records folder; make it with charloom prepare" in open_error(
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
            lambda folder: change_info(folder, format_version=1),
            "dataset.json has record format 1, but this charloom reads 2 and 3; run charloom prepare again",
        ),
        (
            lambda folder: change_info(folder, config_version=7),
            "dataset.json was made with config version 7, but this charloom reads version 1",
        ),
        (
            lambda folder: os.truncate(folder / "train-00002-of-00003.tfrecord", 200),
            "train-00002-of-00003.tfrecord has 200 bytes instead of the",
        ),
        (
            lambda folder: os.remove(folder / "test-00001-of-00003.tfrecord"),
            "test-00001-of-00003.tfrecord is missing; run charloom prepare again",
        ),
        (
            lambda folder: os.remove(folder / "test.index.npy"),
            "test.index.npy is missing; run charloom prepare again",
        ),
        (lambda folder: change_byte(folder / "train.index.npy", -1), NOT_THE_INDEX),
        (lambda folder: change_byte(folder / "train.index.npy", 20), NOT_THE_INDEX),
        (lambda folder: os.truncate(folder / "train.index.npy", 150), NOT_THE_INDEX),
        (
            lambda folder: shutil.copy(folder / "valid.index.npy", folder / "train.index.npy"),
            NOT_THE_INDEX,
        ),
        (lambda folder: replace_index(folder, npy(np.zeros([2, 6], np.int64))), NO_INDEX),
        (lambda folder: replace_index(folder, npy(np.zeros([7, 2], np.int64))), NO_INDEX),
        (lambda folder: replace_index(folder, npy(np.zeros([2, 7]))), NO_INDEX),
        (lambda folder: replace_index(folder, b"no array"), NO_INDEX),
        (lambda folder: replace_index(folder, b""), NO_INDEX),
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
    change_byte(records / "train-00000-of-00003.tfrecord", 100)
    with Dataset.open(str(records)) as dataset:
        dataset.read("train", 1)
        with pytest.raises(
            InputError, match=r"train-00000-of-00003\.tfrecord is damaged at byte 0"
        ):
            dataset.read("train", 0)
