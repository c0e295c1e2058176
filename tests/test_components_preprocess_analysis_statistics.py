"""Leakage from text to data card, in several shards, and what else the card is given."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.preprocess.analysis.statistics import Progress, SignatureFile
from components.preprocess.main import run
from model.config import DataConfig, ModelConfig
from model.data.records import Dataset
from model.errors import InputError

CONFIG = DataConfig(
    tokenizer="whitespace", record_words=100, document="line", shard_megabytes=1, vocab_size=2000
)
FILE_LINES = 1600


def make_lines(seed: int, count: int) -> list[str]:
    """Lines of 100 words, no two alike."""
    words = np.random.default_rng(seed).integers(0, 10**6, (count, 100))
    return [" ".join(f"w{word}" for word in line) for line in words.tolist()]


def offset(before: list[str]) -> int:
    return sum(len(line) + 1 for line in before)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Training text of several shards, and copies from the first and the last in other splits."""
    folder = tmp_path_factory.mktemp("leaks")
    train, valid, test = make_lines(1, 3 * FILE_LINES), make_lines(2, 30), make_lines(3, 20)
    valid[7] = train[4400]
    words = train[3].split()
    words[50] = "other"
    valid[9] = " ".join(words)
    test[0] = train[2200].upper()  # the case makes other words of all
    files = {f"train-{n}.txt": train[n * FILE_LINES : (n + 1) * FILE_LINES] for n in range(3)}
    for name, lines in {**files, "valid.txt": valid, "test.txt": test}.items():
        (folder / name).write_text("".join(line + "\n" for line in lines))
    given = {split: [str(folder / f"{split}*.txt")] for split in ("train", "valid", "test")}
    return folder / "records", run(records=str(folder / "records"), config=CONFIG, **given)


def test_copies_across_splits_are_named(prepared: tuple[Path, dict[str, Any]]) -> None:
    folder, info = prepared
    shards = [shard["records"] for shard in info["splits"]["train"]["shards"]]
    assert shards == [FILE_LINES, FILE_LINES, FILE_LINES]
    leaks = info["statistics"]["near_duplicates"]
    assert leaks["compared"] == {"train": 4800, "valid": 30, "test": 20}
    assert (leaks["valid"], leaks["test"], leaks["same"]) == (2, 0, {"valid": 1, "test": 0})
    train = make_lines(1, 3 * FILE_LINES)
    valid = (folder.parent / "valid.txt").read_text().splitlines()
    same, near = leaks["examples"]
    assert same == {
        "split": "valid",
        "record": 7,
        "train_record": 4400,
        "source": f"valid.txt:{offset(valid[:7])}",
        "train_source": f"train-2.txt:{offset(train[2 * FILE_LINES : 4400])}",
        "similarity": 1.0,
    }
    assert (near["record"], near["train_record"]) == (9, 3)
    assert near["train_source"] == f"train-0.txt:{offset(train[:3])}"
    with Dataset.open(str(folder)) as dataset:
        assert dataset.read("valid", 9).source == near["source"]
        assert dataset.read("train", 4400).source == same["train_source"]


def test_the_card_says_so(prepared: tuple[Path, dict[str, Any]]) -> None:
    folder, info = prepared
    card = (folder / "data_card.html").read_text(encoding="utf-8")
    assert "Leakage: 2 of 50 validation and test records have a near-duplicate" in card
    assert json.loads((folder / "dataset.json").read_text())["statistics"] == info["statistics"]


def test_a_part_of_the_records_is_compared_if_there_are_many(
    prepared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, info = prepared
    given = {split: [str(folder.parent / f"{split}*.txt")] for split in ("train", "valid", "test")}
    made = run(records=str(tmp_path / "records"), config=CONFIG, leak_records=20, **given)
    leaks = made["statistics"]["near_duplicates"]
    assert leaks["compared"] == {"train": 4800, "valid": 20, "test": 20}
    assert leaks["out_of"] == {"train": 4800, "valid": 30, "test": 20}
    assert (leaks["valid"], [pair["record"] for pair in leaks["examples"]]) == (2, [7, 9])
    assert made["digest"] == info["digest"]
    card = (tmp_path / "records" / "data_card.html").read_text(encoding="utf-8")
    assert (
        "Leakage: 2 of 40 validation and test records have a near-duplicate in the training "
        "split; the other 10 were not compared." in card
    )
    assert run(records=str(tmp_path / "records"), config=CONFIG, leak_records=20, **given) == made
    with pytest.raises(InputError, match=r"20 of the valid split were compared .* or lower --leak"):
        run(records=str(tmp_path / "records"), config=CONFIG, **given)


def test_the_check_can_be_switched_off(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {line} of the text\n" for line in range(200)))
    config = DataConfig(document="line", min_count=1)
    made = run(inputs=[str(text)], records=str(tmp_path / "records"), config=config, leak_records=0)
    assert made["statistics"]["near_duplicates"] is None
    card = (tmp_path / "records" / "data_card.html").read_text(encoding="utf-8")
    assert "Leakage: near-duplicates across splits were not counted." in card
    again = {"inputs": [str(text)], "records": str(tmp_path / "records"), "config": config}
    with pytest.raises(InputError, match="0 of the valid split were compared with the training"):
        run(**again)


def test_progress_has_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([100.0, 105.0, 110.0, 115.0, 121.0, 1200.0, 1300.0])
    progress = Progress(lambda: next(clock))
    for share in (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0):
        progress(share)
    assert capsys.readouterr().out == (
        "near-duplicates: 20% compared, about 80 s left\n"
        "near-duplicates: 40% compared, about 42 s left\n"
        "near-duplicates: 60% compared, about 15 min left\n"
    )


def test_files_of_signatures_are_open_only_while_they_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "part.npy", np.arange(12, dtype=np.uint16).reshape(6, 2))
    before = sorted(os.listdir("/proc/self/fd"))
    part = SignatureFile(str(tmp_path / "part.npy"))
    read = part[2:4]
    assert (len(part), read.tolist()) == (6, [[4, 5], [6, 7]])
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert "part.npy" not in Path("/proc/self/maps").read_text()


def test_words_longer_than_a_model_sees_are_counted(tmp_path: Path) -> None:
    seen = ModelConfig().max_word_bytes - 2
    text = tmp_path / "text.txt"
    text.write_text(f"{'a' * seen} {'b' * (seen + 1)} {'c' * 5000} short\n" * 3)
    config = DataConfig(valid_fraction=0.0, test_fraction=0.0)
    run(inputs=[str(text)], records=str(tmp_path / "records"), config=config)
    card = (tmp_path / "records" / "data_card.html").read_text(encoding="utf-8")
    row = card[card.index("Truncated words</") :].split("</tr>")[0]
    assert row.count(">6<") == 1
    assert row.count(">0<") == 2
