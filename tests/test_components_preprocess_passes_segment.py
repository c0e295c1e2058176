from __future__ import annotations

import dataclasses
import hashlib
import itertools
from pathlib import Path

import pytest
import tensorflow as tf
from blocks import Piece, blocks_of, pieces_of, scan
from tokenizing import tokenize_text

from components.preprocess.passes import segment
from components.preprocess.passes.segment import choose_split, cut_block
from components.preprocess.passes.tokenize import TokenizedBlock
from components.preprocess.sources import blocks
from components.preprocess.sources.blocks import Block
from model.config import DataConfig
from model.text.vocab import DOCUMENT_START, LINE_END

PLAIN = DataConfig(
    sentence_marks=False,
    record_words=8,
    min_count=1,
    valid_fraction=0.0,
    test_fraction=0.0,
)
MARKED = dataclasses.replace(PLAIN, sentence_marks=True)
LINE = " ".join("abcde")  # five words


def cut(text: str | bytes, config: DataConfig, name: str = "f") -> list[Piece]:
    data = text.encode() if isinstance(text, str) else text
    whole = blocks_of(data, config, name=name)
    return [piece for block in whole for piece in pieces_of(block, name, config)]


def shapes(pieces: list[Piece]) -> list[tuple[str, str, int]]:
    """Source, context word and number of words of each piece."""
    return [(piece.source, piece.words[0].decode(), len(piece.words) - 1) for piece in pieces]


def test_a_short_file_is_one_piece_that_begins_a_document() -> None:
    (piece,) = cut("One two\nthree.\n", MARKED)
    assert piece.source == "f:0"
    assert piece.words == [DOCUMENT_START, b"One", b"two", LINE_END, b"three", b".", LINE_END]


def test_a_piece_ends_at_the_first_line_end_where_it_is_full() -> None:
    text = f"{LINE}\n" * 6  # 10 bytes a line
    assert shapes(cut(text, PLAIN)) == [("f:0", "", 10), ("f:20", "e", 10), ("f:40", "e", 10)]


def test_line_end_marks_count_as_words() -> None:
    text = "a b c\n" * 6
    assert shapes(cut(text, MARKED)) == [("f:0", "", 8), ("f:12", "\n", 8), ("f:24", "\n", 8)]


def test_a_very_short_tail_is_joined() -> None:
    text = f"{LINE}\n{LINE}\n"
    assert shapes(cut(text + "x\n", PLAIN)) == [("f:0", "", 11)]
    assert shapes(cut(text + "x y\n", PLAIN)) == [("f:0", "", 10), ("f:20", "e", 2)]  # a quarter
    assert shapes(cut("x\n", PLAIN)) == [("f:0", "", 1)]


def test_a_line_of_twice_the_size_is_not_cut() -> None:
    assert shapes(cut("a " * 16, PLAIN)) == [("f:0", "", 16)]


def test_a_longer_line_is_cut_inside_and_says_where() -> None:
    text = f"{LINE}\n" + "x " * 20 + "\n" + LINE
    assert shapes(cut(text, PLAIN)) == [
        ("f:0", "", 13),  # the line before and the first 8
        ("f:10+8", "x", 8),
        ("f:10+16", "x", 9),  # its last 4 and the line after
    ]


def test_offsets_are_those_of_the_first_line_with_a_word() -> None:
    text = f"\n\n{LINE}\n{LINE}\n\n  \n{LINE}\n"
    assert shapes(cut(text, PLAIN)) == [("f:2", "", 10), ("f:26", "e", 5)]


def test_offsets_count_bytes_of_the_file() -> None:
    text = f"\ufeffé {LINE}\r\n{LINE}\r\nü\r\n{LINE}"
    assert shapes(cut(text, PLAIN)) == [("f:3", "", 11), ("f:28", "e", 6)]


def test_a_file_is_one_document_whatever_its_blank_lines() -> None:
    pieces = cut("a\n\nb\n \nc\n", PLAIN)
    assert shapes(pieces) == [("f:0", "", 3)]


def test_paragraphs_are_ended_by_blank_lines() -> None:
    config = dataclasses.replace(PLAIN, document="paragraph")
    text = f"a\nb\n\n\n \t\nc\n\n{LINE}\n{LINE}\n{LINE}\n\n\n"
    assert shapes(cut(text, config)) == [
        ("f:0", "", 2),
        ("f:9", "", 1),
        ("f:12", "", 10),
        ("f:32", "e", 5),
    ]


@pytest.mark.parametrize("blank", ["", " \t", "\u3000", "\u2003\xa0", "\u2028", "\x85", "\u200b"])
def test_any_line_without_a_word_ends_a_paragraph_at_a_border_too(
    blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(PLAIN, document="paragraph", lowercase=blank == "\u200b")
    text = f"a\n{blank}\nb\n".encode()
    whole = shapes(cut(text, config))
    assert whole == [("f:0", "", 1), (f"f:{len(text) - 2}", "", 1)]
    for size in range(1, len(text)):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
        assert shapes(cut(text, config)) == whole


def test_a_long_blank_line_before_a_border(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(PLAIN, document="paragraph")
    for tail in range(9, 13):  # begins anywhere in a character
        monkeypatch.setattr(blocks, "TAIL_BYTES", tail)
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 20)
        text = "a\n" + "\u3000" * 9 + "\nb\n"
        assert shapes(cut(text, config)) == [("f:0", "", 1), ("f:30", "", 1)]


def test_every_line_a_document() -> None:
    config = dataclasses.replace(MARKED, document="line")
    pieces = cut("a b\n\nc\n", config)
    assert [(piece.source, piece.words) for piece in pieces] == [
        ("f:0", [b"", b"a", b"b", b"\n"]),
        ("f:5", [b"", b"c", b"\n"]),
    ]


def test_a_tail_is_not_joined_to_another_document() -> None:
    config = dataclasses.replace(PLAIN, document="line")
    assert shapes(cut(f"{LINE} {LINE}\nx\n", config)) == [("f:0", "", 10), ("f:20", "", 1)]


@pytest.mark.parametrize("text", ["\n", " \n\t\n", "\ufeff", "\u3000\u2028"])
def test_a_blank_text(text: str) -> None:
    assert scan(text.encode(), MARKED).reason == "blank"


@pytest.mark.parametrize("tokenizer", ["words", "whitespace"])
@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("block", [100, 1 << 20])
def test_the_pieces_of_a_document_are_the_text_as_served(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str, marks: bool, block: int
) -> None:
    """No skew: what is trained on is what the SavedModel makes of the same text."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    config = dataclasses.replace(PLAIN, tokenizer=tokenizer, sentence_marks=marks, record_words=50)
    text = (corpus / "02_river.txt").read_text(encoding="utf-8")
    text = text.replace("\n\n", "\r\n \r\n", 3) + "line without an end"
    pieces = cut(text, config)
    assert len(pieces) > 5
    words = [word for piece in pieces for word in piece.words[1:]]
    assert words == tokenize_text(tf.constant(text), config).numpy().tolist()
    assert pieces[0].words[0] == DOCUMENT_START
    for piece, after in itertools.pairwise(pieces):
        assert after.words[0] == piece.words[-1]
        assert block == 100 or 50 <= len(piece.words) - 1 < 100


def test_each_paragraph_is_the_text_as_served(corpus: Path) -> None:
    config = dataclasses.replace(MARKED, document="paragraph", record_words=20)
    text = (corpus / "03_school.txt").read_text(encoding="utf-8")
    documents: list[list[bytes]] = []
    for piece in cut(text, config):
        if piece.words[0] == DOCUMENT_START:
            documents.append([])
        documents[-1] += piece.words[1:]
    served = [
        tokenize_text(tf.constant(paragraph), config).numpy().tolist()
        for paragraph in text.split("\n\n")
    ]
    assert documents == served


def test_the_split_is_by_the_hash_of_the_source() -> None:
    config = dataclasses.replace(PLAIN, test_fraction=0.2, valid_fraction=0.3)
    for source in ("a.txt:0", "a.txt:10", "a.txt:10+8", "b/é.txt:0"):
        place = int(hashlib.sha256(source.encode()).hexdigest()[:16], 16) / 16**16
        expected = "test" if place < 0.2 else "valid" if place < 0.5 else "train"
        assert choose_split(source, config) == expected


def test_the_split_is_fixed_for_ever() -> None:
    config = dataclasses.replace(PLAIN, test_fraction=0.25, valid_fraction=0.25)
    splits = [choose_split(f"corpus.txt:{offset}", config)[:2] for offset in range(16)]
    assert " ".join(splits) == "va tr te te tr te tr tr te va va te tr tr te te"


def test_the_split_takes_about_its_fractions() -> None:
    config = dataclasses.replace(PLAIN, test_fraction=0.1, valid_fraction=0.05)
    splits = [choose_split(f"x:{offset}", config) for offset in range(10_000)]
    assert 900 < splits.count("test") < 1100
    assert 400 < splits.count("valid") < 600


def test_the_test_split_does_not_depend_on_the_valid_fraction() -> None:
    one = dataclasses.replace(PLAIN, test_fraction=0.1, valid_fraction=0.0)
    two = dataclasses.replace(PLAIN, test_fraction=0.1, valid_fraction=0.3)
    for offset in range(200):
        source = f"x:{offset}"
        assert (choose_split(source, one) == "test") == (choose_split(source, two) == "test")


def test_pieces_carry_their_split(corpus: Path) -> None:
    config = dataclasses.replace(PLAIN, test_fraction=0.3, valid_fraction=0.3)
    pieces = cut((corpus / "06_cat.txt").read_bytes(), config, name="cat.txt")
    assert {piece.split for piece in pieces} == {"train", "valid", "test"}
    assert all(piece.split == choose_split(piece.source, config) for piece in pieces)


def test_characters_of_a_line_that_is_cut() -> None:
    """By 12, 12 and 6 of the words' 30, whatever precedes the line in its block."""
    text = "abc defg\n" * 3 + "xx y " * 10 + "\n"  # 9 characters each, then 51
    (block,) = blocks_of(text.encode(), PLAIN)
    pieces = cut_block(block, "f", PLAIN, split="train")
    assert pieces.text_characters == 78
    assert pieces.characters.tolist() == [27 + 20, 20, 11]
    assert int(pieces.characters.sum()) == 78


@pytest.mark.parametrize("blank", ["", "\u200b", "\u3000"])
def test_lines_before_a_block_are_tokenised_together(
    blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = f"one two\r\n{(blank + chr(10)) * 5000}".encode()
    block = Block(index=1, offset=1 << 23, data=b"next\n", tail=tail, size=5)
    calls: list[bytes] = []
    tokenize = segment.tokenize_block

    def watched(text: bytes, config: DataConfig) -> TokenizedBlock:
        calls.append(text)
        return tokenize(text, config)

    monkeypatch.setattr(segment, "tokenize_block", watched)
    config = dataclasses.replace(PLAIN, lowercase=True)  # drops a zero-width space
    (piece,) = pieces_of(block, "f", config)
    assert piece.words == [b"two", b"next"]
    assert len(calls) < 10
    (piece,) = pieces_of(block, "f", dataclasses.replace(config, sentence_marks=True))
    assert piece.words == [LINE_END, b"next", LINE_END]
