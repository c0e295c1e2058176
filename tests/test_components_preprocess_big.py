"""A corpus of several shards: from several processes, and where shards end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from components.preprocess.main import run
from components.preprocess.passes import write
from model.config import DataConfig
from model.data.records import SPLITS, Dataset, parse_record

SMALL = DataConfig(
    record_words=40, min_count=1, vocab_size=300, valid_fraction=0.2, test_fraction=0.2
)


def run_on(inputs: Path | str, records: Path, config: DataConfig = SMALL, **options: Any) -> Any:
    return run(inputs=[str(inputs)], records=str(records), config=config, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """About 3 MB in 5 files, so that there are 2 shards of 1 MiB and more."""
    folder = tmp_path_factory.mktemp("big corpus")  # with a space
    texts = [file.read_text(encoding="utf-8") for file in sorted(corpus.iterdir())]
    for index in range(5):
        turned = texts[index:] + texts[:index]
        (folder / f"{index}.txt").write_text("".join(turned * 20), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def big_records(tmp_path_factory: pytest.TempPathFactory, big: Path) -> Path:
    folder = tmp_path_factory.mktemp("big records")
    info = run_on(big, folder / "records", dataclasses.replace(SMALL, shard_megabytes=1))
    assert [len(info["splits"][split]["shards"]) for split in SPLITS] == [3, 3, 3]
    return folder / "records"


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(
    tmp_path: Path, big: Path, big_records: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(SMALL, shard_megabytes=1)
    run_on(big, tmp_path / "re cords", config, beam_workers=2)
    assert contents(tmp_path / "re cords") == contents(big_records)
    said = capfd.readouterr()
    assert "sdk_worker" not in said.err  # its log is not for the user
    assert said.out.splitlines()[0].endswith("re cords: 5 files, vocabulary of 300 words")


def test_shard_borders_follow_the_bytes(big: Path, big_records: Path) -> None:
    with Dataset.open(str(big_records)) as dataset:
        names = [
            {
                parse_record(record).source.partition(":")[0]
                for record in tf.data.TFRecordDataset([str(path)]).as_numpy_iterator()
            }
            for path in sorted(big_records.glob("train-*"))
        ]
        assert dataset.info["input"]["files"] == 5
    # Files of about 0.6 MB: two reach 1 MiB.
    assert names == [{"0.txt", "1.txt"}, {"2.txt", "3.txt"}, {"4.txt"}]


def test_records_are_signed_and_indexed_batch_by_batch(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(SMALL, document="line")
    run_on(corpus, tmp_path / "at once", config)
    signed: list[int] = []
    sign = write.make_signatures

    def watched(distinct: Any, words: Any, lengths: Any) -> Any:
        signed.append(len(lengths))
        return sign(distinct, words, lengths)

    monkeypatch.setattr(write, "make_signatures", watched)
    monkeypatch.setattr(write, "_BATCH", 7)
    run_on(corpus, tmp_path / "batches", config)
    assert max(signed) == 7
    assert sum(signed) > 100
    assert contents(tmp_path / "batches") == contents(tmp_path / "at once")
