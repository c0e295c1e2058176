"""What the tests of served models compare them with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.config import Config
from model.network.joint_model import Encoded, JointModel
from model.network.losses import word_log_likelihoods
from model.text.spelling import spell_rows
from model.text.tokenizer import tokenize_text
from model.text.vocab import DOCUMENT_START, Vocabulary

Floats = npt.NDArray[np.float32]


class Reference:
    """What the checkpoint makes of words, read by the model's own parts in one window."""

    def __init__(self, model: JointModel, config: Config, vocab: Vocabulary):
        self.model = model
        self.config = config
        self.vocab = vocab

    def words(self, text: bytes, *, open_end: bool = False) -> list[bytes]:
        words: list[bytes] = (
            tokenize_text(tf.constant(text), self.config.data, open_end=open_end).numpy().tolist()
        )
        return words

    def read(self, words: Sequence[bytes]) -> Encoded:
        """Reads the document start and `[L]` words."""
        stream = [DOCUMENT_START, *words]
        matrix = spell_rows(stream, self.config.model.max_word_bytes)
        return self.model.encode(
            tf.constant(self.vocab.encode(stream)),
            char_ids=tf.constant(matrix.astype(np.int32)),
            index=tf.range(len(stream))[tf.newaxis],
            state=self.model.zero_state(1),
        )

    def score(self, words: Sequence[bytes]) -> Floats:
        """Returns `[L]` log-likelihoods."""
        hidden = self.read(words).hidden[:, :-1]
        targets = tf.constant([self.vocab.encode(words)], tf.int32)
        return np.asarray(word_log_likelihoods(self.model, hidden, targets)[0])

    def next_word(self, words: Sequence[bytes]) -> Floats:
        """Returns `[V]` probabilities of the word after the last."""
        return np.asarray(tf.nn.softmax(self.model.logits(self.read(words).hidden[:, -1]))[0])
