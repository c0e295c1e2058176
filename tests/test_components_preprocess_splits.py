"""Text whose split is given with --train, --valid and --test."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from blocks import blocks_of, pieces_of

from components.preprocess.inputs.listing import find_files
from components.preprocess.main import run
from model.config import DataConfig
from model.data.records import Dataset
from model.errors import InputError

CONFIG = DataConfig(
    tokenizer="whitespace", sentence_marks=False, record_words=8, min_count=1, on_bad_text="skip"
)
LINE = "one two three four five six seven {}\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A folder of a.txt and b.txt to train on, c.txt and d.txt; e.txt is blank."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.txt").write_text("".join(LINE.format(name + d) for d in "012"))
    (folder / "e.txt").write_text(" \n")
    return folder


def prepare(text: Path, config: DataConfig = CONFIG, *, name: str = "records", **files: str) -> Any:
    inputs = {flag: [str(text / pattern) for pattern in files[flag].split()] for flag in files}
    return run(records=str(text.parent / name), config=config, **inputs)  # type: ignore[arg-type]


def sources_of(records: Path, split: str) -> list[str]:
    with Dataset.open(str(records)) as dataset:
        return [dataset.read(split, i).source for i in range(len(dataset.lengths(split)))]


def test_names_of_the_files_of_splits(text: Path) -> None:
    (text / "more").mkdir()
    (text / "more" / "f.txt").write_text("x\n")
    files = find_files(
        train=[str(text / "[ab].txt")], valid=[str(text / "more")], test=[str(text / "d.txt")]
    )
    assert [(file.name, file.split) for file in files] == [
        ("a.txt", "train"),
        ("b.txt", "train"),
        ("d.txt", "test"),
        ("f.txt", "valid"),
    ]
    assert [file.full_name for file in files][2:] == ["test:d.txt", "valid:f.txt"]
    (one,) = find_files([str(text / "a.txt")])
    assert (one.split, one.full_name) == ("", "a.txt")


def test_all_pieces_go_where_the_file_goes() -> None:
    (block,) = blocks_of("".join(LINE.format(n) for n in range(100)).encode(), CONFIG)
    assert {piece.split for piece in pieces_of(block, "x", CONFIG)} == {"train", "valid", "test"}
    assert {piece.split for piece in pieces_of(block, "x", CONFIG, split="valid")} == {"valid"}


def test_every_record_goes_to_the_split_of_its_file(text: Path) -> None:
    info = prepare(text, train="[ab].txt", valid="c.txt", test="d.txt e.txt")
    records = text.parent / "records"
    assert sources_of(records, "train") == [f"{n}.txt:{o}" for n in "ab" for o in (0, 37, 74)]
    assert sources_of(records, "valid") == ["c.txt:0", "c.txt:37", "c.txt:74"]
    assert sources_of(records, "test") == ["d.txt:0", "d.txt:37", "d.txt:74"]
    assert info["input"]["split_files"] == {"train": 2, "valid": 1, "test": 2}
    assert info["vocab"]["train_words"] == 48
    assert info["splits"]["valid"]["unknown_words"] == 3  # c0, c1 and c2: only a and b are counted
    with Dataset.open(str(records)) as dataset:
        assert dataset.read("valid", 1).spelled_words()[:2] == [b"c0", b"one"]  # one stream
        assert "c0" not in dataset.vocab.words


def test_training_text_is_enough_and_fractions_are_not_used(text: Path) -> None:
    config = dataclasses.replace(CONFIG, valid_fraction=0.5, test_fraction=0.5)
    info = prepare(text, config, train="[abcd].txt")
    assert [info["splits"][split]["records"] for split in ("train", "valid", "test")] == [12, 0, 0]
    assert info["splits"]["test"]["length_histogram"] == {}


def test_the_same_text_split_by_hash_says_nothing_of_splits(text: Path) -> None:
    config = dataclasses.replace(CONFIG, valid_fraction=0.0, test_fraction=0.0)
    info = prepare(text, config, inputs="[abcd].txt")
    assert "split_files" not in info["input"]
    assert set(info["vocab"]) == {"size", "sha256", "train_words"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"inputs": "a.txt", "valid": "c.txt"},
            "--input and --valid exclude each other; name all text with --input, or that of each "
            "split with --train, --valid and --test",
        ),
        (
            {"valid": "c.txt", "test": "d.txt"},
            "--valid is given without --train; name the training text, too",
        ),
        ({"train": "[abc].txt", "test": "c.txt"}, "{}/c.txt is named for --train and for --test; "
         "choose one"),
        ({"train": "a.txt", "valid": "z*"}, "no file matches --valid '{}/z*'; check the path and "
         "the pattern"),
        ({"train": "a.txt", "valid": "e.txt"}, "the valid split is empty: no file of --valid is "
         "left; provide text for it"),
        ({"train": "e.txt", "valid": "c.txt"}, "the train split is empty: no file of --train is "
         "left; provide text for it"),
    ],
)  # fmt: skip
def test_what_is_refused(text: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        prepare(text, **files)
    assert str(caught.value) == message.format(text)
    assert not (text.parent / "records").exists()


def test_records_are_kept_only_for_the_same_splits(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(CONFIG, valid_fraction=0.0, test_fraction=0.0)
    info = prepare(text, config, train="a.txt b.txt", valid="c.txt")
    capsys.readouterr()
    assert prepare(text, config, train="[ab].txt", valid="c.txt") == info
    assert "already prepared from this input" in capsys.readouterr().out
    for other in (
        {"train": "a.txt b.txt", "test": "c.txt"},
        {"train": "a.txt c.txt", "valid": "b.txt"},
        {"inputs": "a.txt b.txt c.txt"},
    ):
        with pytest.raises(InputError, match="already holds something, records of another input"):
            prepare(text, config, **other)


def test_the_digest_sees_the_splits(text: Path) -> None:
    one = prepare(text, train="a.txt b.txt", valid="c.txt")
    two = prepare(text, train="a.txt b.txt", test="c.txt", name="two")
    assert one["digest"] != two["digest"]
    assert one["input"]["fingerprint"] != two["input"]["fingerprint"]
