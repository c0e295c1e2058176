from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from model.config import ModelConfig
from model.network import losses
from model.network.joint_model import JointModel
from model.network.losses import LossSums, log_normalizer, softmax_loss, word_log_likelihoods

Floats = npt.NDArray[np.float64]

B, T, V, D = 2, 3, 9, 4


@pytest.fixture(scope="module")
def model() -> JointModel:
    config = ModelConfig(inputs="words", word_dim=D, lstm_dim=D, lstm_layers=1)
    model = JointModel(config, vocab_counts=range(V))
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape))
    return model


@pytest.fixture
def hidden() -> tf.Tensor:
    return tf.constant(np.random.default_rng(1).normal(size=(B, T, D)), tf.float32)


TARGETS = tf.constant([[0, 8, 3], [3, 3, 1]])


def softmax_scores(model: JointModel, hidden: tf.Tensor) -> Floats:
    """Returns `[B, T]` log-likelihoods of TARGETS, in double precision."""
    assert model.word_embedding is not None
    kernel = model.word_embedding.embeddings.numpy().astype(np.float64)
    logits = hidden.numpy().astype(np.float64) @ kernel.T + model.output_bias.numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return np.take_along_axis(np.log(probabilities), TARGETS.numpy()[..., None], -1)[..., 0]


def full_loss(
    model: JointModel, hidden: tf.Tensor, *, targets: tf.Tensor, weights: tf.Tensor
) -> LossSums:
    return softmax_loss(
        hidden,
        kernel=tf.convert_to_tensor(model.softmax_kernel),
        bias=tf.convert_to_tensor(model.output_bias),
        targets=targets,
        weights=weights,
    )


def test_scores_are_a_softmax(model: JointModel, hidden: tf.Tensor) -> None:
    scores = word_log_likelihoods(model, hidden, TARGETS)
    assert scores.shape == (B, T)
    np.testing.assert_allclose(scores, softmax_scores(model, hidden), atol=1e-5)


def test_probabilities_of_all_words_add_up_to_one(model: JointModel, hidden: tf.Tensor) -> None:
    total = sum(
        np.exp(word_log_likelihoods(model, hidden, tf.fill([B, T], word)).numpy())
        for word in range(V)
    )
    np.testing.assert_allclose(total, np.ones([B, T]), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 4, 8, 9, 100])
def test_scores_are_the_same_by_slices_of_the_vocabulary(
    model: JointModel, hidden: tf.Tensor, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "VOCAB_SLICE", size)
    scores = word_log_likelihoods(model, hidden, TARGETS)
    np.testing.assert_allclose(scores, softmax_scores(model, hidden), atol=1e-5)
    flat = tf.reshape(hidden, [-1, D])
    for normalizer in (log_normalizer, tf.function(log_normalizer)):
        expected = tf.reduce_logsumexp(model.logits(flat), axis=-1)
        np.testing.assert_allclose(normalizer(model, flat), expected, rtol=1e-5)


def test_loss_is_a_sum_over_what_has_weight(model: JointModel, hidden: tf.Tensor) -> None:
    weights = np.asarray([[1, 1, 0], [0, 1, 0]], np.float32)
    sums = full_loss(model, hidden, targets=TARGETS, weights=tf.constant(weights))
    expected = -(softmax_scores(model, hidden) * weights).sum()
    assert float(sums.loss) == pytest.approx(expected, rel=1e-5)
    assert float(sums.words) == 3.0


def test_padding_counts_nothing(model: JointModel, hidden: tf.Tensor) -> None:
    weights = tf.constant([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    other = tf.where(weights[..., tf.newaxis] > 0, hidden, 1e3)
    targets = tf.where(weights > 0, TARGETS, 0)
    one = full_loss(model, hidden, targets=TARGETS, weights=weights)
    two = full_loss(model, other, targets=targets, weights=weights)
    assert float(one.loss) == float(two.loss)
    nothing = full_loss(model, hidden, targets=TARGETS, weights=tf.zeros([B, T]))
    assert (float(nothing.loss), float(nothing.words)) == (0.0, 0.0)


def test_sums_of_lanes_add_up(model: JointModel, hidden: tf.Tensor) -> None:
    whole = full_loss(model, hidden, targets=TARGETS, weights=tf.ones([B, T]))
    parts = [
        full_loss(model, hidden[i : i + 1], targets=TARGETS[i : i + 1], weights=tf.ones([1, T]))
        for i in range(B)
    ]
    assert sum(float(part.loss) for part in parts) == pytest.approx(float(whole.loss), rel=1e-6)
    assert sum(float(part.words) for part in parts) == float(whole.words) == B * T


def test_extreme_logits_stay_finite(model: JointModel) -> None:
    scores = word_log_likelihoods(model, tf.fill([B, T, D], 1e6), TARGETS).numpy()
    assert np.isfinite(scores).all()
    assert (scores <= 0).all()


N, X, R, S = 7, 5, 12, 8
"""Targets, hidden size, rows of a step and candidates among them."""


class Case:
    """A training loss with everything random, and what it should be."""

    def __init__(self, *, lanes: int = N, steps: int = 3, rows: int = R, seed: int = 0):
        random = np.random.default_rng(seed)
        self.hidden = tf.constant(random.normal(size=(lanes, steps, X)), tf.float32)
        self.kernel = tf.constant(random.normal(size=(rows, X)), tf.float32)
        self.bias = tf.constant(random.normal(size=rows), tf.float32)
        self.targets = tf.constant(random.integers(0, rows, (lanes, steps)), tf.int32)
        weights = random.integers(0, 2, (lanes, steps)) * random.uniform(0.5, 2, (lanes, steps))
        self.weights = tf.constant(weights, tf.float32)

    @property
    def sources(self) -> list[tf.Tensor]:
        return [self.hidden, self.kernel, self.bias]

    def ours(self, **options: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the loss and the gradients of `sources`."""
        with tf.GradientTape() as tape:
            tape.watch(self.sources)
            sums = softmax_loss(
                self.hidden,
                kernel=self.kernel,
                bias=self.bias,
                targets=self.targets,
                weights=self.weights,
                **options,
            )
            loss = 3.0 * sums.loss  # that what comes from above is heeded
        return sums.loss, [tf.convert_to_tensor(g) / 3.0 for g in tape.gradient(loss, self.sources)]

    def textbook(self, candidates: int | None) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Each target's softmax over the candidates and itself, once; by TensorFlow's gradients."""
        count = self.kernel.shape[0] if candidates is None else candidates
        with tf.GradientTape() as tape:
            tape.watch(self.sources)
            logits = tf.einsum("btx,rx->btr", self.hidden, self.kernel) + self.bias
            is_target = tf.one_hot(
                self.targets, self.kernel.shape[0], on_value=True, off_value=False
            )
            held = is_target | (tf.range(self.kernel.shape[0]) < count)
            scores = tf.nn.log_softmax(tf.where(held, logits, -1e30))
            loss = -tf.reduce_sum(self.weights * tf.gather(scores, self.targets, batch_dims=2))
        return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, self.sources)]


def assert_equal(one: Any, other: Any, *, rtol: float = 1e-5, atol: float = 2e-5) -> None:
    for first, second in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_allclose(first, second, rtol=rtol, atol=atol)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("candidates", [None, S, 1, R])
@pytest.mark.parametrize("block", [1 << 22, 16 * R, 1])  # one block, and several
def test_training_loss_and_gradients_are_the_textbooks(
    candidates: int | None, block: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "BLOCK_LOGITS", block)
    case = Case(lanes=13)  # 39 targets: blocks of 16 do not come out even
    ours = tf.function(case.ours) if compiled else case.ours
    got = ours(candidates=candidates)
    expected = case.textbook(candidates)
    assert_equal(got, expected)
    if candidates == S:
        inside = case.targets.numpy() < S
        assert inside.any()
        assert not inside.all()
        assert abs(float(expected[0]) - float(case.textbook(None)[0])) > 0.1


def test_a_number_of_rows_that_is_open_leaves_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a training step, whose graph is for any number of rows."""
    monkeypatch.setattr(losses, "BLOCK_LOGITS", 16 * S)
    case = Case(lanes=13)

    @tf.function(
        input_signature=[tf.TensorSpec([None, X], tf.float32), tf.TensorSpec([None], tf.float32)]
    )
    def loss(kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        sums = softmax_loss(
            case.hidden,
            kernel=kernel,
            bias=bias,
            targets=case.targets,
            weights=case.weights,
            candidates=S,
        )
        return sums.loss

    kinds = {one.type for one in loss.get_concrete_function().graph.get_operations()}
    assert kinds & {"While", "StatelessWhile"}
    assert_equal(loss(case.kernel, case.bias), case.textbook(S)[0])


def test_all_words_as_candidates_are_the_full_softmax() -> None:
    case = Case()
    assert_equal(case.ours(candidates=R), case.ours())


@pytest.mark.parametrize("target", [2, S + 1])
def test_a_target_counts_once_among_its_candidates(target: int) -> None:
    # By hand: no word has a logit but its bias, less the log of how often it is expected.
    case = Case(lanes=1, steps=1)
    case.hidden, case.weights = tf.zeros_like(case.hidden), tf.ones([1, 1])
    case.targets = tf.constant([[target]])
    log_expected = np.log(np.linspace(0.1, 0.9, R))
    shares = np.exp(np.arange(R) / 10.0 - log_expected)
    case.bias = tf.constant(np.log(shares), tf.float32)
    against = shares[:S].sum() + (shares[target] if target >= S else 0.0)
    loss, (_, _, d_bias) = case.ours(candidates=S)
    assert float(loss) == pytest.approx(-np.log(shares[target] / against), rel=1e-5)
    expected = np.where(np.arange(R) < S, shares / against, 0.0)
    expected[target] = shares[target] / against - 1.0
    np.testing.assert_allclose(d_bias, expected, atol=1e-6)


def test_the_sampled_loss_estimates_the_full_one() -> None:
    # Words drawn with unequal chances, and corrected by them, have the mean gradient of the
    # full softmax, nearly; without the correction they are far from it.
    rows, random = 300, np.random.default_rng(1)
    case = Case(lanes=4, rows=rows)
    case.kernel *= 0.3
    kernel, bias, targets = case.kernel, case.bias, case.targets
    chance = random.permutation(np.linspace(0.9, 0.05, rows))
    bias -= np.log(chance).astype(np.float32)  # the likelier, the fewer are drawn
    case.bias = bias
    full = case.ours()[1][0]
    sums = {True: tf.zeros_like(full), False: tf.zeros_like(full)}
    for _ in range(60):
        there = random.random(rows) < chance
        order = np.argsort(~there, kind="stable")
        case.kernel = tf.gather(kernel, order)
        case.targets = tf.gather(tf.constant(np.argsort(order), tf.int32), targets)
        for corrected in sums:
            taken = bias - np.log(chance).astype(np.float32) if corrected else bias
            case.bias = tf.gather(taken, order)
            sums[corrected] += case.ours(candidates=int(there.sum()))[1][0] / 60.0
    away = {name: float(tf.norm(total - full) / tf.norm(full)) for name, total in sums.items()}
    assert away[True] < 0.1, away
    assert away[False] > 3 * away[True], away


@pytest.mark.parametrize("candidates", [None, S])
def test_bfloat16_is_close(candidates: int | None) -> None:
    case = Case()
    exact, rounded = (
        case.ours(candidates=candidates),
        case.ours(candidates=candidates, precision="bfloat16"),
    )
    assert float(rounded[0]) == pytest.approx(float(exact[0]), rel=0.02)
    for one, other in zip(rounded[1], exact[1], strict=True):
        assert one.dtype == tf.float32
        assert float(tf.norm(one - other) / tf.norm(other)) < 0.03
    assert float(rounded[0]) != float(exact[0])


@pytest.mark.parametrize("candidates", [None, S])
def test_extreme_logits_have_finite_losses_and_gradients(candidates: int | None) -> None:
    case = Case()
    case.hidden *= 1e5
    loss, gradients = case.ours(candidates=candidates)
    assert np.isfinite(float(loss))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert float(loss) > 1e4
