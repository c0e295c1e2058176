"""The rows that pad U are in no result: not in losses, gradients or the rows that are updated."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from model.config import Config, with_overrides
from model.data.batches import Batch, LaneReader, train_batch
from model.data.plan import TrainPlan
from model.data.records import Record, encode_record, parse_record
from model.data.target_sampling import TargetSampler
from model.network.forward import batch_inputs
from model.network.joint_model import JointModel
from model.presets import tiny
from model.text.vocab import DOCUMENT_START, Vocabulary
from model.training.optimizer import AdamW
from model.training.steps import Steps

WORDS = [f"{'long' * (at % 4)}{at}".encode() for at in range(60)]
COUNTS = {word: 90 - at for at, word in enumerate(WORDS[:40])}
COUNTS |= {f"other{at}".encode(): 1 for at in range(200)}
"""Of the words of the text, and of some that it does not have; twenty of it are unknown."""
VOCAB = Vocabulary.build(COUNTS, max_size=999, min_count=1)
DROPOUT = ["model.input_dropout=0.3", "model.output_dropout=0.3", "model.recurrent_dropout=0.1"]
VARIANTS = {
    "full": [],
    "sampled": ["train.softmax=sampled", "train.sampled_words=12", "train.rare_targets=0.1"],
    "untied": ["model.tied=false", "train.softmax=sampled", "train.sampled_words=12"],
}


class Text:
    """One record of known and unknown words."""

    length = 400

    def read(self, split: str, index: int) -> Record:
        drawn = np.random.default_rng(1).integers(0, len(WORDS), self.length)
        words = [DOCUMENT_START, *(WORDS[at] for at in drawn)]
        return parse_record(encode_record(words, VOCAB, source="text"))


def unpadded(batch: Batch) -> Batch:
    """Returns the batch without the rows that no place of the index points to."""
    return with_pads(batch, words=batch.words[:0], char_ids=batch.char_ids[:0], of_words=None)


def with_pads(batch: Batch, *, words: Any, char_ids: Any, of_words: Any) -> Batch:
    """Returns the batch with other rows as padding."""
    distinct = int(batch.index.max()) + 1
    rows = batch.rows
    if rows is not None:
        kept = rows.of_words[:distinct]
        rows = dataclasses.replace(
            rows, of_words=kept if of_words is None else np.concatenate([kept, of_words])
        )
    return dataclasses.replace(
        batch,
        words=np.concatenate([batch.words[:distinct], words]),
        char_ids=np.concatenate([batch.char_ids[:distinct], char_ids]),
        rows=rows,
    )


def other_pads(batch: Batch) -> Batch:
    """Returns the batch padded with its last word, which is long, instead of its first."""
    distinct, rows = int(batch.index.max()) + 1, batch.rows
    last = np.full(len(batch.words) - distinct, distinct - 1)
    return with_pads(
        batch,
        words=batch.words[last],
        char_ids=batch.char_ids[last],
        of_words=None if rows is None else rows.of_words[last],
    )


def make_config(variant: str) -> Config:
    settings = ["train.window=9", "train.warmup_steps=0", *DROPOUT, *VARIANTS[variant]]
    return with_overrides(tiny(), settings)


def make_batch(config: Config) -> Batch:
    """Returns the first batch that is padded."""
    train = config.train
    plan = TrainPlan(np.asarray([Text.length]), lanes=train.lanes, window=train.window, seed=1)
    reader = LaneReader(
        Text(), "train", max_word_bytes=config.model.max_word_bytes, window=train.window
    )
    sampler = TargetSampler(train, VOCAB.counts)
    for step in range(plan.steps_per_epoch):
        batch = train_batch(plan, reader, step, range(train.lanes), sampler=sampler)
        if len(batch.words) > int(batch.index.max()) + 1:
            return batch
    raise AssertionError("no batch is padded")


class Trainer:
    """Takes first steps, each from the same weights."""

    def __init__(self, config: Config):
        self._model = JointModel(config.model, vocab_counts=VOCAB.counts, seed=3)
        self._variables = [one.value for one in self._model.trainable_variables]
        self._optimizer = AdamW(self._variables, weight_decay=0.01)
        self._steps = Steps(
            self._model, self._optimizer, config=config, strategy=tf.distribute.get_strategy()
        )
        self._state = self._model.zero_state(config.train.lanes)
        self._all = [*self._variables, *self._optimizer.first, *self._optimizer.second]
        self.before = {one.name + str(at): one.numpy() for at, one in enumerate(self._all)}

    def train(self, batch: Batch) -> dict[str, npt.NDArray[np.float32]]:
        """Returns loss, norm, state, weights and slots after a step on this batch."""
        for variable, value in zip(self._all, self.before.values(), strict=True):
            variable.assign(value)
        result = self._steps.train(
            batch_inputs(batch), self._state, step=tf.constant(0), rate=tf.constant(0.01)
        )
        after = {name: one.numpy() for name, one in zip(self.before, self._all, strict=True)}
        norm = result.gradient_norm.numpy()
        # The first slot is the clipped gradient's tenth. The weights themselves say less: the
        # first step of Adam is as long for a gradient that is rounding only as for any other.
        slots = {name: after[name] for name in list(after)[len(self._variables) :]}
        return {"loss": result.loss.numpy(), "norm": norm, "state": result.state.numpy(), **slots}

    def changed_rows(self) -> list[npt.NDArray[np.int64]]:
        """Returns for each table which of its rows are other than before the step."""
        return [
            np.flatnonzero((one.numpy() != before).reshape(len(VOCAB), -1).any(axis=1))
            for one, before in zip(self._all, self.before.values(), strict=True)
            if one.shape[0] == len(VOCAB)
        ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_no_step(variant: str) -> None:
    config = make_config(variant)
    batch = make_batch(config)
    trainer = Trainer(config)
    expected = trainer.train(unpadded(batch))
    rows = trainer.changed_rows()
    assert len(rows) == 3 * len(config_tables(config))
    other = other_pads(batch)
    assert (other.words != batch.words).any()
    for one in (batch, other):
        found = trainer.train(one)
        assert list(found) == list(expected)
        for name, value in found.items():
            # Sums over U may be added up in another order, and no more.
            atol = 1e-5 * float(np.abs(expected[name]).max())
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=atol, err_msg=name)
        for mine, before in zip(trainer.changed_rows(), rows, strict=True):
            np.testing.assert_array_equal(mine, before)
    if batch.rows is not None:
        for changed in rows:
            np.testing.assert_array_equal(np.setdiff1d(changed, batch.rows.ids), [])
        assert len(batch.rows.ids) < len(VOCAB)


def config_tables(config: Config) -> list[str]:
    """Returns the variables that have a row for each word."""
    return ["bias", "embedding"] if config.model.tied else ["bias", "embedding", "kernel"]
