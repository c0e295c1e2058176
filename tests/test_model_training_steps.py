from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from model.config import Config, ModelConfig, TrainConfig
from model.data.batches import Batch
from model.data.target_sampling import TargetSampler
from model.network.forward import batch_inputs, score_window
from model.network.joint_model import JointModel
from model.training.optimizer import AdamW
from model.training.steps import StepResult, Steps

B, T, W, V, U, S = 4, 3, 6, 12, 5, 4
COUNTS = [3, 1, 0, 20, 9, 8, 7, 6, 5, 4, 3, 2]
STRATEGY = tf.distribute.OneDeviceStrategy("/cpu:0")
Named = dict[str, npt.NDArray[np.float32]]


def make_config(
    *,
    dropout: float = 0.0,
    char_cnn: str = "trained",
    inputs: str = "joint",
    tied: bool = True,
    projection: int = 0,
    clip_norm: float = 1.0,
    seed: int = 1,
    softmax: str = "full",
    precision: str = "float32",
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
            lstm_projection=projection,
            input_dropout=dropout,
            hidden_dropout=dropout,
            output_dropout=dropout,
            recurrent_dropout=dropout,
            char_cnn=char_cnn,
            inputs=inputs,
            tied=tied,
        ),
        train=TrainConfig(
            lanes=B,
            window=T,
            clip_norm=clip_norm,
            seed=seed,
            softmax=softmax,
            sampled_words=S,
            precision=precision,
        ),
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
    words = random.permutation(V)[:U].astype(np.int32)
    index = random.integers(0, U, (B, T)).astype(np.int32)
    return Batch(
        word_ids=words[index],
        targets=random.integers(3, V, (B, T)).astype(np.int32),
        weights=np.ones((B, T), np.float32) if weights is None else np.float32(weights),
        words=words,
        char_ids=random.integers(1, 200, (U, W)).astype(np.int32),
        index=index,
        fresh=np.zeros(B, np.bool_) if fresh is None else np.asarray(fresh),
        records=np.zeros((B, T), np.int32),
    )


def lanes_of(batch: Batch, lanes: slice) -> Batch:
    rows = batch.rows
    if rows is not None:
        rows = dataclasses.replace(rows, of_targets=rows.of_targets[lanes])
    return dataclasses.replace(
        batch,
        word_ids=batch.word_ids[lanes],
        targets=batch.targets[lanes],
        weights=batch.weights[lanes],
        index=batch.index[lanes],
        fresh=batch.fresh[lanes],
        records=batch.records[lanes],
        rows=rows,
    )


def with_rows(batch: Batch, config: Config, *, step: int = 0) -> Batch:
    """Returns the batch with what the sampled softmax draws at a step."""
    used = np.concatenate([batch.words, batch.targets.ravel()])
    sampler = TargetSampler(config.train, COUNTS)
    rows = sampler.rows(step=step, used=used, words=batch.words, targets=batch.targets)
    return dataclasses.replace(batch, rows=rows)


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
    share = Trainer(make_config(dropout=0.5))  # a step has one number of lanes
    results = [
        share.train(lanes_of(batch, slice(start, start + 2)), step=7, lane=start)
        for start in (0, 2)
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


def naive_gradients(trainer: Trainer, batch: Batch) -> tuple[float, list[npt.NDArray[np.float64]]]:
    """Returns loss and gradient of the sampled softmax's mean, by a tape over the whole tables.

    Written from the paper: the logits of all V words, less the log of how often each is
    expected, and what is neither a negative nor the target put out of question.
    """
    rows, model, inputs = batch.rows, trainer.model, batch_inputs(batch)
    assert rows is not None
    drawn = np.zeros(V, np.bool_)
    drawn[rows.ids[:S]] = True
    log_expected = np.zeros(V, np.float32)
    log_expected[rows.ids] = rows.log_expected
    with tf.GradientTape() as tape:
        encoded = model.encode(
            inputs["words"],
            char_ids=inputs["char_ids"],
            index=inputs["index"],
            state=model.zero_state(B),
        )
        logits = tf.einsum("btx,vx->btv", encoded.hidden, model.softmax_kernel)
        logits += model.output_bias - log_expected
        held = drawn | (np.arange(V) == batch.targets[..., np.newaxis])
        scores = tf.nn.log_softmax(tf.where(held, logits, -1e30))
        scores = tf.gather(scores, batch.targets, batch_dims=2) * batch.weights
        loss = -tf.reduce_sum(scores) / batch.weights.sum()
    return float(loss) * float(batch.weights.sum()), [
        tf.convert_to_tensor(one).numpy().astype(np.float64)
        for one in tape.gradient(loss, trainer.variables, unconnected_gradients="zero")
    ]


VARIANTS: list[dict[str, Any]] = [
    {},
    {"tied": False},
    {"projection": 5},
    {"projection": 4, "tied": False},
    {"inputs": "words"},
    {"inputs": "characters", "tied": False},
    {"char_cnn": "frozen"},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sampled_step_has_the_gradient_over_whole_tables(variant: dict[str, Any]) -> None:
    config = make_config(softmax="sampled", clip_norm=1e6, **variant)
    trainer = Trainer(config)
    random = np.random.default_rng(5)
    for weight in trainer.model.weights:
        weight.assign(random.normal(0, 0.5, weight.shape))
    batch = make_batch(weights=[[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])
    batch = with_rows(batch, config)
    loss, gradients = naive_gradients(trainer, batch)
    before = [variable.numpy() for variable in trainer.variables]
    result = trainer.train(batch, rate=1e-3)
    assert float(result.loss) == pytest.approx(loss, rel=1e-5)
    norm = float(np.sqrt(sum((gradient**2).sum() for gradient in gradients)))
    assert float(result.gradient_norm) == pytest.approx(norm, rel=1e-5)
    # After one step Adam's first slot is a tenth of the gradient.
    for slot, gradient in zip(trainer.optimizer.first, gradients, strict=True):
        np.testing.assert_allclose(slot.numpy() / 0.1, gradient, rtol=1e-4, atol=1e-6)
    # Rows that the step has nothing to do with are left alone, decay included.
    assert batch.rows is not None
    tables = {id(table) for _, table in trainer.model.tables()}
    rest = np.setdiff1d(np.arange(V), batch.rows.ids)
    assert rest.size
    for variable, start in zip(trainer.variables, before, strict=True):
        if id(variable) in tables:
            changed = variable.numpy() != start
            assert not changed[rest].any()
            assert changed[batch.rows.ids[:S]].any()


def test_a_sampled_step_by_lanes_adds_up() -> None:
    config = make_config(softmax="sampled", dropout=0.5)
    trainer = Trainer(config)
    batch = with_rows(make_batch(), config)
    whole = trainer.train(batch, step=7)
    share = Trainer(config)
    results = [
        share.train(lanes_of(batch, slice(start, start + 2)), step=7, lane=start)
        for start in (0, 2)
    ]
    assert sum(float(one.loss) for one in results) == pytest.approx(float(whole.loss), rel=1e-6)


def test_sampled_training_learns_a_batch() -> None:
    config = make_config(softmax="sampled")
    trainer, batch = Trainer(config), make_batch()

    def full_loss() -> float:
        return float(trainer.steps.evaluate(batch_inputs(batch), trainer.model.zero_state(B)).loss)

    first = full_loss()
    for step in range(80):
        trainer.train(with_rows(batch, config, step=step), step=step, rate=0.03)
    assert full_loss() < 0.6 * first


@pytest.mark.parametrize("softmax", ["full", "sampled"])
def test_bfloat16_is_close_to_float32(softmax: str) -> None:
    results, slots = [], []
    for precision in ("float32", "bfloat16"):
        config = make_config(softmax=softmax, precision=precision, clip_norm=1e6)
        trainer = Trainer(config)
        batch = with_rows(make_batch(), config) if softmax == "sampled" else make_batch()
        results.append(trainer.train(batch))
        slots.append(np.concatenate([one.numpy().ravel() for one in trainer.optimizer.first]))
        assert all(variable.dtype == tf.float32 for variable in trainer.variables)
    exact, rounded = results
    assert float(rounded.loss) == pytest.approx(float(exact.loss), rel=0.01)
    assert (slots[1] != slots[0]).any()  # a loss may come out the same on some CPUs
    assert float(rounded.gradient_norm) == pytest.approx(float(exact.gradient_norm), rel=0.02)
    assert np.linalg.norm(slots[1] - slots[0]) < 0.02 * np.linalg.norm(slots[0])
    np.testing.assert_allclose(rounded.state, exact.state, atol=0.01)
    # Evaluation is not rounded: the rate was 0, so both trainers have the same weights.
    assert exact.state.dtype == rounded.state.dtype == tf.float32
