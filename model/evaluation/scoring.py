"""Scores every word of a split once, by the full softmax, each record from a zero state.

So a record's figures do not depend on the other records.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.data.batches import Batch, LaneReader, eval_batch, prefetch
from model.data.plan import EvalPlan
from model.network.forward import batch_inputs, score_window
from model.network.joint_model import JointModel
from model.network.tracing import TracedOnce


def score_batches(
    model: JointModel, plan: EvalPlan, reader: LaneReader
) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """Yields each batch of a plan with the `[B, T]` log-likelihoods of its targets."""

    @TracedOnce
    def step(inputs: dict[str, tf.Tensor], state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return score_window(model, inputs, state)

    state = model.zero_state(plan.lanes)
    lanes = range(plan.lanes)
    for batch in prefetch(lambda at: eval_batch(plan, reader, at, lanes), range(plan.steps)):
        scores, state = step(batch_inputs(batch), state)
        yield batch, scores.numpy()


def score_words(
    model: JointModel, plan: EvalPlan, reader: LaneReader, *, lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Scores every word of some records.

    Args:
      model: the model.
      plan: plan over these records.
      reader: reads them with the ids of the model's vocabulary.
      lengths: `[records]` words of each.

    Returns:
      `[sum(lengths)]` log-likelihoods, in record order.
    """
    starts = np.cumsum(lengths) - lengths
    scores, scored = np.zeros(int(lengths.sum()), np.float32), 0
    for step, (_, values) in enumerate(score_batches(model, plan, reader)):
        for lane in range(plan.lanes):
            segment = plan.segment(step, lane)
            if segment:
                at, size = starts[segment.record] + segment.start, segment.stop - segment.start
                scores[at : at + size] = values[lane, :size]
                scored += size
    assert scored == len(scores), "every word is scored once"
    return scores
