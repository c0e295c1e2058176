"""The preset `onebillion` at its full size: 800,000 words, some 441 million parameters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from model.config import Config
from model.data.batches import LaneReader, train_batch
from model.data.plan import TrainPlan
from model.data.records import Record
from model.data.target_sampling import TargetSampler
from model.network.forward import batch_inputs
from model.network.joint_model import JointModel
from model.presets import onebillion
from model.text.spelling import spell
from model.training.optimizer import AdamW
from model.training.steps import Steps

V, LANES, WINDOW, WORDS = 800_000, 4, 8, 200


class RandomText:
    """One record of words drawn from the whole vocabulary, each spelt by its number."""

    def read(self, split: str, index: int) -> Record:
        ids = np.random.default_rng(0).integers(3, V, WORDS + 1)
        spellings = [spell(str(word).encode()) for word in ids]
        return Record(
            word_ids=ids,
            word_lengths=np.asarray([len(one) for one in spellings]),
            char_ids=np.concatenate([np.asarray(one) for one in spellings]),
            source="random",
        )


def small_batches() -> Config:
    config = onebillion()
    train = dataclasses.replace(config.train, lanes=LANES, window=WINDOW, warmup_steps=0)
    return dataclasses.replace(config, train=train)


@pytest.mark.slow
@pytest.mark.extra("test_model_data_target_sampling.py")
def test_onebillion_builds_and_trains() -> None:
    config = small_batches()
    counts = (1e7 / np.arange(1, V + 1)).astype(int).tolist()
    model = JointModel(config.model, vocab_counts=counts)
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
    assert parameters == 440_811_028  # the sum in docs/large-vocabulary.md
    optimizer = AdamW([one.value for one in model.trainable_variables], weight_decay=0.01)
    strategy = tf.distribute.get_strategy()
    steps = Steps(model, optimizer, config=config, strategy=strategy)
    plan = TrainPlan(np.asarray([WORDS]), lanes=LANES, window=WINDOW, seed=1)
    reader = LaneReader(RandomText(), "train", max_word_bytes=32, window=WINDOW)
    sampler = TargetSampler(config.train, counts)
    table = model.softmax_kernel
    state, losses = model.zero_state(LANES), []
    for step in range(4):
        batch = train_batch(plan, reader, 0, range(LANES), sampler=sampler)
        assert batch.rows
        ids = batch.rows.ids
        others = np.setdiff1d(np.arange(0, V, 997), ids)
        before = tf.gather(table, others).numpy()
        result = steps.train(
            batch_inputs(batch), state, step=tf.constant(step), rate=tf.constant(1e-2)
        )
        losses.append(float(result.loss) / float(result.words))
        assert (tf.gather(table, others).numpy() == before).all()  # no other row is touched
    assert losses[0] == pytest.approx(np.log(8192) + 0.0, abs=8.0)
    assert losses[-1] < losses[0] - 1.0  # it learns this one batch
