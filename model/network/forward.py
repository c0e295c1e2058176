"""Batches as tensors, and scores of one window without dropout."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model.data.batches import Batch
from model.network.joint_model import JointModel, read_rows
from model.network.losses import word_log_likelihoods

Inputs = dict[str, tf.Tensor]


def batch_inputs(batch: Batch, *, first_lane: int = 0) -> Inputs:
    """Returns a batch as input tensors of the steps."""
    inputs = {
        "words": batch.words,
        "char_ids": batch.char_ids,
        "index": batch.index,
        "targets": batch.targets,
        "weights": batch.weights,
        "keep": 1.0 - batch.fresh.astype(np.float32),
        "first_lane": np.int32(first_lane),
    }
    if batch.rows:
        inputs |= {
            "rows": batch.rows.ids,
            "log_expected": batch.rows.log_expected,
            "row_of_words": batch.rows.of_words,
            "row_of_targets": batch.rows.of_targets,
        }
    return {name: tf.constant(value) for name, value in inputs.items()}


def score_window(
    model: JointModel, inputs: Inputs, state: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores the targets of a window.

    Args:
      model: the model.
      inputs: result of `batch_inputs`.
      state: `[b, layers, 2, H]` before the window.

    Returns:
      `[b, T]` log-likelihoods (0 in padding), and the state after the window.
    """
    vectors = None
    if model.word_embedding is not None:
        vectors = read_rows(model.word_embedding.embeddings.value, inputs["words"])
    encoded = model.encode(
        inputs["words"],
        char_ids=inputs["char_ids"],
        index=inputs["index"],
        state=state * inputs["keep"][:, tf.newaxis, tf.newaxis, tf.newaxis],
        word_vectors=vectors,
    )
    scores = word_log_likelihoods(model, encoded.hidden, inputs["targets"])
    return scores * inputs["weights"], encoded.state
