"""Words are counted as the model's tokenizer splits them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from components.serve.word_counter import FEW_WORDS, WordCounter
from model.config import to_json, with_overrides
from model.presets import tiny
from model.text.tokenizer import tokenize_texts

TEXTS = ["", "a", "It was cold.", "!" * 600, "one\n\ntwo\r\nthree", "naïve 猫猫 x1", " \t\u3000\n"]


@pytest.mark.parametrize(("tokenizer", "marks"), [("words", "true"), ("whitespace", "false")])
def test_counts_are_those_of_the_tokenizer(tmp_path: Path, tokenizer: str, marks: str) -> None:
    settings = [f"data.tokenizer={tokenizer}", f"data.sentence_marks={marks}"]
    config = with_overrides(tiny(), settings)
    (tmp_path / "config.json").write_text(to_json(config))
    expected = tokenize_texts(tf.constant(TEXTS), config.data).row_lengths().numpy().tolist()
    assert WordCounter(str(tmp_path)).count(TEXTS) == expected
    few = [text for text in TEXTS if len(text) < 600]
    limits = WordCounter(str(tmp_path)).count(few)
    exact = [count for text, count in zip(TEXTS, expected, strict=True) if text in few]
    assert all(limit >= count for limit, count in zip(limits, exact, strict=True))


@pytest.mark.parametrize("config", [None, '{"config_version": 0}'])
def test_without_a_config_characters_count(tmp_path: Path, config: str | None) -> None:
    if config:
        (tmp_path / "config.json").write_text(config)
    counter = WordCounter(str(tmp_path))
    assert counter.count(["a b", "x" * FEW_WORDS]) == [3, FEW_WORDS + 1]
