from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import InputError
from model.vocab import (
    BOS_ID,
    CHAR_BOS,
    CHAR_EOS,
    CHAR_OFFSET,
    DOCUMENT_START,
    EOS_ID,
    LINE_END,
    NUM_CHARS,
    SPECIAL_WORDS,
    UNK_ID,
    Vocabulary,
    spell,
    unspell,
)

COUNTS = {b"b": 3, b"a": 3, b"c": 5, b"rare": 1, b"\xc3\xa9": 3, LINE_END: 4}


def test_order_is_falling_count_then_spelling() -> None:
    vocab = Vocabulary.build(COUNTS, max_size=100, min_count=1)
    assert vocab.words == ("</s>", "<unk>", "<s>", "c", "a", "b", "é", "rare")
    assert vocab.counts == (4, 0, 0, 5, 3, 3, 3, 1)
    assert len(vocab) == 8


def test_order_does_not_depend_on_that_of_the_counts() -> None:
    turned = dict(reversed(COUNTS.items()))
    assert Vocabulary.build(turned, max_size=6, min_count=1) == Vocabulary.build(
        COUNTS, max_size=6, min_count=1
    )


def test_a_rare_word_counts_as_unknown() -> None:
    vocab = Vocabulary.build(COUNTS, max_size=100, min_count=2)
    assert vocab.words[3:] == ("c", "a", "b", "é")
    assert vocab.counts == (4, 1, 0, 5, 3, 3, 3)
    assert sum(vocab.counts) == sum(COUNTS.values())


def test_a_full_vocabulary_cuts_ties_by_spelling() -> None:
    vocab = Vocabulary.build(COUNTS, max_size=5, min_count=1)
    assert vocab.words[3:] == ("c", "a")
    assert vocab.counts == (4, 3 + 3 + 1, 0, 5, 3)


def test_ids_of_marks_words_and_unknown_words() -> None:
    vocab = Vocabulary.build(COUNTS, max_size=100, min_count=2)
    stream = [DOCUMENT_START, b"c", b"\xc3\xa9", b"rare", b"never", LINE_END]
    assert vocab.encode(stream) == [BOS_ID, 3, 6, UNK_ID, UNK_ID, EOS_ID]
    assert (EOS_ID, UNK_ID, BOS_ID) == (0, 1, 2)


def test_a_word_spelled_like_a_special_one_is_unknown() -> None:
    counts = {b"</s>": 9, b"<unk>": 8, b"<s>": 7, b"a": 2, LINE_END: 1}
    vocab = Vocabulary.build(counts, max_size=100, min_count=1)
    assert vocab.words == (*SPECIAL_WORDS, "a")
    assert vocab.counts == (1, 24, 0, 2)
    assert vocab.encode([b"</s>", b"<unk>", b"<s>"]) == [UNK_ID] * 3
    assert spell(b"</s>") == [byte + CHAR_OFFSET for byte in b"</s>"]


def test_spelling() -> None:
    assert spell(DOCUMENT_START) == [CHAR_BOS]
    assert spell(LINE_END) == [CHAR_EOS]
    assert spell("é".encode()) == [0xC3 + 5, 0xA9 + 5]
    assert max(spell(bytes(range(256)))) == NUM_CHARS - 1
    assert min(spell(bytes(range(256)))) > CHAR_EOS


@pytest.mark.parametrize("word", [DOCUMENT_START, LINE_END, b"a", "né".encode(), b"</s>", b"\x00"])
def test_unspell_is_the_inverse(word: bytes) -> None:
    assert unspell(spell(word)) == word


def test_empty_counts_give_the_special_words() -> None:
    vocab = Vocabulary.build({}, max_size=8, min_count=1)
    assert vocab.words == SPECIAL_WORDS
    assert vocab.counts == (0, 0, 0)


def test_save_and_load(tmp_path: Path) -> None:
    path = str(tmp_path / "vocab.txt")
    counts = {**COUNTS, "\u2028x".encode(): 2, b"\r": 2, "\x85".encode(): 2}
    vocab = Vocabulary.build(counts, max_size=100, min_count=2)
    vocab.save(path)
    assert Vocabulary.load(path) == vocab
    assert Vocabulary.load(path).digest == vocab.digest
    assert [file.name for file in tmp_path.iterdir()] == ["vocab.txt"]


def test_file_and_digest() -> None:
    vocab = Vocabulary.build({b"a": 2, LINE_END: 1}, max_size=8, min_count=1)
    assert vocab.to_text() == "</s>\t1\n<unk>\t0\n<s>\t0\na\t2\n"
    assert vocab.digest == "5ee7ff1d38174d574ffb46938f4c7729ad2978df2aaeae7ed1a747a7551b8aad"


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    path = str(tmp_path / "vocab.txt")
    with pytest.raises(InputError, match=r"vocab\.txt is missing; run charloom prepare again"):
        Vocabulary.load(path)


@pytest.mark.parametrize("text", ["a b c\n", "</s>\tmany\n", "</s>\t1\t2\n"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="is no vocabulary file"):
        Vocabulary.load(str(path))


def test_a_file_without_special_words_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("a\t3\nb\t1\n")
    with pytest.raises(InputError, match="does not begin with"):
        Vocabulary.load(str(path))
