"""How much text each record was: the Unicode characters of its lines as they stood in the file."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path

import numpy as np
import pytest
from blocks import blocks_of

from components.preprocess.main import run
from components.preprocess.passes.segment import cut_block
from components.preprocess.passes.tokenize import count_characters, line_offsets
from components.preprocess.sources import blocks
from model.config import DataConfig
from model.data.records import SPLITS, Dataset
from model.errors import InputError

PLAIN = DataConfig(
    sentence_marks=False, record_words=8, min_count=1, valid_fraction=0.0, test_fraction=0.0
)


def characters_of(text: str | bytes, config: DataConfig = PLAIN) -> list[int]:
    data = text.encode() if isinstance(text, str) else text
    pieces = [cut_block(block, "f", config) for block in blocks_of(data, config)]
    for one in pieces:
        assert one.characters.sum() == one.text_characters or not one.sources
        assert len(one.characters) == len(one.sources)
    return [count for one in pieces for count in one.characters.tolist()]


LINES = dataclasses.replace(PLAIN, document="line")


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", []),
        ("one two\n", [8]),
        ("one two", [7]),
        ("one two\r\nthree\rfour\n", [8, 6, 5]),
        ("  one   two \t\n", [14]),
        ("\ufeffone\n", [4]),
        ("caf\u00e9\n", [5]),
        ("cafe\u0301\n", [6]),  # as it stood, not in its normal form
        ("\U0001f600 \u3000a\n", [5]),
        ("\n \r\none\n\n\t\r\r\ntwo\n\n", [11, 5]),  # 1 + 2 before, 4, 1 + 2 + 1 after; 4 + 1
        (b"caf\xe9\xe9 \xe4\xb8 x\n", [10]),  # each undecodable place becomes one character
    ],
)
def test_characters_of_lines(text: str | bytes, counts: list[int]) -> None:
    config = dataclasses.replace(LINES, on_bad_text="replace")
    assert characters_of(text, config) == counts
    assert characters_of(text, dataclasses.replace(config, sentence_marks=True)) == counts


@pytest.mark.parametrize("tokenizer", ["whitespace", "words", "graphemes"])
def test_they_do_not_depend_on_the_tokenizer(tokenizer: str) -> None:
    config = dataclasses.replace(LINES, tokenizer=tokenizer)
    text = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002\nIt's 5.30 p.m., isn't it?\n"
    assert characters_of(text, config) == [8, 26]


def test_a_chinese_line_that_is_cut_has_a_character_a_word() -> None:
    config = dataclasses.replace(PLAIN, tokenizer="graphemes")
    assert characters_of("\u5929" * 20 + "\n", config) == [8, 8, 5]
    assert characters_of("\u5929" * 20, config) == [8, 8, 4]
    marked = dataclasses.replace(config, sentence_marks=True)
    assert characters_of("\u5929" * 20 + "\r\n", marked) == [8, 8, 5]


def test_a_cut_line_is_shared_by_the_characters_of_its_words() -> None:
    # 8 words of 1, 8 of 3 and 4 of 1 letter: 8, 24 and 4 of 36; the line has 56 characters.
    line = " ".join(["a"] * 8 + ["abc"] * 8 + ["b"] * 4) + "\n"
    assert len(line) == 56
    assert characters_of(line) == [12, 37, 7]  # 56 * 8 // 36, 56 * 32 // 36 less that, the rest
    assert characters_of("\n" + line + "\nx\n") == [12, 39, 9]  # of 58; "x\n" joins the last


def independent_count(data: bytes) -> int:
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    return len(re.sub("\r\n|\r", "\n", text))


def random_text(seed: int) -> bytes:
    chance = random.Random(seed)
    signs = ["a", "bc", " ", "  ", "\n", "\r\n", "\r", "\r\r\n", "\u00e9", "\u4e2d\u6587", "\u3000"]
    return "".join(chance.choices(signs, k=chance.randrange(200))).encode()


def test_the_sum_is_the_text_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(40):
        data = b"x " + random_text(seed)
        for document in ("file", "paragraph", "line"):
            config = dataclasses.replace(PLAIN, document=document, tokenizer="graphemes")
            monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 20)
            assert sum(characters_of(data, config)) == independent_count(data)
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 37)
        pieces = [cut_block(block, "f", PLAIN) for block in blocks_of(data, PLAIN)]
        assert sum(one.text_characters for one in pieces) == independent_count(data)


def test_lines_are_counted_as_python_does() -> None:
    for seed in range(200):
        data = random_text(seed)
        counts = count_characters(data, line_offsets(data)).tolist()
        lines = re.findall("[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", data.decode())
        assert counts == [len(line.replace("\r\n", "\n")) for line in lines]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("characters")
    lines = [f"Line {number} has  \u4e2d\u6587 caf\u00e9.\r\n\r\n" for number in range(300)]
    (folder / "a.txt").write_bytes("".join(lines).encode())
    config = DataConfig(record_words=16, min_count=1, valid_fraction=0.2, test_fraction=0.2)
    run(inputs=[str(folder / "a.txt")], records=str(folder / "records"), config=config)
    return folder


def test_records_have_the_characters_of_the_file(records: Path) -> None:
    with Dataset.open(str(records / "records")) as dataset:
        counts = {split: dataset.text_characters(split) for split in SPLITS}
        info = dataset.info
        for split, found in counts.items():
            assert found is not None
            assert found.dtype == np.int64
            assert len(found) == len(dataset.lengths(split)) > 10
            assert info["splits"][split]["text_characters"] == found.sum()
        total = sum(info["splits"][split]["text_characters"] for split in SPLITS)
        expected = independent_count((records / "a.txt").read_bytes())
        assert total == info["input"]["text_characters"] == expected


def test_a_changed_file_of_characters_is_refused(records: Path) -> None:
    path = records / "records" / "test.characters.npy"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-8] + bytes(8))
        with pytest.raises(
            InputError, match=r"character counts .*test\.characters\.npy does not match"
        ):
            Dataset.open(str(records / "records"))
        path.unlink()
        with pytest.raises(InputError, match=r"test\.characters\.npy is missing; run charloom"):
            Dataset.open(str(records / "records"))
    finally:
        path.write_bytes(whole)


def test_records_of_before_have_none(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Dataset.open(str(records / "records")) as dataset:
        info = dataset.info
        for split in SPLITS:
            del info["splits"][split]["character_counts"]
        old = Dataset(dataset.path, info, dataset.config, dataset.vocab)
        assert [old.text_characters(split) for split in SPLITS] == [None] * 3
