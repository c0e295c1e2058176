from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from model.config import ModelConfig
from model.layers import CharCNN, Highway, LaneDropout
from model.vocab import NUM_CHARS

Floats = npt.NDArray[np.float64]

CONFIG = ModelConfig(
    char_dim=3,
    max_word_bytes=7,
    filter_widths=(1, 2, 7),
    filter_counts=(4, 3, 2),
    highway_layers=2,
)


def sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def randomise(layer: tf.keras.layers.Layer, seed: int) -> dict[str, Floats]:
    """Sets all weights, biases too, to random values; returns them by path."""
    random = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(random.normal(0, 0.7, weight.shape))
    return {weight.path: weight.numpy().astype(np.float64) for weight in layer.weights}


def highway(x: Floats, weights: dict[str, Floats], path: str) -> Floats:
    def dense(name: str) -> Floats:
        return x @ weights[f"{path}/{name}/kernel"] + weights[f"{path}/{name}/bias"]

    gate = sigmoid(dense("gate"))
    return gate * np.maximum(dense("transform"), 0) + (1 - gate) * x


def test_highway_is_that_of_the_paper() -> None:
    layer = Highway(5, name="one")
    x = np.random.default_rng(0).normal(size=(6, 5))
    layer(tf.constant(x, tf.float32))
    weights = randomise(layer, 1)
    got = layer(tf.constant(x, tf.float32))
    np.testing.assert_allclose(got, highway(x, weights, "one"), atol=1e-5)


def test_highway_begins_by_carrying() -> None:
    layer = Highway(4)
    layer(tf.zeros([1, 4]))
    assert layer.gate.bias.numpy().tolist() == [-2.0] * 4


def test_char_cnn_is_that_of_the_paper() -> None:
    layer = CharCNN(CONFIG, name="cnn")
    char_ids = np.random.default_rng(0).integers(0, NUM_CHARS, (5, 7))
    layer(tf.constant(char_ids, tf.int32))
    weights = randomise(layer, 2)
    pooled = []
    for width in CONFIG.filter_widths:
        kernel, bias = weights[f"cnn/width_{width}/kernel"], weights[f"cnn/width_{width}/bias"]
        embedded = weights["cnn/embedding/embeddings"][char_ids]
        places = [
            np.tanh(np.einsum("uwc,wcf->uf", embedded[:, at : at + width], kernel) + bias)
            for at in range(7 - width + 1)
        ]
        pooled.append(np.max(places, axis=0))
    x = np.concatenate(pooled, axis=1)
    for index in range(2):
        x = highway(x, weights, f"cnn/highway_{index}")
    got = layer(tf.constant(char_ids, tf.int32))
    assert got.shape == (5, 9)
    np.testing.assert_allclose(got, x, atol=1e-5)


def test_char_cnn_without_highway() -> None:
    layer = CharCNN(ModelConfig(highway_layers=0, filter_widths=(2,), filter_counts=(3,)))
    assert layer(tf.zeros([4, 24], tf.int32)).shape == (4, 3)
    assert len(layer.weights) == 3  # embedding, one kernel, one bias


def drop(
    x: tf.Tensor,
    *,
    rate: float = 0.3,
    seed: tuple[int, int] = (1, 0),
    lanes: int = 8,
    first_lane: int = 0,
    place: int = 0,
) -> Floats:
    dropout = LaneDropout(
        rate, seed=tf.constant(seed), lanes=lanes, first_lane=tf.constant(first_lane)
    )
    return np.asarray(dropout(x, place=place))


def test_dropout_drops_its_rate_and_scales_the_rest() -> None:
    dropped = drop(tf.ones([64, 1, 500]), rate=0.3, lanes=64)
    assert set(np.unique(dropped).tolist()) == {0.0, float(np.float32(1) / np.float32(0.7))}
    assert np.mean(dropped == 0) == pytest.approx(0.3, abs=0.01)  # 4 standard deviations
    assert dropped.mean() == pytest.approx(1.0, abs=0.015)


def test_dropout_keeps_values() -> None:
    x = np.random.default_rng(0).normal(size=(8, 3, 40)).astype(np.float32)
    mask = drop(tf.ones([8, 3, 40]))
    np.testing.assert_allclose(drop(tf.constant(x)), x * mask, rtol=1e-6)


def test_dropout_has_one_mask_a_window() -> None:
    dropped = drop(tf.ones([8, 5, 40]))
    assert (dropped == dropped[:, :1]).all()
    assert (dropped[0] != dropped[1]).any()


@pytest.mark.parametrize("parts", [[4, 4], [1] * 8, [3, 5]])
def test_dropout_does_not_depend_on_who_owns_the_lanes(parts: list[int]) -> None:
    whole = drop(tf.ones([8, 2, 30]))
    starts = np.cumsum([0, *parts[:-1]])
    shares = [
        drop(tf.ones([part, 2, 30]), first_lane=int(start))
        for part, start in zip(parts, starts, strict=True)
    ]
    assert (np.concatenate(shares) == whole).all()


def test_dropout_masks_differ_by_step_place_and_seed() -> None:
    x = tf.ones([8, 1, 64])
    masks = [
        drop(x),
        drop(x, place=1),
        drop(x, place=2),
        drop(x, seed=(1, 3)),
        drop(x, seed=(2, 0)),
    ]
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    assert (drop(x, place=1) == masks[1]).all()


def test_dropout_of_nothing() -> None:
    x = tf.ones([8, 2, 4])
    assert (drop(x, rate=0.0) == 1.0).all()
