"""Counts the words of texts before a model reads them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import tensorflow as tf

from model.config import DataConfig, read_config
from model.errors import InputError
from model.text.tokenizer import tokenize_texts

log = logging.getLogger(__name__)

FEW_WORDS = 512
"""So few words need not be counted exactly."""


class WordCounter:
    """Counts words as a version's own tokenizer does."""

    def __init__(self, version: str):
        """Takes the folder of a version.

        Without a config.json that this charloom can read, every character that is not white space
        counts as a word.
        """
        self._count: tf.types.experimental.PolymorphicFunction | None = None
        try:
            self._count = _make_counter(read_config(os.path.join(version, "config.json")).data)
        except InputError as error:
            log.warning("%s; its limit of words counts characters instead", error)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Returns the words of each text; an upper limit where there are few in all."""
        limits = [_count_characters(text) for text in texts]
        if self._count is None or sum(limits) <= FEW_WORDS:
            return limits
        counts: list[int] = self._count(tf.constant(texts)).numpy().tolist()
        return counts


def _make_counter(config: DataConfig) -> tf.types.experimental.PolymorphicFunction:
    def count(texts: tf.Tensor) -> tf.Tensor:
        return tokenize_texts(texts, config).row_lengths()

    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(count, input_signature=signature, autograph=False)


def _count_characters(text: str) -> int:
    """Returns the most words that a text can have; each line that isn't empty may end with one."""
    return sum(map(len, text.split())) + text.count("\n") + text.count("\r") + 1
