from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tokenizing import tokenize_text

from components.preprocess.inputs.listing import find_files
from components.preprocess.main import run
from components.preprocess.passes import work_units
from components.preprocess.sources import blocks
from model.config import DataConfig, to_dict
from model.data.example_writer import frame
from model.data.records import SPLITS, Dataset, parse_record
from model.text.vocab import DOCUMENT_START

GOLDEN = DataConfig(
    tokenizer="whitespace",
    document="line",
    record_words=8,
    valid_fraction=0.25,
    test_fraction=0.25,
)
SMALL = DataConfig(
    record_words=40, min_count=1, vocab_size=300, valid_fraction=0.2, test_fraction=0.2
)


def write_golden(folder: Path) -> Path:
    (folder / "more").mkdir(parents=True)
    (folder / "a.txt").write_bytes(
        "\ufeffthe cat sat\r\nthe dog sat\r\n\r\nthe cat ran\r\na café </s>\r\n".encode()
    )
    (folder / "more" / "c.txt").write_bytes(
        "the dog ran\nthe cafe\u0301 sat\n“the” cat\nthe zebra sat\nno cat".encode()
    )
    return folder


def run_on(inputs: Path | str, records: Path, config: DataConfig = SMALL, **options: Any) -> Any:
    return run(inputs=[str(inputs)], records=str(records), config=config, **options)


def array_file(info: Any, split: str, key: str, name: str) -> dict[str, str]:
    return {"file": f"{split}.{name}.npy", "sha256": info["splits"][split][key]["sha256"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# What comes out


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    run_on(write_golden(folder / "in"), folder / "records", GOLDEN)
    return folder / "records"


def test_golden_records(golden: Path) -> None:
    with Dataset.open(str(golden)) as dataset:
        found = {
            split: [
                (record.source, record.word_ids.tolist(), record.spelled_words()[1:])
                for record in map(
                    lambda index, split=split: dataset.read(split, index),
                    range(len(dataset.lengths(split))),
                )
            ]
            for split in SPLITS
        }
    rows = {
        split: [
            (source, ids, [*(word.encode() for word in line.split()), b"\n"])
            for source, ids, line in lines
        ]
        for split, lines in {
            "train": [
                ("a.txt:3", [2, 4, 3, 5, 0], "the cat sat"),
                ("a.txt:31", [2, 4, 3, 1, 0], "the cat ran"),
                ("a.txt:44", [2, 1, 6, 1, 0], "a café </s>"),
                ("more/c.txt:12", [2, 4, 6, 5, 0], "the café sat"),
                ("more/c.txt:27", [2, 1, 3, 0], "“the” cat"),
                ("more/c.txt:41", [2, 4, 1, 5, 0], "the zebra sat"),
                ("more/c.txt:55", [2, 1, 3, 0], "no cat"),
            ],
            "valid": [("a.txt:16", [2, 4, 1, 5, 0], "the dog sat")],
            "test": [("more/c.txt:0", [2, 4, 1, 1, 0], "the dog ran")],
        }.items()
    }
    assert found == rows


def test_golden_vocabulary(golden: Path) -> None:
    assert (golden / "vocab.txt").read_text() == (
        "</s>\t7\n<unk>\t6\n<s>\t0\ncat\t4\nthe\t4\nsat\t3\ncafé\t2\n"
    )


def test_golden_dataset_json(golden: Path) -> None:
    info = json.loads((golden / "dataset.json").read_text())
    once = dict.fromkeys(["</s>", "a", "no", "ran", "zebra", "“the”"], 1)
    assert info == {
        "format_version": 3,
        "config_version": 1,
        "config": to_dict(GOLDEN),
        "input": {
            "files": 2,
            "bytes": 119,
            "text_characters": 105,
            "fingerprint": info["input"]["fingerprint"],
            "stray_bytes": 0,
        },
        "vocab": {"size": 7, "sha256": info["vocab"]["sha256"], "train_words": 26},
        "splits": {
            "train": {
                "records": 7,
                "words": 26,
                "characters": 61,
                "bytes": 67,
                "unknown_words": 6,
                "unknown_rate": 6 / 26,
                "distinct_words": 10,
                "distinct_unknown": 6,
                "length_histogram": {"2": 2, "4": 5},
                "word_length_histogram": {"1": 1, "2": 1, "3": 12, "4": 1, "5": 3, "9": 1},
                "text_characters": 80,
                "character_counts": array_file(info, "train", "character_counts", "characters"),
                "index": array_file(info, "train", "index", "index"),
                "shards": [
                    {
                        "file": "train-00000-of-00001.tfrecord",
                        "records": 7,
                        "words": 26,
                        "bytes": 876,
                        "sha256": "d4ce7c6debd02bc980afb49c497b0a1c0700a98ecf550082320486942860ec3b",
                    }
                ],
            },
            "valid": {
                "records": 1,
                "words": 4,
                "characters": 9,
                "bytes": 9,
                "unknown_words": 1,
                "unknown_rate": 0.25,
                "distinct_words": 3,
                "distinct_unknown": 1,
                "length_histogram": {"4": 1},
                "word_length_histogram": {"3": 3},
                "text_characters": 13,
                "character_counts": array_file(info, "valid", "character_counts", "characters"),
                "index": array_file(info, "valid", "index", "index"),
                "shards": [
                    {
                        "file": "valid-00000-of-00001.tfrecord",
                        "records": 1,
                        "words": 4,
                        "bytes": 121,
                        "sha256": "7939295b987123f9a1ee3bd1579640e75780e439754ecd0e1a47664bb3678d21",
                    }
                ],
            },
            "test": {
                "records": 1,
                "words": 4,
                "characters": 9,
                "bytes": 9,
                "unknown_words": 2,
                "unknown_rate": 0.5,
                "distinct_words": 3,
                "distinct_unknown": 2,
                "length_histogram": {"4": 1},
                "word_length_histogram": {"3": 3},
                "text_characters": 12,
                "character_counts": array_file(info, "test", "character_counts", "characters"),
                "index": array_file(info, "test", "index", "index"),
                "shards": [
                    {
                        "file": "test-00000-of-00001.tfrecord",
                        "records": 1,
                        "words": 4,
                        "bytes": 125,
                        "sha256": "3cca487f1ab0395b8b37cf1f6cf1ee4507128a42d1a264d241a2e3832d6d5102",
                    }
                ],
            },
        },
        "statistics": {
            "document_length_histogram": {"2": 2, "4": 7},
            "frequent_words": {"cat": 4, "the": 4, "sat": 3, "café": 2, **once},
            "frequent_unknown": once,
            "near_duplicates": {
                "threshold": 0.5,
                "shingle_words": 5,
                "compared": {"train": 7, "valid": 1, "test": 1},
                "valid": 0,
                "test": 0,
                "same": {"valid": 0, "test": 0},
                "examples": [],
            },
        },
        "rejected": {},
        "rejected_files": [],
        "seen": {
            "file": "seen.npy",
            "sha256": hashlib.sha256((golden / "seen.npy").read_bytes()).hexdigest(),
            "hashes": 7,
            "share": 1.0,
        },
        "digest": info["digest"],
    }


def test_the_folder_holds_that_and_no_more(golden: Path) -> None:
    names = ("-00000-of-00001.tfrecord", ".characters.npy", ".index.npy")
    assert sorted(contents(golden)) == [
        "COMPLETED",
        "data_card.html",
        "dataset.json",
        "seen.npy",
        *(f"{split}{name}" for split in ("test", "train", "valid") for name in names),
        "vocab.txt",
    ]
    info = json.loads((golden / "dataset.json").read_text())
    assert (golden / "COMPLETED").read_text() == info["digest"] + "\n"
    assert os.listdir(golden.parent) == ["in", "records"] or sorted(os.listdir(golden.parent)) == [
        "in",
        "records",
    ]


def test_records_are_read_as_the_contract_says(golden: Path) -> None:
    """With TensorFlow alone, as docs/data-contract.md shows."""
    data = tf.data.TFRecordDataset([str(golden / "train-00000-of-00001.tfrecord")])
    features = {
        "word_ids": tf.io.RaggedFeature(tf.int64),
        "spellings": tf.io.RaggedFeature(
            tf.int64,
            value_key="char_ids",
            partitions=[tf.io.RaggedFeature.RowLengths("word_lengths")],
            row_splits_dtype=tf.int64,
        ),
        "source": tf.io.FixedLenFeature([], tf.string),
    }
    parsed = tf.io.parse_example(list(data.as_numpy_iterator()), features)
    assert parsed["word_ids"].to_list()[2] == [2, 1, 6, 1, 0]
    spellings = parsed["spellings"].to_list()[2]
    assert spellings == [[3], [ord("a") + 5], [byte + 5 for byte in "café".encode()],
                         [byte + 5 for byte in b"</s>"], [4]]  # fmt: skip
    assert parsed["source"].numpy().tolist()[2] == b"a.txt:44"
    assert parsed["spellings"].row_lengths(axis=2).to_list() == [
        [len(word) for word in words] for words in parsed["spellings"].to_list()
    ]


def test_every_word_of_the_corpus_is_a_target_once(corpus: Path, tmp_path: Path) -> None:
    info = run_on(corpus, tmp_path / "records")
    targets: dict[str, dict[int, list[bytes]]] = {}
    with Dataset.open(str(tmp_path / "records")) as dataset:
        for split in SPLITS:
            for index in range(len(dataset.lengths(split))):
                record = dataset.read(split, index)
                name, _, offset = record.source.rpartition(":")
                targets.setdefault(name, {})[int(offset)] = record.spelled_words()[1:]
                assert record.words == dataset.lengths(split)[index]
    for file in find_files([str(corpus)]):
        pieces = targets.pop(file.name)
        words = [word for offset in sorted(pieces) for word in pieces[offset]]
        text = tf.constant(Path(file.path).read_bytes())
        assert words == tokenize_text(text, SMALL).numpy().tolist()
    assert targets == {}
    assert sum(info["splits"][split]["words"] for split in SPLITS) == 7943
    assert info["vocab"]["train_words"] == info["splits"]["train"]["words"]
    assert info["splits"]["train"]["unknown_words"] == dataset.vocab.counts[1] > 0


def test_offsets_and_sizes_of_shards(corpus: Path, tmp_path: Path) -> None:
    info = run_on(corpus, tmp_path / "records")
    for split in SPLITS:
        offsets: list[int] = []
        lengths: list[int] = []
        for shard in info["splits"][split]["shards"]:
            path = tmp_path / "records" / shard["file"]
            records = list(tf.data.TFRecordDataset([str(path)]).as_numpy_iterator())
            sizes = [len(frame(record)) for record in records]
            offsets += [sum(sizes[:index]) for index in range(len(sizes))]
            lengths += [parse_record(record).words for record in records]
            assert shard["bytes"] == sum(sizes) == path.stat().st_size
            assert shard["words"] == sum(parse_record(record).words for record in records)
        index = np.load(tmp_path / "records" / f"{split}.index.npy")
        assert index.tolist() == [offsets, lengths]


@pytest.mark.parametrize("document", ["file", "paragraph", "line"])
def test_one_huge_file_is_read_in_blocks(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str
) -> None:
    """Each block apart; its first record knows the word before it."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir()))
    (tmp_path / "huge.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(work_units, "BLOCK_BYTES", 5000)
    config = dataclasses.replace(SMALL, document=document)
    run_on(tmp_path / "huge.txt", tmp_path / "records", config)
    pieces: dict[int, list[bytes]] = {}
    with Dataset.open(str(tmp_path / "records")) as dataset:
        for split in SPLITS:
            for index in range(len(dataset.lengths(split))):
                record = dataset.read(split, index)
                pieces[int(record.source.rpartition(":")[2])] = record.spelled_words()
    places = sorted(pieces)
    words = [word for place in places for word in pieces[place][1:]]
    assert words == tokenize_text(tf.constant(text), SMALL).numpy().tolist()
    for before, after in itertools.pairwise(places):
        assert pieces[after][0] in (DOCUMENT_START, pieces[before][-1])
    starts = sum(pieces[place][0] == DOCUMENT_START for place in places)
    if document == "file":
        assert starts == 1
    else:
        documents = text.strip().split("\n\n") if document == "paragraph" else text.splitlines()
        assert starts == sum(bool(one.strip()) for one in documents)


# The same input and config give the same bytes


def test_another_place_and_order_give_the_same_bytes(golden: Path, tmp_path: Path) -> None:
    folder = write_golden(tmp_path / "elsewhere" / "x")
    os.utime(folder / "a.txt", (0, 0))
    inputs = [f"{folder}/./more", str(folder / "*.txt"), str(folder / "a.txt")]
    run(inputs=inputs, records=str(tmp_path / "records"), config=GOLDEN)
    assert contents(tmp_path / "records") == contents(golden)


def test_beam_options_win(golden: Path, tmp_path: Path) -> None:
    options = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    folder = write_golden(tmp_path / "in")
    run_on(folder, tmp_path / "records", GOLDEN, beam_options=options)
    assert contents(tmp_path / "records") == contents(golden)


def test_the_digest_sees_config_and_text(golden: Path, tmp_path: Path) -> None:
    digests = {json.loads((golden / "dataset.json").read_text())["digest"]}
    folder = write_golden(tmp_path / "in")
    for number, config in enumerate(
        [dataclasses.replace(GOLDEN, vocab_size=100), dataclasses.replace(GOLDEN, lowercase=True)]
    ):
        digests.add(run_on(folder, tmp_path / f"records{number}", config)["digest"])
    (folder / "a.txt").write_text("the cat sat\nthe dog sat\nthe cat ran\nthe cat ran\n")
    config = dataclasses.replace(GOLDEN, valid_fraction=0.0)
    digests.add(run_on(folder, tmp_path / "records2", config)["digest"])
    assert len(digests) == 4
