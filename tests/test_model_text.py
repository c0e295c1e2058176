# ruff: noqa: RUF001 - letters that look like others are the point
from __future__ import annotations

import unicodedata

import pytest
import tensorflow as tf

from model.config import DataConfig
from model.text import mark_line_ends, tokenize_lines, tokenize_text

WORDS = DataConfig(sentence_marks=False)
SPACES = DataConfig(sentence_marks=False, tokenizer="whitespace")
MARKED = DataConfig()

WHITE = [
    char
    for char in map(chr, range(0x110000))
    if not 0xD800 <= ord(char) <= 0xDFFF and char.isspace() and char not in "\n\r\x1c\x1d\x1e\x1f"
]


def tokenize(text: str | bytes, config: DataConfig, *, open_end: bool = False) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    words = tokenize_text(tf.constant(data), config, open_end=open_end)
    return [word.decode() for word in words.numpy()]


def spaced(text: str) -> list[str]:
    return text.split(" ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don’t stop, José!", "Don ’ t stop , José !"),
        ("“It's 3.14 (50%)”", "“ It ' s 3 . 14 ( 50 % ) ”"),
        ("a--b ... c_d __x__ #tag ==== ---", "a -- b ... c _ d __ x __ # tag ==== ---"),
        ("in 16 1945 - 7", "in 16 1945 - 7"),  # the script tokenizer alone says 161945
        ("$5 €6 №7", "$ 5 € 6 № 7"),
        ("1,000.50", "1 , 000 . 50"),
        ("日本語テキスト", "日本語 テキスト"),
        ("кот2x", "кот 2 x"),
        ("مرحبا، ك", "مرحبا ، ك"),
        ("😀👍🏽", "😀 👍 🏽"),
        ("</s> <unk>", "< / s > < unk >"),
    ],
)
def test_words_are_split_at_scripts_and_signs(text: str, expected: str) -> None:
    assert tokenize(text, WORDS) == spaced(expected)


def test_whitespace_splits_at_white_space_only() -> None:
    assert tokenize("Don’t  stop,\tJosé! </s>", SPACES) == ["Don’t", "stop,", "José!", "</s>"]


@pytest.mark.parametrize("config", [WORDS, SPACES], ids=["words", "whitespace"])
def test_every_white_space_ends_a_word(config: DataConfig) -> None:
    lines = [
        line.format(white)
        for white in WHITE
        for line in ("é{}b", "a{}", "{}b", "a {}b", "a{} b", "a{0}{0}b")
    ]
    words = tokenize_lines(tf.constant(lines), config)
    assert [[word.decode() for word in row] for row in words.to_list()] == [
        line.split() for line in lines
    ]


@pytest.mark.parametrize("config", [WORDS, SPACES], ids=["words", "whitespace"])
def test_words_are_in_normal_form_c(config: DataConfig) -> None:
    decomposed = unicodedata.normalize("NFD", "José café Zoë Ångström")
    assert tokenize(decomposed, config) == ["José", "café", "Zoë", "Ångström"]
    assert tokenize("ﬁ ①", config) == ["ﬁ", "①"]  # not KC


def test_lowercase_folds_case() -> None:
    config = DataConfig(sentence_marks=False, lowercase=True)
    assert tokenize("José GROẞ ΑΣ", config) == ["josé", "gross", "ασ"]


def test_case_is_kept_by_default() -> None:
    assert tokenize("José GROẞ", WORDS) == ["José", "GROẞ"]


def test_every_line_that_has_a_word_is_marked() -> None:
    assert tokenize("a b\n\n \t \nc\n", MARKED) == ["a", "b", "\n", "c", "\n"]


def test_the_last_line_is_marked_whether_or_not_it_is_ended() -> None:
    assert tokenize("a\nb", MARKED) == tokenize("a\nb\n", MARKED) == ["a", "\n", "b", "\n"]


def test_without_marks_line_ends_leave_no_trace() -> None:
    assert tokenize("a b\n\nc\n", WORDS) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb c", ["a", "\n", "b", "c"]),
        ("a\nb\n", ["a", "\n", "b", "\n"]),
        ("a", ["a"]),
        ("a\n\n", ["a", "\n"]),
        ("a\n ", ["a", "\n"]),
        ("", []),
    ],
)
def test_an_open_end_has_no_mark(text: str, expected: list[str]) -> None:
    assert tokenize(text, MARKED, open_end=True) == expected


def test_an_open_end_says_nothing_without_marks() -> None:
    assert tokenize("a\nb", WORDS, open_end=True) == ["a", "b"]


@pytest.mark.parametrize("text", ["", "\n", " \n\t\n\u3000"])
@pytest.mark.parametrize("config", [WORDS, MARKED, SPACES])
def test_a_blank_text_has_no_words(text: str, config: DataConfig) -> None:
    assert tokenize(text, config) == []


def test_all_three_line_ends_are_one() -> None:
    assert tokenize("a\r\nb\rc\n", MARKED) == ["a", "\n", "b", "\n", "c", "\n"]
    assert tokenize("a\r\n\r\nb", MARKED) == ["a", "\n", "b", "\n"]


def test_bytes_that_are_no_utf8_become_the_replacement_character() -> None:
    assert tokenize(b"caf\xe9 ol", SPACES) == ["caf\ufffd", "ol"]


def test_lines_are_tokenized_apart() -> None:
    words = tokenize_lines(tf.constant(["a b.", "", "c"]), WORDS)
    assert words.to_list() == [[b"a", b"b", b"."], [], [b"c"]]


def test_mark_line_ends_skips_empty_lines() -> None:
    words = tf.ragged.constant([[b"a", b"b"], [], [b"c"]])
    assert mark_line_ends(words).to_list() == [[b"a", b"b", b"\n"], [], [b"c", b"\n"]]
    empty = tf.RaggedTensor.from_row_lengths(tf.constant([], tf.string), [0, 0])
    assert mark_line_ends(empty).to_list() == [[], []]


@pytest.mark.parametrize("config", [WORDS, MARKED, SPACES, DataConfig(lowercase=True)])
def test_a_compiled_function_gives_the_same(config: DataConfig) -> None:
    text = "Don’t stop,\n\nJosé: 16 1945!\r\n"
    compiled = tf.function(lambda text: tokenize_text(text, config))
    assert compiled(tf.constant(text)).numpy().tolist() == [
        word.encode() for word in tokenize(text, config)
    ]
