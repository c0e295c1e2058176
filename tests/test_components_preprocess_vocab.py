"""Records with a vocabulary from outside, --vocab."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from components.preprocess.main import run
from model.config import DataConfig
from model.data.records import Dataset
from model.errors import InputError
from model.text.vocab import UNK_ID

CONFIG = DataConfig(
    tokenizer="whitespace", sentence_marks=False, vocab_size=8, min_count=3, record_words=8192
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "train.txt").write_text("b b a <unk> b a c x </s>\n")
    (folder / "valid.txt").write_text("z <unk> never a\n")
    (folder / "words").write_text("never\nc\t7\na\t1\n<unk>\t99\nb\n</s>\nz\n<s>\n")
    return folder


def prepare(
    text: Path,
    vocab: str = "words",
    *,
    name: str = "records",
    extend: bool = False,
    config: DataConfig = CONFIG,
) -> Any:
    return run(
        train=[str(text / "train.txt")],
        valid=[str(text / "valid.txt")],
        vocab=vocab and str(text / vocab),
        extend_vocab=extend,
        records=str(text.parent / name),
        config=config,
    )


def read_all(records: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in records.iterdir()}


def test_the_words_are_those_of_the_file_counted_in_our_training_split(text: Path) -> None:
    info = prepare(text)
    records = text.parent / "records"
    assert (records / "vocab.txt").read_text() == (
        "</s>\t0\n<unk>\t3\n<s>\t0\nb\t3\na\t2\nc\t1\nnever\t0\nz\t0\n"
    )
    assert info["vocab"]["size"] == 8
    assert info["vocab"]["train_words"] == 9
    assert info["vocab"]["given_words"] == 5
    assert info["config"]["vocab_size"] == 8  # kept as it was given, without effect


def test_special_words_of_the_text_are_unknown(text: Path) -> None:
    info = prepare(text)
    with Dataset.open(str(text.parent / "records")) as dataset:
        train, valid = dataset.read("train", 0), dataset.read("valid", 0)
    assert train.word_ids.tolist() == [2, 3, 3, 4, UNK_ID, 3, 4, 5, UNK_ID, UNK_ID]
    assert train.spelled_words()[4] == b"<unk>"
    assert valid.word_ids.tolist() == [2, 7, UNK_ID, 6, 4]
    assert info["splits"]["train"]["unknown_words"] == 3
    assert info["splits"]["valid"]["unknown_words"] == 1


def test_order_and_counts_of_the_file_do_not_matter(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = prepare(text)
    (text / "turned").write_text("z\t4\nc\nb\nnever\na\n\n")
    prepare(text, "turned", name="other")
    assert read_all(text.parent / "other") == read_all(text.parent / "records")
    capsys.readouterr()
    assert prepare(text, "turned") == info
    assert "already prepared" in capsys.readouterr().out


def test_the_vocabulary_of_other_records_is_one(text: Path) -> None:
    prepare(text)
    (text / "again").write_bytes((text.parent / "records" / "vocab.txt").read_bytes())
    prepare(text, "again", name="other")
    assert read_all(text.parent / "other") == read_all(text.parent / "records")


@pytest.mark.parametrize("vocab", ["", "fewer"])
def test_records_are_kept_only_for_the_same_words(text: Path, vocab: str) -> None:
    prepare(text)
    (text / "fewer").write_text("a\nb\n")
    with pytest.raises(InputError, match="holds something, records with another vocabulary"):
        prepare(text, vocab)


def test_records_without_given_words_are_not_those_with(text: Path) -> None:
    assert set(prepare(text, "")["vocab"]) == {"size", "sha256", "train_words"}
    with pytest.raises(InputError, match="holds something, records with another vocabulary"):
        prepare(text)


def test_a_bad_file_is_told_before_anything_is_made(text: Path) -> None:
    (text / "words").write_text("a\nb b\n")
    with pytest.raises(InputError, match=r"--vocab .*words, line 2 has white space inside"):
        prepare(text)
    assert [path.name for path in text.parent.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("size", "least", "found"),
    [
        (8, 1, "b 3 a 2 c 1 never 0 z 0"),  # given words stay although rare ones would go
        (9, 1, "b 3 a 2 c 1 x 1 never 0 z 0"),
        (99, 1, "b 3 a 2 c 1 x 1 y 1 never 0 z 0"),
        (99, 2, "b 3 a 2 c 1 never 0 z 0"),
    ],
)
def test_given_words_are_extended_by_the_most_frequent_others(
    text: Path, size: int, least: int, found: str
) -> None:
    (text / "train.txt").write_text("b b a <unk> b a c x y </s>\n")
    config = dataclasses.replace(CONFIG, vocab_size=size, min_count=least)
    info = prepare(text, extend=True, config=config)
    lines = (text.parent / "records" / "vocab.txt").read_text().split()[6:]
    assert " ".join(lines) == found
    assert info["vocab"]["given_words"] == 5
    assert info["vocab"]["given_extended"] is True
    assert info["vocab"]["train_words"] == 10
    assert prepare(text, extend=True, config=config) == info
    with pytest.raises(InputError, match="holds something, records with another vocabulary"):
        prepare(text, config=config)


def test_no_words_can_not_be_extended(text: Path) -> None:
    with pytest.raises(InputError, match="--extend-vocab extends the words of --vocab FILE"):
        prepare(text, "", extend=True)


@pytest.mark.slow
def test_the_brown_protocol(shared_data: Path, tmp_path: Path) -> None:
    """No word is lost, none is another, and unknown are those out of the list."""
    brown = shared_data / "brown"
    info = run(
        train=[str(brown / "train.txt")],
        valid=[str(brown / "valid.txt")],
        vocab=str(brown / "vocab.txt"),
        records=str(tmp_path / "records"),
        config=CONFIG,
    )
    assert info["splits"]["train"]["words"] == info["vocab"]["train_words"] == 800_001
    assert info["splits"]["valid"]["words"] == 200_021
    assert info["vocab"]["size"] == 17_904 + 3
    known = set((brown / "vocab.txt").read_text().split())
    with Dataset.open(str(tmp_path / "records")) as dataset:
        for split in ("train", "valid"):
            found: list[bytes] = [b""]
            unknown: list[bool] = []
            for index in range(len(dataset.lengths(split))):
                record = dataset.read(split, index)
                before, *words = record.spelled_words()
                assert before == found[-1]  # one stream
                found += words
                unknown += (record.word_ids[1:] == UNK_ID).tolist()
            text = (brown / f"{split}.txt").read_text().split()
            assert b"\n".join(found[1:]) == "\n".join(text).encode()
            assert unknown == [word not in known for word in text]
