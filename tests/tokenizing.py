"""The words of a single text, with which prepared and served words are compared."""

from __future__ import annotations

import tensorflow as tf

from model.config import DataConfig
from model.text.tokenizer import tokenize_texts


def tokenize_text(text: tf.Tensor, config: DataConfig, *, open_end: bool = False) -> tf.Tensor:
    """Returns the words `[L]` of a scalar string."""
    return tokenize_texts(text[tf.newaxis], config, open_end=open_end).flat_values
