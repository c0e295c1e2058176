from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from model.batches import Batch
from model.config import Config, ModelConfig, TrainConfig
from model.network import JointModel
from model.optimizer import AdamW
from model.steps import StepResult, Steps, batch_inputs, score_window

B, T, W, V = 4, 3, 6, 12
COUNTS = [3, 1, 0, 20, 9, 8, 7, 6, 5, 4, 3, 2]
STRATEGY = tf.distribute.OneDeviceStrategy("/cpu:0")
Named = dict[str, npt.NDArray[np.float32]]


def make_config(
    *, dropout: float = 0.0, char_cnn: str = "trained", clip_norm: float = 1.0, seed: int = 1
) -> Config:
    return Config(
        model=ModelConfig(
            word_dim=5,
            char_dim=3,
            max_word_bytes=W,
            filter_widths=(2,),
            filter_counts=(3,),
            lstm_layers=1,
            lstm_dim=6,
            dropout=dropout,
            char_cnn=char_cnn,
        ),
        train=TrainConfig(lanes=B, window=T, clip_norm=clip_norm, seed=seed),
    )


class Trainer:
    """A model with its steps, on this process's CPU."""

    def __init__(self, config: Config):
        with STRATEGY.scope():
            self.model = JointModel(config.model, vocab_counts=COUNTS, seed=3)
            self.variables = [variable.value for variable in self.model.trainable_variables]
            self.optimizer = AdamW(self.variables, weight_decay=config.train.weight_decay)
        self.steps = Steps(self.model, self.optimizer, config=config, strategy=STRATEGY)

    def train(self, batch: Batch, *, step: int = 0, rate: float = 0.0, lane: int = 0) -> StepResult:
        return self.steps.train(
            batch_inputs(batch, first_lane=lane),
            self.model.zero_state(len(batch.fresh)),
            step=tf.constant(step, tf.int32),
            rate=tf.constant(rate, tf.float32),
        )

    def weights(self) -> Named:
        return {weight.path: weight.numpy() for weight in self.model.weights}


@pytest.fixture(scope="module")
def plain() -> Trainer:
    """A trainer to be used at rate 0, which leaves the weights alone."""
    return Trainer(make_config())


@pytest.fixture(scope="module")
def dropping() -> Trainer:
    """The same with dropout."""
    return Trainer(make_config(dropout=0.5))


def make_batch(seed: int = 0, *, weights: Any = None, fresh: Any = None) -> Batch:
    random = np.random.default_rng(seed)
    return Batch(
        word_ids=random.integers(3, V, (B, T)).astype(np.int32),
        targets=random.integers(3, V, (B, T)).astype(np.int32),
        weights=np.ones((B, T), np.float32) if weights is None else np.float32(weights),
        char_ids=random.integers(1, 200, (5, W)).astype(np.int32),
        char_index=random.integers(0, 5, (B, T)).astype(np.int32),
        fresh=np.zeros(B, np.bool_) if fresh is None else np.asarray(fresh),
        records=np.zeros((B, T), np.int32),
    )


def lanes_of(batch: Batch, lanes: slice) -> Batch:
    return Batch(
        word_ids=batch.word_ids[lanes],
        targets=batch.targets[lanes],
        weights=batch.weights[lanes],
        char_ids=batch.char_ids,
        char_index=batch.char_index[lanes],
        fresh=batch.fresh[lanes],
        records=batch.records[lanes],
    )


def mean_gradients(trainer: Trainer, batch: Batch) -> list[npt.NDArray[np.float64]]:
    """Returns the gradients of the mean loss per word, by a tape around `score_window`."""
    inputs = batch_inputs(batch)
    with tf.GradientTape() as tape:
        scores, _ = score_window(trainer.model, inputs, trainer.model.zero_state(B))
        loss = -tf.reduce_sum(scores) / tf.reduce_sum(inputs["weights"])
    return [
        tf.convert_to_tensor(one).numpy().astype(np.float64)
        for one in tape.gradient(loss, trainer.variables)
    ]


@pytest.mark.parametrize("clip_norm", [1e6, 0.01])
def test_a_step_is_adamw_on_the_clipped_mean_gradient(clip_norm: float) -> None:
    trainer = Trainer(make_config(clip_norm=clip_norm))
    batch = make_batch(weights=[[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])
    gradients = mean_gradients(trainer, batch)
    norm = float(np.sqrt(sum((gradient**2).sum() for gradient in gradients)))
    before = [variable.numpy().astype(np.float64) for variable in trainer.variables]
    result = trainer.train(batch, rate=0.1)
    assert float(result.words) == 9.0
    assert float(result.gradient_norm) == pytest.approx(norm, rel=1e-5)
    scale = min(1.0, clip_norm / norm)
    assert (scale < 1) == (clip_norm == 0.01)
    for start, gradient, variable in zip(before, gradients, trainer.variables, strict=True):
        clipped = scale * gradient
        update = clipped / (np.abs(clipped) + 1e-8 / np.sqrt(0.001))
        decay = 0.01 * start if start.ndim > 1 else 0.0
        # Of a tiny gradient little more than the sign counts: leave those out.
        clear = np.abs(gradient) > 1e-4
        expected = (start - 0.1 * (update + decay))[clear]
        np.testing.assert_allclose(variable.numpy()[clear], expected, atol=1e-4)


def test_training_without_dropout_scores_as_evaluation_does(plain: Trainer) -> None:
    batch = make_batch(weights=np.random.default_rng(0).integers(0, 2, (B, T)))
    trained = plain.train(batch)
    evaluated = plain.steps.evaluate(batch_inputs(batch), plain.model.zero_state(B))
    assert float(trained.loss) == pytest.approx(float(evaluated.loss), rel=1e-6)
    assert float(trained.words) == float(evaluated.words) == batch.weights.sum()
    np.testing.assert_allclose(trained.state, evaluated.state, atol=1e-6)
    assert float(evaluated.gradient_norm) == 0.0


def test_evaluation_changes_nothing_and_repeats_itself(dropping: Trainer) -> None:
    before = dropping.weights()
    state = dropping.model.zero_state(B)
    losses = {float(dropping.steps.evaluate(batch_inputs(make_batch()), state).loss) for _ in "abc"}
    assert len(losses) == 1
    assert all((value == before[name]).all() for name, value in dropping.weights().items())


def test_training_learns_a_batch() -> None:
    trainer = Trainer(make_config())
    batch = make_batch()
    losses = [float(trainer.train(batch, step=step, rate=0.03).loss) for step in range(80)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("char_cnn", ["trained", "frozen"])
def test_a_frozen_char_cnn_stays_as_it_was(char_cnn: str) -> None:
    trainer = Trainer(make_config(char_cnn=char_cnn))
    before = trainer.weights()
    for step in range(3):
        trainer.train(make_batch(step), step=step, rate=0.1)
    changed = {name for name, value in trainer.weights().items() if (value != before[name]).any()}
    of_cnn = {name for name in before if name.startswith("char_cnn/")}
    assert len(of_cnn) == 7
    assert changed - of_cnn == set(before) - of_cnn
    if char_cnn == "frozen":
        assert not changed & of_cnn
    else:  # units of the highway may be off throughout
        assert {"char_cnn/embedding/embeddings", "char_cnn/width_2/kernel"} <= changed
    slots = len(trainer.optimizer.first)
    assert slots == (len(before) if char_cnn == "trained" else len(before) - 7)


def test_dropout_depends_on_step_and_seed_only(plain: Trainer, dropping: Trainer) -> None:
    batch = make_batch()

    def losses(trainer: Trainer) -> list[float]:
        return [float(trainer.train(batch, step=step).loss) for step in (0, 1, 2, 0)]

    one, again = losses(dropping), losses(dropping)
    other = losses(Trainer(make_config(dropout=0.5, seed=2)))
    assert one == again
    assert one[0] == one[3]
    assert len({*one, *other}) == 6
    assert float(plain.train(batch).loss) not in one


def test_workers_add_up_to_the_global_batch(dropping: Trainer) -> None:
    # With dropout: the shares of the lanes have the masks that the whole has.
    batch = make_batch()
    whole = dropping.train(batch, step=7)
    results = [
        dropping.train(lanes_of(batch, slice(start, stop)), step=7, lane=start)
        for start, stop in ((0, 1), (1, 4))
    ]
    assert sum(float(one.loss) for one in results) == pytest.approx(float(whole.loss), rel=1e-6)
    assert sum(float(one.words) for one in results) == float(whole.words)
    state = np.concatenate([one.state.numpy() for one in results])
    np.testing.assert_allclose(state, whole.state, atol=1e-6)


def test_state_is_carried_in_training(plain: Trainer) -> None:
    inputs = batch_inputs(make_batch())
    arguments = {"step": tf.constant(0, tf.int32), "rate": tf.constant(0.0)}
    zero = plain.model.zero_state(B)
    first = plain.steps.train(inputs, zero, **arguments)
    second = plain.steps.train(inputs, first.state, **arguments)
    assert float(second.loss) != float(first.loss)
    assert second.state.shape == zero.shape == (B, 1, 2, 6)


def test_a_fresh_lane_forgets_its_state_at_evaluation(plain: Trainer) -> None:
    model = plain.model
    state = tf.constant(np.random.default_rng(0).normal(size=(B, 1, 2, 6)), tf.float32)
    fresh = [True, False, True, False]
    scores, after = score_window(model, batch_inputs(make_batch(fresh=fresh)), state)
    from_zero = score_window(model, batch_inputs(make_batch()), model.zero_state(B))
    carried = score_window(model, batch_inputs(make_batch()), state)
    for lane in range(B):
        expected = from_zero if fresh[lane] else carried
        np.testing.assert_allclose(scores[lane], expected[0][lane], atol=1e-6)
        np.testing.assert_allclose(after[lane], expected[1][lane], atol=1e-6)
    assert not np.allclose(from_zero[0], carried[0], atol=1e-4)


def test_padding_has_no_score(plain: Trainer) -> None:
    model = plain.model
    weights = np.asarray([[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
    scores, _ = score_window(model, batch_inputs(make_batch(weights=weights)), model.zero_state(B))
    assert ((scores.numpy() == 0) == (weights == 0)).all()
