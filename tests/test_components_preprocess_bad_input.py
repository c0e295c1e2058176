from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.preprocess.engine import transforms
from components.preprocess.main import run
from components.preprocess.passes import scan, word_counts
from components.preprocess.passes.segment import Pieces, cut_block
from components.preprocess.passes.word_counts import WordCounter
from components.preprocess.sources import blocks
from model.config import DataConfig
from model.data.records import Dataset
from model.errors import InputError, RestartableError

ALL_TRAIN = DataConfig(min_count=1, valid_fraction=0.0, test_fraction=0.0)
SMALL = DataConfig(
    record_words=40, min_count=1, vocab_size=300, valid_fraction=0.2, test_fraction=0.2
)


def write_good(folder: Path) -> Path:
    folder.mkdir()
    (folder / "good.txt").write_text("a b c\n")
    return folder


def run_on(
    inputs: Path | str, records: Path, config: DataConfig = ALL_TRAIN, **options: Any
) -> dict[str, Any]:
    return run(inputs=[str(inputs)], records=str(records), config=config, **options)


def refused(
    tmp_path: Path, inputs: Path | str, config: DataConfig = ALL_TRAIN, **options: Any
) -> str:
    """Runs on input that must be refused, and returns the message."""
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError) as caught:
        run_on(inputs, out / "records", config, **options)
    assert list(out.iterdir()) == []
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


# Bad input


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "bad.txt is empty; leave it out or add --on-bad-text=skip"),
        (b" \n\t\r\n\xe3\x80\x80", "bad.txt contains only white space; leave it out or add"),
        (
            b"\x89PNG\r\n\0\0",
            "bad.txt is a binary file (a NUL byte at byte offset 6); leave it out",
        ),
        (
            b"caf\xc3\xa9 ol\xe9",
            "bad.txt is not utf-8 text (the byte 0xe9 at byte offset 8); try --encoding latin-1, or "
            "--on-bad-text=skip|replace",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.txt").write_bytes(data)
    (tmp_path / "in" / "good.txt").write_text("a b c\n")
    found = refused(tmp_path, tmp_path / "in")
    assert found.startswith(f"{tmp_path / 'in'}/{message}")
    assert "more files" not in found


def test_the_first_bad_file_is_named_and_the_others_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, data in {"1": b"a", "2": b"", "3": b"\0", "4": b"\xff", "5": b"b"}.items():
        (tmp_path / "in" / name).write_bytes(data)
    message = refused(tmp_path, tmp_path / "in")
    assert message.startswith(f"{tmp_path}/in/2 is empty; ")
    assert message.endswith(" (2 more files are bad)")


def test_skip_leaves_bad_files_out_and_counts_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    bad = {"1": b"", "3": b" \n", "4": b"x\0", "5": b"caf\xe9", "6": b""}
    for name, data in {**bad, "2": b"a b\n"}.items():
        (tmp_path / "in" / name).write_bytes(data)
    config = dataclasses.replace(ALL_TRAIN, on_bad_text="skip")
    info = run_on(tmp_path / "in", tmp_path / "records", config)
    assert info["input"]["files"] == 6
    assert info["rejected"] == {"binary": 1, "blank": 1, "empty": 2, "undecodable": 1}
    assert info["rejected_files"] == [
        {"file": "1", "reason": "empty", "offset": 0},
        {"file": "3", "reason": "blank", "offset": 0},
        {"file": "4", "reason": "binary", "offset": 1},
        {"file": "5", "reason": "undecodable", "offset": 3},
        {"file": "6", "reason": "empty", "offset": 0},
    ]
    assert info["splits"]["train"]["words"] == 3


def test_at_most_twenty_rejected_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good").write_text("a b")
    for number in range(23):
        (tmp_path / "in" / f"{number:02d}").touch()
    config = dataclasses.replace(ALL_TRAIN, on_bad_text="skip")
    info = run_on(tmp_path / "in", tmp_path / "records", config)
    assert info["rejected"] == {"empty": 23}
    assert [row["file"] for row in info["rejected_files"]] == [f"{n:02d}" for n in range(20)]


def test_replace_makes_bad_bytes_the_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"caf\xe9 \xff\n")
    (tmp_path / "in" / "b").touch()
    config = dataclasses.replace(ALL_TRAIN, on_bad_text="replace", tokenizer="whitespace")
    info = run_on(tmp_path / "in", tmp_path / "records", config)
    assert info["rejected"] == {"empty": 1}
    with Dataset.open(str(tmp_path / "records")) as dataset:
        words = [word.decode() for word in dataset.read("train", 0).spelled_words()]
    assert words == ["", "caf\ufffd", "\ufffd", "\n"]


@pytest.mark.parametrize("on_bad_text", ["skip", "replace"])
def test_no_file_left(tmp_path: Path, on_bad_text: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").touch()
    (tmp_path / "in" / "b").write_bytes(b"\0")
    config = dataclasses.replace(ALL_TRAIN, on_bad_text=on_bad_text)
    message = refused(tmp_path, tmp_path / "in", config)
    assert message == (
        f"no file is left: {tmp_path}/in/a is empty; leave it out (1 more file is bad)"
    )


def test_no_file_matches(tmp_path: Path) -> None:
    message = refused(tmp_path, tmp_path / "*.txt")
    assert message.startswith(f"no file matches --input '{tmp_path}/*.txt'")


def test_a_split_that_stays_empty_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b c\n")
    config = dataclasses.replace(ALL_TRAIN, valid_fraction=0.001)
    assert refused(tmp_path, tmp_path / "a.txt", config) == (
        "the valid split is empty: none of the 1 records fell into it; provide more text, lower "
        "data.record_words (now 1024) or raise data.valid_fraction (now 0.001)"
    )


def test_no_training_words(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text("a b c\n")  # falls into the test split
    config = DataConfig(test_fraction=0.5, valid_fraction=0.5)
    assert refused(tmp_path, tmp_path / "g.txt", config) == (
        "no training words: none of the 1 records fell into the training split; provide more text, "
        "or lower data.record_words (now 1024)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_workers": -1}, "--beam-workers is -1; it must be 0 (all cores) or more"),
        ({"beam_options": ["--no_such=1"]}, "Beam has no option --no_such; remove it"),
        (
            {"beam_options": ["--direct_num_workers=many"]},
            "Beam does not understand --beam-options: argument --direct_num_workers: invalid int",
        ),
    ],
)
def test_bad_beam_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    found = refused(tmp_path, write_good(tmp_path / "in"), **options)
    assert found.startswith(message)


# Real text


def test_latin_1_read_as_utf_8(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "genesis" / "finnish.txt"
    message = refused(tmp_path, path)
    assert message == (
        f"{path} is not utf-8 text (the byte 0xe4 at byte offset 57); try --encoding latin-1, or "
        "--on-bad-text=skip|replace"
    )


def test_latin_1_read_as_such(shared_data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, encoding="latin-1")
    info = run_on(shared_data / "genesis" / "finnish.txt", tmp_path / "records", config)
    assert info["rejected"] == {}
    counts = (tmp_path / "records" / "vocab.txt").read_text(encoding="utf-8")
    assert "\nmaan\t" in counts
    assert "\nhän\t" in counts
    assert "\ufffd" not in counts


def test_latin_1_replaced_or_skipped(shared_data: Path, tmp_path: Path) -> None:
    replace = dataclasses.replace(SMALL, on_bad_text="replace", vocab_size=5000)
    info = run_on(shared_data / "genesis" / "finnish.txt", tmp_path / "replaced", replace)
    assert info["rejected"] == {}
    assert "\ufffd" in (tmp_path / "replaced" / "vocab.txt").read_text(encoding="utf-8")

    (tmp_path / "in").mkdir()
    for name in ("finnish.txt", "english-web.txt"):
        shutil.copy(shared_data / "genesis" / name, tmp_path / "in")
    skip = dataclasses.replace(SMALL, on_bad_text="skip")
    info = run_on(tmp_path / "in", tmp_path / "skipped", skip)
    assert info["rejected"] == {"undecodable": 1}
    assert info["rejected_files"] == [
        {"file": "finnish.txt", "reason": "undecodable", "offset": 57}
    ]


# What goes wrong on the way


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_when_the_work_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*unused: object) -> None:
        assert len(list((tmp_path / "out").iterdir())) == 1
        raise error

    monkeypatch.setattr(transforms, "check_splits", fail)
    (tmp_path / "out").mkdir()
    with pytest.raises(error):
        run_on(write_good(tmp_path / "in"), tmp_path / "out" / "records")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_good(tmp_path / "in")

    def change_and_cut(*arguments: Any, **more: Any) -> Pieces:
        (folder / "good.txt").write_text("other\n")
        return cut_block(*arguments, **more)

    monkeypatch.setattr(scan, "cut_block", change_and_cut)
    with pytest.raises(RestartableError, match=r"good\.txt has changed since ") as caught:
        run_on(folder, tmp_path / "records")
    assert caught.value.exit_code == 75
    assert not (tmp_path / "records").exists()


def test_a_file_that_changes_after_it_was_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_good(tmp_path / "in")
    expected = run_on(folder, tmp_path / "before")

    def change(*unused: object) -> None:
        (folder / "good.txt").write_text("other\n")

    monkeypatch.setattr(transforms, "check_splits", change)
    assert run_on(folder, tmp_path / "after") == expected


def test_a_folder_filled_meanwhile_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "out" / "records"

    def fill(*unused: object) -> None:
        records.mkdir()
        (records / "other").touch()

    monkeypatch.setattr(transforms, "check_splits", fill)
    with pytest.raises(InputError, match=r"can't move .* \(Directory not empty\)"):
        run_on(write_good(tmp_path / "in"), records)
    assert os.listdir(records) == ["other"]
    assert os.listdir(tmp_path / "out") == ["records"]


def test_words_of_a_file_that_may_be_bad_are_spilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 10)
    (tmp_path / "in").mkdir()
    lines = "".join(f"line w{number} w{number % 7}\n" for number in range(500))
    (tmp_path / "in" / "bad").write_text(f"{lines}bad bad\n\0")
    (tmp_path / "in" / "good").write_text(lines)
    config = dataclasses.replace(ALL_TRAIN, on_bad_text="skip")
    expected = run_on(tmp_path / "in", tmp_path / "at once", config)
    held: list[int] = []
    add = WordCounter.add

    def watched(self: WordCounter, *arguments: Any) -> None:
        add(self, *arguments)
        held.append(len(self))

    monkeypatch.setattr(WordCounter, "add", watched)
    monkeypatch.setattr(word_counts, "MAX_WORDS", 100)
    assert run_on(tmp_path / "in", tmp_path / "spilled", config) == expected
    assert len(held) > 30
    assert max(held) <= 100
    assert expected["vocab"]["train_words"] == 6 * 500  # w and its number are two
