"""Char-CNN vectors of words given as strings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.network.joint_model import JointModel
from model.text.spelling import spell_rows

_CHUNK = 1024


def char_vectors(model: JointModel, words: Sequence[bytes]) -> npt.NDArray[np.float32]:
    """Returns `[N, F]` vectors of N words of a stream; the model must have a char-CNN."""
    rows = [np.zeros((0, sum(model.config.filter_counts)), np.float32)]
    for start in range(0, len(words), _CHUNK):
        matrix = spell_rows(words[start : start + _CHUNK], model.config.max_word_bytes)
        rows.append(model.spell_out(tf.constant(matrix.astype(np.int32))).numpy())
    return np.concatenate(rows)
