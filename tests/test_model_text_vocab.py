from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import InputError
from model.text.vocab import (
    BOS_ID,
    DOCUMENT_START,
    EOS_ID,
    LINE_END,
    SPECIAL_WORDS,
    UNK_ID,
    Vocabulary,
    read_words,
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
    assert vocab.stream_words == (LINE_END, b"<unk>", DOCUMENT_START, b"c", b"a", b"b", b"\xc3\xa9")


def test_a_word_spelled_like_a_special_one_is_unknown() -> None:
    counts = {b"</s>": 9, b"<unk>": 8, b"<s>": 7, b"a": 2, LINE_END: 1}
    vocab = Vocabulary.build(counts, max_size=100, min_count=1)
    assert vocab.words == (*SPECIAL_WORDS, "a")
    assert vocab.counts == (1, 24, 0, 2)
    assert vocab.encode([b"</s>", b"<unk>", b"<s>"]) == [UNK_ID] * 3


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
    with pytest.raises(InputError, match="is not a vocabulary file"):
        Vocabulary.load(str(path))


def test_a_file_without_special_words_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("a\t3\nb\t1\n")
    with pytest.raises(InputError, match="does not begin with"):
        Vocabulary.load(str(path))


# A vocabulary from outside


def test_given_words_are_ordered_by_our_counts() -> None:
    vocab = Vocabulary.choose(COUNTS, ["rare", "new", "b", "a", "also"])
    assert vocab.words == (*SPECIAL_WORDS, "a", "b", "rare", "also", "new")
    assert vocab.counts == (4, 5 + 3, 0, 3, 3, 1, 0, 0)
    assert sum(vocab.counts) == sum(COUNTS.values())
    assert vocab.encode([b"c", b"new", LINE_END]) == [UNK_ID, 7, EOS_ID]


def test_all_words_given_are_all_words_built() -> None:
    vocab = Vocabulary.build(COUNTS, max_size=100, min_count=1)
    assert Vocabulary.choose(COUNTS, reversed(vocab.words[3:])) == vocab


def test_read_words(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes("\ufeffthe\t12\r\n\n</s>\n<unk>\t3\n<s>\ncafe\u0301\na\t0".encode())
    assert read_words(str(path)) == ("a", "café", "the")


def test_words_of_a_vocabulary_file_are_read(tmp_path: Path) -> None:
    path = str(tmp_path / "vocab.txt")
    counts = {**COUNTS, b"\x1c": 1, b"x\xe2\x80\x8b": 2, b"\xef\xbb\xbfa": 2}  # no white space
    vocab = Vocabulary.build(counts, max_size=100, min_count=1)
    vocab.save(path)
    assert Vocabulary.choose(counts, read_words(path)) == vocab


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\nb\n\na\t3\n", "line 4 repeats the word 'a' of line 1"),
        (b"<unk>\n<unk>\n", "line 2 repeats the word '<unk>' of line 1"),
        (b"caf\xc3\xa9\ncafe\xcc\x81\n", "line 2 repeats the word 'café' of line 1"),
        (b"a\nin fact\t2\n", "line 2 has white space inside"),
        (b"a\nin\xc2\xa0fact\n", "line 2 has white space inside"),
        (b"a 3\n", "line 1 has white space inside"),
        (b" \n", "line 1 has white space inside"),
        (b"a\t1\t2\n", "line 1 has 2 tabs"),
        (b"a\nb\tmany\n", "line 2 has the count 'many', which is not a whole number"),
        (b"b\t-1\n", "line 1 has the count '-1', which is not a whole number"),
        (b"b\t\n", "line 1 has the count '', which is not a whole number"),
        (b"\t5\n", "line 1 has no word"),
        (b"ok\nno\xff\n", "line 2 is not UTF-8 (byte 2 of the line)"),
    ],
)
def test_a_bad_line_of_words_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "words"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_words(str(path))
    assert str(caught.value) == (
        f"--vocab {path}, {message}; a line is a word, or a word, a tab and its count"
    )


@pytest.mark.parametrize("data", [b"", b"\n\n", b"<unk>\t1\n</s>\n"])
def test_a_file_without_words_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "words"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"--vocab .* contains no words; write one per line"):
        read_words(str(path))


def test_a_file_of_words_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--vocab /no/such: No such file or directory$"):
        read_words("/no/such")
    with pytest.raises(InputError, match=r"Is a directory$"):
        read_words(str(tmp_path))
