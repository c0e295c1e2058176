from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from model.config import ModelConfig
from model.network.layers import SHORT_BYTES, CharCNN, Dropout, Highway, _largest
from model.text.spelling import CHAR_END, NUM_CHARS

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


def words_of(lengths: Sequence[int], width: int, *, seed: int = 0) -> npt.NDArray[np.int32]:
    """Returns random spellings `[U, W]` of the given lengths, padded with zeros."""
    random = np.random.default_rng(seed)
    char_ids = random.integers(CHAR_END + 1, NUM_CHARS, (len(lengths), width))
    return np.where(np.arange(width) < np.asarray(lengths)[:, None], char_ids, 0).astype(np.int32)


def make_cnn(config: ModelConfig, seed: int = 2) -> CharCNN:
    layer = CharCNN(config, name="cnn")
    layer.build((None, config.max_word_bytes))
    randomise(layer, seed)
    return layer


def test_char_cnn_is_that_of_the_paper() -> None:
    layer = CharCNN(CONFIG, name="cnn")
    char_ids = words_of([7, 6, 3, 2, 7], 7)
    layer(tf.constant(char_ids))
    weights = randomise(layer, 2)
    # Padding is zeros, and more of it follows.
    embedded = weights["cnn/embedding/embeddings"][char_ids] * (char_ids > 0)[..., np.newaxis]
    embedded = np.pad(embedded, ((0, 0), (0, 20), (0, 0)))
    pooled = []
    for width in CONFIG.filter_widths:
        kernel, bias = weights[f"cnn/width_{width}/kernel"], weights[f"cnn/width_{width}/bias"]
        places = [
            np.tanh(np.einsum("uwc,wcf->uf", embedded[:, at : at + width], kernel) + bias)
            for at in range(20)
        ]
        pooled.append(np.max(places, axis=0))
    x = np.concatenate(pooled, axis=1)
    for index in range(2):
        x = highway(x, weights, f"cnn/highway_{index}")
    got = layer(tf.constant(char_ids))
    assert got.shape == (5, 9)
    np.testing.assert_allclose(got, x, atol=1e-5)


def test_char_cnn_without_highway() -> None:
    layer = CharCNN(ModelConfig(highway_layers=0, filter_widths=(2,), filter_counts=(3,)))
    assert layer(tf.zeros([4, 24], tf.int32)).shape == (4, 3)
    assert len(layer.weights) == 3  # embedding, one kernel, one bias


@pytest.mark.parametrize("split", [False, True])
def test_a_words_vector_does_not_depend_on_w(split: bool) -> None:
    lengths = [3, 7, 5, 2]
    layer = make_cnn(CONFIG)
    narrow = layer(tf.constant(words_of(lengths, 7)))
    for width in (8, SHORT_BYTES, SHORT_BYTES + 1, 30):
        char_ids = np.pad(words_of(lengths, 7), ((0, 0), (0, width - 7)))
        wide = layer(tf.constant(char_ids), split=split)
        np.testing.assert_allclose(wide, narrow, atol=1e-6)
    # And the seventh byte matters.
    other = words_of(lengths, 7)
    other[1, 6] = CHAR_END
    assert not np.allclose(layer(tf.constant(other))[1], narrow[1], atol=1e-3)


@pytest.mark.parametrize(
    "lengths",
    [
        [3, 14, SHORT_BYTES, SHORT_BYTES + 1, 2, 14],
        [2, SHORT_BYTES, 4],
        [14, SHORT_BYTES + 1, 12],
    ],
)
def test_short_and_long_words_apart_are_as_together(lengths: list[int]) -> None:
    layer = make_cnn(dataclasses.replace(CONFIG, max_word_bytes=14))
    char_ids = tf.constant(words_of(lengths, 14))
    weight = tf.random.stateless_normal([len(lengths), 9], [1, 2])
    found, gradients = [], []
    for split in (False, True):
        with tf.GradientTape() as tape:
            vectors = layer(char_ids, split=split)
            loss = tf.reduce_sum(vectors * weight)
        found.append(vectors.numpy())
        gradients.append([tf.convert_to_tensor(g) for g in tape.gradient(loss, layer.weights)])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_padding_gives_the_byte_embedding_no_gradient() -> None:
    layer = make_cnn(CONFIG)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant(words_of([2, 7], 7))))
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.embedding.embeddings.value)).numpy()
    assert not gradient[0].any()
    assert gradient.any()


def test_char_cnn_in_bfloat16_is_close() -> None:
    layer, char_ids = make_cnn(CONFIG), tf.constant(words_of([3, 7, 5, 2], 7))
    exact, rounded = layer(char_ids), layer(char_ids, precision="bfloat16")
    assert rounded.dtype == tf.float32
    np.testing.assert_allclose(rounded, exact, atol=0.1)
    assert (rounded.numpy() != exact.numpy()).any()


def test_equals_share_the_gradient_of_the_largest() -> None:
    random = np.random.default_rng(0)
    found = tf.constant(random.integers(0, 4, (6, 9, 5)), tf.float32)  # many equals
    weight = tf.constant(random.normal(size=(6, 5)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(found)
        ours, theirs = _largest(found), tf.reduce_max(found, axis=1)
        losses = [tf.reduce_sum(one * weight) for one in (ours, theirs)]
    np.testing.assert_array_equal(ours, theirs)
    one, other = (tape.gradient(loss, found).numpy() for loss in losses)
    assert ((one != 0).sum(axis=1) > 1).any()
    np.testing.assert_allclose(one, other, rtol=1e-6)


LANES, LAYERS = 8, 2


def make_dropout(
    *, seed: tuple[int, int] = (1, 0), first_lane: int = 0, lanes: int = LANES, **config: Any
) -> Dropout:
    rates = dict.fromkeys(("input_dropout", "hidden_dropout", "output_dropout"), 0.3)
    return Dropout(
        ModelConfig(lstm_layers=LAYERS, **{**rates, "recurrent_dropout": 0.3, **config}),
        seed=tf.constant(seed),
        lanes=lanes,
        first_lane=tf.constant(first_lane),
    )


def masks(dropout: Dropout, *, lanes: int = LANES) -> dict[str, Floats]:
    """Returns what is left of ones at every place."""
    ones = tf.ones([lanes, 5, 40])
    found = {"words": dropout.words(tf.ones([LANES, 40]), tf.range(LANES))}
    for layer in range(LAYERS):
        found[f"lanes {layer}"] = dropout.lanes(ones, layer=layer)
        found[f"weights {layer}"] = dropout.weights(tf.ones([LANES, 40]), layer=layer)
    return {name: np.asarray(mask) for name, mask in found.items()}


def test_dropout_drops_its_rate_and_scales_the_rest() -> None:
    dropout = make_dropout(lanes=64)
    for dropped in (
        dropout.words(tf.ones([64, 500]), tf.range(64)),
        dropout.lanes(tf.ones([64, 1, 500]), layer=0),
        dropout.lanes(tf.ones([64, 1, 500]), layer=1),
        dropout.weights(tf.ones([64, 500]), layer=0),
    ):
        values = np.asarray(dropped)
        assert set(np.unique(values).tolist()) == {0.0, float(np.float32(1) / np.float32(0.7))}
        assert np.mean(values == 0) == pytest.approx(0.3, abs=0.01)  # 4 standard deviations
        assert values.mean() == pytest.approx(1.0, abs=0.015)


@pytest.mark.parametrize(
    ("field", "places"),
    [
        ("input_dropout", {"words"}),
        ("hidden_dropout", {"lanes 0"}),
        ("output_dropout", {"lanes 1"}),
        ("recurrent_dropout", {"weights 0", "weights 1"}),
    ],
)
def test_each_rate_has_its_places(field: str, places: set[str]) -> None:
    rates = ("input_dropout", "hidden_dropout", "output_dropout", "recurrent_dropout")
    found = masks(make_dropout(**{**dict.fromkeys(rates, 0.0), field: 0.5}))
    assert {name for name, mask in found.items() if (mask != 1.0).any()} == places
    assert all(set(np.unique(found[name]).tolist()) == {0.0, 2.0} for name in places)


def test_dropout_keeps_values() -> None:
    dropout, random = make_dropout(), np.random.default_rng(0)
    found = masks(dropout)
    x = random.normal(size=(LANES, 5, 40)).astype(np.float32)
    np.testing.assert_allclose(
        dropout.lanes(tf.constant(x), layer=0), x * found["lanes 0"], rtol=1e-6
    )
    words = tf.constant(x[:, 0])
    np.testing.assert_allclose(
        dropout.words(words, tf.range(LANES)), words * found["words"], rtol=1e-6
    )
    np.testing.assert_allclose(
        dropout.weights(words, layer=1), words * found["weights 1"], rtol=1e-6
    )


def test_masks_of_a_window_and_of_each_word() -> None:
    window, word = masks(make_dropout()), masks(make_dropout(dropout_mask="word"))
    for name in ("lanes 0", "lanes 1"):
        assert (window[name] == window[name][:, :1]).all()
        assert (window[name][0] != window[name][1]).any()
        assert len({word[name][:, step].tobytes() for step in range(5)}) == 5
        assert (word[name][0] != word[name][1]).any()


def test_masks_of_words_go_by_their_keys() -> None:
    dropout, ones = make_dropout(), tf.ones([4, 40])
    few = np.asarray(dropout.words(ones, tf.constant([7, -3, 7, 7 + Dropout.WORD_MASKS])))
    assert (few[[2, 3]] == few[0]).all()
    assert (few[1] != few[0]).any()
    # Wherever, and beside whatever, the word stands.
    other = np.asarray(dropout.words(ones, tf.constant([5, 1, 7, -3])))
    assert (other[2:] == few[:2]).all()


@pytest.mark.parametrize("mask", ["window", "word"])
@pytest.mark.parametrize("parts", [[4, 4], [1] * 8, [3, 5]])
def test_dropout_does_not_depend_on_who_owns_the_lanes(parts: list[int], mask: str) -> None:
    whole = masks(make_dropout(dropout_mask=mask))
    starts = np.cumsum([0, *parts[:-1]]).tolist()
    shares = [
        masks(make_dropout(dropout_mask=mask, first_lane=start), lanes=part)
        for part, start in zip(parts, starts, strict=True)
    ]
    for name, expected in whole.items():
        if name.startswith("lanes"):
            assert (np.concatenate([share[name] for share in shares]) == expected).all()
        else:
            assert all((share[name] == expected).all() for share in shares)


def test_dropout_masks_differ_by_step_place_and_seed() -> None:
    places = Dropout.places(ModelConfig(lstm_layers=LAYERS))
    found = [
        mask[:, 0] if mask.ndim == 3 else mask
        for seed in ((1, 0), (1, places), (1, 2 * places), (2, 0))
        for mask in masks(make_dropout(seed=seed)).values()
    ]
    assert len(found) == 4 * 5
    assert all(mask.shape == (LANES, 40) for mask in found)
    # No uniform number is used twice, unless for the 1,024 masks of words, drawn in another order.
    assert len({mask.tobytes() for mask in found}) == len(found)
    again = masks(make_dropout())
    assert all((mask == again[name]).all() for name, mask in masks(make_dropout()).items())


def test_dropout_of_nothing() -> None:
    rates = ("input_dropout", "hidden_dropout", "output_dropout", "recurrent_dropout")
    assert all(
        (mask == 1.0).all() for mask in masks(make_dropout(**dict.fromkeys(rates, 0.0))).values()
    )
