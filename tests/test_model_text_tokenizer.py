# ruff: noqa: RUF001 - letters that look like others are the point
from __future__ import annotations

import functools
import random
import unicodedata

import pytest
import tensorflow as tf
import tensorflow_text as tf_text
from tokenizing import tokenize_text

from model.config import TOKENIZERS, DataConfig
from model.text.tokenizer import (
    _split_scripts,
    detokenize,
    mark_line_ends,
    tokenize_lines,
)

WORDS = DataConfig(sentence_marks=False)
SPACES = DataConfig(sentence_marks=False, tokenizer="whitespace")
GRAPHEMES = DataConfig(sentence_marks=False, tokenizer="graphemes")
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


def test_scripts_are_parted_as_the_tokenizer_of_tensorflow_text_parts_strings() -> None:
    chance = random.Random(5)
    signs = "aZé1٣._-/中文かカไทย한ᄒנअ\u0301\u093f\u200d😀İΣя\U00020000"
    words = ["".join(chance.choices(signs, k=chance.randrange(9))) for _ in range(3000)]
    expected = tf_text.UnicodeScriptTokenizer().tokenize(tf.constant(words))
    assert _split_scripts(tf.constant(words)).to_list() == expected.to_list()


def test_whitespace_splits_at_white_space_only() -> None:
    assert tokenize("Don’t  stop,\tJosé! </s>", SPACES) == ["Don’t", "stop,", "José!", "</s>"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我有2本Python书。", "我 有 2 本 Python 书 。"),
        ("時々〇〆3ゝヽ〻", "時 々 〇 〆 3 ゝ ヽ 〻"),
        ("スーパー3ー4 ﾃｰｰﾌﾟ", "ス ー パ ー 3 ー 4 ﾃ ｰ ｰ ﾌﾟ"),
        ("か\u3099か\u309aｶﾞﾞ", "が か\u309a ｶﾞﾞ"),
        ("〱 〳〵", "〱 〳 〵"),
        ("\U00020000\U0003fffd\U0003fffd", "\U00020000 \U0003fffd \U0003fffd"),  # not assigned yet
        ("葛\U000e0100城\ufe00", "葛\U000e0100 城\ufe00"),  # variants
        ("ㄅㄛ ꆈꌠ", "ㄅ ㄛ ꆈ ꌠ"),
        ("น้ำแข็ง ๑๒ ๆ", "น้ำ แ ข็ ง ๑ ๒ ๆ"),
        ("ຄຳລາວ", "ຄຳ ລ າ ວ"),
        ("ខ្ញុំស្ត្រី", "ខ្ញុំ ស្ត្រី"),  # letters below letters
        ("သင်္ချာ က္က", "သ င်္ချာ က္က"),
        ("ꦲꦏ꧀ꦱꦫ ᬅᬓ᭄ᬱᬭ", "ꦲ ꦏ꧀ꦱ ꦫ ᬅ ᬓ᭄ᬱ ᬭ"),
        ("\u17d2ក \u0e34ก a\u0e34", "\u17d2 ក \u0e34 ก a \u0e34"),  # marks on nothing
        ("क्\u200dष ཀཁ་ 한국어 x\u0302", "क् \u200d ष ཀཁ ་ 한국어 x \u0302"),  # as `words`
        ("ก\u200bข ក\u200cខ\u200dគ", "ก \u200b ข ក\u200c ខ\u200d គ"),
        ("字-\u0301字", "字 - \u0301 字"),
    ],
)
def test_graphemes_of_scripts_without_spaces_are_words(text: str, expected: str) -> None:
    assert tokenize(text, GRAPHEMES) == spaced(expected)


@pytest.mark.parametrize(
    "letters", ["中か", "ไท", "ລາ", "ខម", "မမ", "ᥖᥭ", "ᦅᦆ", "ᨠᨡ", "ꪀꪁ", "ꦲꦫ", "ᬅᬓ", "ᯀᯁ", "ᨀᨁ"]
)
def test_two_letters_of_such_a_script_are_two_words(letters: str) -> None:
    assert tokenize(letters, GRAPHEMES) == list(letters)


@pytest.mark.parametrize(
    "text",
    [
        "Don’t stop, José! in 16 1945 - 7 a--b ... c_d $5 1,000.50 кот2x 😀👍🏽 </s>",
        "كتبَ الولدُ رسالةً، ٣ قطط",
        "नहीं। १२ क़लम הַיֶּלֶד 고양이가 བོད་སྐད་ ქართული አማርኛ தமிழ் ᠮᠣᠩᠭᠣᠯ",
    ],
)
def test_graphemes_are_words_in_all_other_scripts(text: str) -> None:
    assert tokenize(text, GRAPHEMES) == tokenize(text, WORDS)


@pytest.mark.parametrize("config", [WORDS, SPACES, GRAPHEMES], ids=TOKENIZERS)
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


@pytest.mark.parametrize("config", [WORDS, SPACES, GRAPHEMES], ids=TOKENIZERS)
def test_words_are_in_normal_form_c(config: DataConfig) -> None:
    decomposed = unicodedata.normalize("NFD", "José café Zoë Ångström")
    assert tokenize(decomposed, config) == ["José", "café", "Zoë", "Ångström"]
    assert tokenize("ﬁ ①", config) == ["ﬁ", "①"]  # not KC


def test_lowercase_folds_case() -> None:
    config = DataConfig(sentence_marks=False, lowercase=True)
    assert tokenize("José GROẞ ΑΣ", config) == ["josé", "gross", "ασ"]


def test_lowercase_is_nfkc_casefold() -> None:
    config = DataConfig(sentence_marks=False, tokenizer="graphemes", lowercase=True)
    assert tokenize("ﬁ ① ｶﾞ Ｐ x\u200by a\xa0b", config) == ["fi", "1", "ガ", "p", "xy", "a", "b"]
    assert tokenize("น้ำ İ", config) == ["น้\u0e4d", "\u0e32", "i", "\u0307"]


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
@pytest.mark.parametrize("config", [WORDS, MARKED, SPACES, GRAPHEMES])
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


@pytest.mark.parametrize("config", [WORDS, MARKED, SPACES, GRAPHEMES, DataConfig(lowercase=True)])
def test_a_compiled_function_gives_the_same(config: DataConfig) -> None:
    text = "Don’t stop,\n\nJosé: 16 1945 น้ำか゚!\r\n"
    compiled = tf.function(lambda text: tokenize_text(text, config))
    assert compiled(tf.constant(text)).numpy().tolist() == [
        word.encode() for word in tokenize(text, config)
    ]


def test_detokenize_joins_by_spaces_and_line_ends() -> None:
    assert detokenize([]) == b""
    assert detokenize([b"a"]) == b"a"
    assert detokenize([b"a", b"b", b".", b"\n", b"c", b"\n"]) == b"a b .\nc\n"
    assert detokenize([b"\n", b"a", b"\n", b"b"]) == b"\na\nb"


@pytest.mark.parametrize(
    ("config", "text", "joined"),
    [
        (DataConfig(tokenizer="whitespace"), " Cafe\u0301,\t\u3000ok\r\n\n  x ", "Café, ok\nx\n"),
        (SPACES, " Cafe\u0301,\t\u3000ok\r\n\n  x ", "Café, ok x"),
        (MARKED, "Don't!\n日本へ", "Don ' t !\n日本 へ\n"),
        (DataConfig(tokenizer="graphemes"), "Don't!\n日本へ", "Don ' t !\n日 本 へ\n"),
    ],
)
def test_detokenized_text(config: DataConfig, text: str, joined: str) -> None:
    words = [word.encode() for word in tokenize(text, config)]
    assert detokenize(words).decode() == joined
    assert tokenize(joined, config) == tokenize(text, config)


HARD = (
    *"aΑßİſ1٣३.-…=ゝ々〆ー中かゞｶﾞﾟｰไทำิ์ລຳខ្ញុំက္င်꧀ꦏ᭄ᬓ한ཀ་नि़\u200b\u200c\u200d\xad",
    *"\u0301\u0345\u3099\u309a\u302a\ufe0f\U000e0100\U00020000\U0003fffd¨½①ﷺ\u3164㌀㈠  \n\n\u3000\xa0",
)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("marks", [False, True])
def test_detokenized_text_has_the_same_words(tokenizer: str, lowercase: bool, marks: bool) -> None:
    chance = random.Random(f"{tokenizer} {lowercase} {marks}")
    config = DataConfig(tokenizer=tokenizer, lowercase=lowercase, sentence_marks=marks)
    signature = [tf.TensorSpec([], tf.string)]
    compiled = functools.partial(tf.function, input_signature=signature, autograph=False)
    split = compiled(lambda text: tokenize_text(text, config))
    split_open = compiled(lambda text: tokenize_text(text, config, open_end=True))
    for _ in range(100):
        text = "".join(chance.choices(HARD, k=chance.randrange(40)))
        words = split(tf.constant(text.encode())).numpy().tolist()
        assert split(tf.constant(detokenize(words))).numpy().tolist() == words, ascii(text)
        words = split_open(tf.constant(text.encode())).numpy().tolist()
        assert split_open(tf.constant(detokenize(words))).numpy().tolist() == words, ascii(text)
