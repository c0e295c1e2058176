from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from model.config import ModelConfig
from model.losses import full_softmax, word_log_likelihoods
from model.network import JointModel

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


def softmax_scores(model: JointModel, hidden: tf.Tensor) -> np.ndarray:
    """Returns `[B, T]` log-likelihoods of TARGETS, in double precision."""
    assert model.word_embedding is not None
    kernel = model.word_embedding.embeddings.numpy().astype(np.float64)
    logits = hidden.numpy().astype(np.float64) @ kernel.T + model.output_bias.numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return np.take_along_axis(np.log(probabilities), TARGETS.numpy()[..., None], -1)[..., 0]


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


def test_loss_is_a_sum_over_what_has_weight(model: JointModel, hidden: tf.Tensor) -> None:
    weights = np.asarray([[1, 1, 0], [0, 1, 0]], np.float32)
    sums = full_softmax(model, hidden, targets=TARGETS, weights=tf.constant(weights))
    expected = -(softmax_scores(model, hidden) * weights).sum()
    assert float(sums.loss) == pytest.approx(expected, rel=1e-5)
    assert float(sums.words) == 3.0


def test_padding_counts_nothing(model: JointModel, hidden: tf.Tensor) -> None:
    weights = tf.constant([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    other = tf.where(weights[..., tf.newaxis] > 0, hidden, 1e3)
    targets = tf.where(weights > 0, TARGETS, 0)
    one = full_softmax(model, hidden, targets=TARGETS, weights=weights)
    two = full_softmax(model, other, targets=targets, weights=weights)
    assert float(one.loss) == float(two.loss)
    nothing = full_softmax(model, hidden, targets=TARGETS, weights=tf.zeros([B, T]))
    assert (float(nothing.loss), float(nothing.words)) == (0.0, 0.0)


def test_sums_of_lanes_add_up(model: JointModel, hidden: tf.Tensor) -> None:
    whole = full_softmax(model, hidden, targets=TARGETS, weights=tf.ones([B, T]))
    parts = [
        full_softmax(model, hidden[i : i + 1], targets=TARGETS[i : i + 1], weights=tf.ones([1, T]))
        for i in range(B)
    ]
    assert sum(float(part.loss) for part in parts) == pytest.approx(float(whole.loss), rel=1e-6)
    assert sum(float(part.words) for part in parts) == float(whole.words) == B * T


def test_extreme_logits_stay_finite(model: JointModel) -> None:
    scores = word_log_likelihoods(model, tf.fill([B, T, D], 1e6), TARGETS).numpy()
    assert np.isfinite(scores).all()
    assert (scores <= 0).all()
