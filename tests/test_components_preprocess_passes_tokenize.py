import random

import pytest
import tensorflow as tf
from volume import keep_first

from components.preprocess.passes.tokenize import tokenize_block
from model.config import TOKENIZERS, DataConfig
from model.text.tokenizer import mark_line_ends, tokenize_lines

SIGNS = (
    *" \n\t\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u3000\u200b\ufeff\xad",  # white or nothing
    *("a", "b", "e", "Ä", "a\u0308", "\u0301", "ſ", "ß", "İ", "ﬁ", "Σ", "ς", "1", "6"),  # noqa: RUF001
    *(".", "...", "-", "--", "'", "_", "\xa8", "\xb4", "<s>", "</s>"),
    *("ﷺ", "中", "文", "ไ", "\u0e33", "か", "\u3099", "한", "ᄒ", "ᅡ", "נ", "\u202e", "अ", "\u093f"),
    *("😀", "👨\u200d👩\u200d👧", "🇩", "\r\n", "\n\n"),
)


def by_lines(text: bytes, config: DataConfig) -> tuple[list[bytes], list[int]]:
    """The definition: each line as model/text/tokenizer.py splits it."""
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    words = tokenize_lines(tf.constant(lines, tf.string, [len(lines)]), config)
    if config.sentence_marks:
        words = mark_line_ends(words)
    return words.flat_values.numpy().tolist(), words.row_limits().numpy().tolist()


@pytest.mark.parametrize("texts", keep_first([40, 400]))
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("marks", [False, True])
def test_the_words_are_those_of_the_definition(
    tokenizer: str, lowercase: bool, marks: bool, texts: int
) -> None:
    config = DataConfig(tokenizer=tokenizer, lowercase=lowercase, sentence_marks=marks)
    chance = random.Random(f"{texts} {config}")
    for _ in range(texts):
        text = "".join(chance.choices(SIGNS, k=chance.randrange(40))).encode()
        block = tokenize_block(text, config)
        words = [block.distinct[number] for number in block.words]
        assert (words, block.line_ends.tolist()) == by_lines(text, config), text


def test_lines_have_their_offsets() -> None:
    for text, offsets in (
        (b"", []),
        (b"a", [0]),
        (b"a\n", [0]),
        (b"a\n\nb\n", [0, 2, 3]),
        (b"\r\na\r\rb\n\rc", [0, 2, 4, 5, 7, 8]),
    ):
        block = tokenize_block(text, DataConfig())
        assert block.line_offsets.tolist() == offsets
        assert len(block.line_ends) == len(offsets)
