from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from model.baselines.unigram import unigram_log_probabilities
from model.config import ModelConfig
from model.network.joint_model import Encoded, JointModel
from model.network.layers import Dropout
from model.network.losses import softmax_loss

Floats = npt.NDArray[np.float64]

COUNTS = [5, 1, 0, 40, 20, 10, 9, 8, 3, 2, 1]
V = len(COUNTS)
B, T, U, W = 3, 5, 6, 6


def make_config(
    *,
    inputs: str = "joint",
    tied: bool = True,
    char_cnn: str = "trained",
    lstm_dim: int = 7,
    projection: int = 0,
    layers: int = 2,
    recurrent_dropout: float = 0.0,
) -> ModelConfig:
    return ModelConfig(
        inputs=inputs,
        char_cnn=char_cnn,
        tied=tied,
        word_dim=5,
        char_dim=3,
        max_word_bytes=W,
        filter_widths=(1, 2),
        filter_counts=(4, 2),
        lstm_layers=layers,
        lstm_dim=lstm_dim,
        lstm_projection=projection,
        recurrent_dropout=recurrent_dropout,
    )


def make_model(config: ModelConfig, *, seed: int = 1, random: bool = False) -> JointModel:
    """Returns a model; `random` sets all its weights, biases too, to larger values."""
    model = JointModel(config, vocab_counts=COUNTS, seed=seed)
    if random:
        generator = np.random.default_rng(seed)
        for weight in model.weights:
            weight.assign(generator.normal(0, 0.5, weight.shape))
    return model


class Window:
    """Random words and spellings."""

    def __init__(self, seed: int = 0, *, steps: int = T):
        random = np.random.default_rng(seed)
        self.words = random.permutation(V)[:U].astype(np.int32)
        self.targets = random.integers(0, V, (B, steps)).astype(np.int32)
        self.char_ids = random.integers(1, 200, (U, W)).astype(np.int32)
        self.index = random.integers(0, U, (B, steps)).astype(np.int32)

    def encode(
        self,
        model: JointModel,
        part: slice = slice(None),
        *,
        state: tf.Tensor | None = None,
        **options: Any,
    ) -> Encoded:
        return model.encode(
            tf.constant(self.words),
            char_ids=tf.constant(self.char_ids),
            index=tf.constant(self.index[:, part]),
            state=model.zero_state(B) if state is None else state,
            **options,
        )


VARIANTS = [
    make_config(inputs="joint"),
    make_config(inputs="joint", lstm_dim=5),
    make_config(inputs="joint", tied=False),
    make_config(inputs="words"),
    make_config(inputs="words", tied=False, layers=1),
    make_config(inputs="characters", tied=False),
    make_config(inputs="joint", char_cnn="frozen"),
    make_config(projection=3),
    make_config(projection=5),
    make_config(projection=3, tied=False),
]


@pytest.mark.parametrize("config", VARIANTS)
def test_shapes(config: ModelConfig) -> None:
    model = make_model(config)
    encoded = Window().encode(model)
    layers, hidden_dim = config.lstm_layers, config.lstm_dim
    assert encoded.layers.shape == (B, T, layers, config.output_size)
    assert encoded.state.shape == (B, layers, 2, hidden_dim) == model.zero_state(B).shape
    read = config.word_dim if config.tied else config.output_size
    assert encoded.hidden.shape == (B, T, read)
    assert model.logits(tf.reshape(encoded.hidden, [-1, read])).shape == (B * T, V)


@pytest.mark.parametrize("config", VARIANTS)
def test_variables(config: ModelConfig) -> None:
    model = make_model(config)
    paths = [weight.path for weight in model.weights]
    assert len(set(paths)) == len(paths)  # checkpoints go by them
    parts = {
        path.split("/")[1] if path.startswith("joint") else path.split("/")[0] for path in paths
    }
    expected = {"output_bias", *(f"lstm_{index}" for index in range(config.lstm_layers))}
    if config.inputs != "characters":
        expected.add("word_embedding")
    if config.inputs != "words":
        expected.add("char_cnn")
    if not config.tied:
        expected.add("output_kernel")
    elif config.output_size != config.word_dim:
        expected.add("projection")
    assert parts == expected
    assert sum("lstm_0/projection" in path for path in paths) == bool(config.lstm_projection)
    trained = {weight.path for weight in model.trainable_variables}
    frozen = {path for path in paths if path.startswith("char_cnn/")}
    assert trained == set(paths) - (frozen if config.char_cnn == "frozen" else set())


def lstm(x: Floats, state: Floats, weights: dict[str, Floats], path: str) -> tuple[Floats, Floats]:
    """Reads `[T, X]` by the textbook's equations; returns `[T, R]` and the state `[2, H]`."""
    projection = weights.get(f"{path}/projection")
    path = path if projection is not None else f"{path}/keras/lstm_cell"

    def sigmoid(values: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-values)))

    output, cell = state
    size = len(cell) if projection is None else projection.shape[1]
    output, outputs = output[:size], []
    for row in x:
        z = row @ weights[f"{path}/kernel"] + output @ weights[f"{path}/recurrent_kernel"]
        entry, forget, new, out = np.split(z + weights[f"{path}/bias"], 4)
        cell = sigmoid(forget) * cell + sigmoid(entry) * np.tanh(new)
        output = sigmoid(out) * np.tanh(cell)
        output = output if projection is None else output @ projection
        outputs.append(output)
    return np.asarray(outputs), np.asarray([np.pad(output, (0, len(cell) - size)), cell])


@pytest.mark.parametrize("config", [VARIANTS[index] for index in (0, 1, 2, 5, 7, 9)])
def test_encode_is_the_textbook_model(config: ModelConfig) -> None:
    model = make_model(config, random=True)
    weights = {w.path: w.numpy().astype(np.float64) for w in model.weights}
    window = Window()
    state = np.random.default_rng(3).normal(size=(B, 2, 2, config.lstm_dim))
    encoded = window.encode(model, state=tf.constant(state, tf.float32))
    spelled = model.spell_out(tf.constant(window.char_ids)).numpy().astype(np.float64)
    for lane in range(B):
        x = spelled[window.index[lane]]
        if config.inputs == "joint":
            words = window.words[window.index[lane]]
            x = np.concatenate([x, weights["word_embedding/embeddings"][words]], axis=1)
        for layer in range(2):
            x, after = lstm(x, state[lane, layer], weights, f"lstm_{layer}")
            np.testing.assert_allclose(encoded.layers[lane, :, layer], x, atol=1e-5)
            np.testing.assert_allclose(encoded.state[lane, layer], after, atol=1e-5)
        if config.tied and config.output_size != config.word_dim:
            x = x @ weights["projection/kernel"] + weights["projection/bias"]
        np.testing.assert_allclose(encoded.hidden[lane], x, atol=1e-5)
        tied = "word_embedding/embeddings"
        kernel = weights[tied if config.tied else "joint_model/output_kernel"]
        expected = x @ kernel.T + weights["joint_model/output_bias"]
        np.testing.assert_allclose(model.logits(encoded.hidden[lane]), expected, atol=1e-5)


@pytest.mark.parametrize("config", VARIANTS)
def test_one_long_window_is_two_with_the_state_carried(config: ModelConfig) -> None:
    model = make_model(config, random=True)
    window = Window(steps=2 * T)
    whole = window.encode(model)
    first = window.encode(model, slice(0, T))
    second = window.encode(model, slice(T, 2 * T), state=first.state)
    for name in ("layers", "hidden"):
        joined = tf.concat([getattr(first, name), getattr(second, name)], axis=1)
        np.testing.assert_allclose(joined, getattr(whole, name), atol=1e-6)
    np.testing.assert_allclose(second.state, whole.state, atol=1e-6)
    # And the state matters.
    apart = window.encode(model, slice(T, 2 * T))
    assert not np.allclose(apart.hidden, second.hidden, atol=1e-3)


def test_lanes_do_not_see_each_other() -> None:
    model = make_model(VARIANTS[0], random=True)
    window = Window()
    before = window.encode(model).hidden.numpy()
    window.index[1] = (window.index[1] + 1) % U
    after = window.encode(model).hidden.numpy()
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert (after[1] != before[1]).any()


def test_future_words_are_not_seen() -> None:
    model = make_model(VARIANTS[0], random=True)
    window = Window()
    before = window.encode(model).hidden.numpy()
    window.index[:, 3:] = (window.index[:, 3:] + 1) % U
    after = window.encode(model).hidden.numpy()
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (after[:, 3] != before[:, 3]).any()


@pytest.mark.parametrize(
    ("inputs", "by_word", "by_spelling"),
    [("joint", True, True), ("words", True, False), ("characters", False, True)],
)
def test_what_the_model_reads(inputs: str, by_word: bool, by_spelling: bool) -> None:
    model = make_model(make_config(inputs=inputs, tied=False), random=True)
    window = Window()
    before = window.encode(model).hidden.numpy()
    window.words = (window.words + 1) % V
    assert (window.encode(model).hidden.numpy() != before).any() == by_word
    window = Window()
    window.char_ids = window.char_ids + 1
    assert (window.encode(model).hidden.numpy() != before).any() == by_spelling


class Noted:
    """Stands in for dropout: doubles, and says what it was asked for."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def words(self, x: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        self.seen.append(("words", tuple(x.shape), tuple(keys.shape)))
        return x * 2.0

    def lanes(self, x: tf.Tensor, *, layer: int) -> tf.Tensor:
        self.seen.append(("lanes", layer, tuple(x.shape)))
        return x * 2.0

    def weights(self, kernel: tf.Tensor, *, layer: int) -> tf.Tensor:
        self.seen.append(("weights", layer, tuple(kernel.shape)))
        return tf.convert_to_tensor(kernel) * 2.0


def test_dropout_is_used_at_every_place() -> None:
    model = make_model(make_config(recurrent_dropout=0.5), random=True)
    window, noted = Window(), Noted()
    plain, doubled = window.encode(model), window.encode(model, dropout=noted)
    # The words that the first layer reads, and each layer's weights and output.
    assert noted.seen == [
        ("words", (U, 11), (U,)),
        ("weights", 0, (7, 28)),
        ("lanes", 0, (B, T, 7)),
        ("weights", 1, (7, 28)),
        ("lanes", 1, (B, T, 7)),
    ]
    x = tf.concat(
        [model.spell_out(tf.constant(window.char_ids)), model.word_embedding(window.words)], 1
    )
    for layer, cell in enumerate(model.lstms):
        x, _ = cell(
            2.0 * x,
            state=model.zero_state(B)[:, layer],
            index=tf.constant(window.index) if layer == 0 else None,
            recurrent_kernel=2.0 * cell.recurrent_kernel,
        )
        np.testing.assert_allclose(doubled.layers[:, :, layer], x, atol=1e-5)
    assert model.projection is not None
    np.testing.assert_allclose(doubled.hidden, model.projection(2.0 * x), atol=1e-5)
    assert not np.allclose(doubled.hidden, plain.hidden, atol=1e-2)


def test_recurrent_weights_are_left_alone_without_their_dropout() -> None:
    noted = Noted()
    Window().encode(make_model(VARIANTS[0]), dropout=noted)
    assert [name for name, *_ in noted.seen] == ["words", "lanes", "lanes"]


def keys_of(model: JointModel, words: list[int], char_ids: list[list[int]]) -> list[int]:
    """Returns the keys by which dropout tells words apart."""
    keys: list[int] = []

    class Keys(Noted):
        def words(self, x: tf.Tensor, keys_given: tf.Tensor) -> tf.Tensor:
            keys.extend(keys_given.numpy().tolist())
            return x

    model.encode(
        tf.constant(words, tf.int32),
        char_ids=tf.constant(char_ids, tf.int32),
        index=tf.zeros([B, 1], tf.int32),
        state=model.zero_state(B),
        dropout=Keys(),
    )
    return keys


def test_dropout_tells_words_apart_by_id_and_spelling() -> None:
    spelling, other = [1, 100, 101, 102, 2, 0], [1, 100, 102, 101, 2, 0]
    words, spellings = [3, 4, 1, 1], [spelling, spelling, spelling, other]
    keys = keys_of(make_model(VARIANTS[0]), words, spellings)
    assert len({key % Dropout.WORD_MASKS for key in keys}) == 4
    # Wherever a word stands among the others, so that workers agree.
    assert keys_of(make_model(VARIANTS[0]), words[::-1], spellings[::-1]) == keys[::-1]


def test_vectors_that_are_looked_up_already() -> None:
    model, window = make_model(VARIANTS[0], random=True), Window()
    vectors = tf.gather(model.softmax_kernel, window.words)
    given = window.encode(model, word_vectors=vectors)
    np.testing.assert_array_equal(given.hidden, window.encode(model).hidden)
    other = window.encode(model, word_vectors=tf.zeros_like(vectors))
    assert not np.allclose(other.hidden, given.hidden, atol=1e-2)


def test_tables_are_the_variables_with_a_row_a_word() -> None:
    for config in VARIANTS:
        model = make_model(config)
        tables = dict(model.tables())
        assert len(tables) == 3 - config.tied - (config.inputs == "characters")
        assert {table.shape[0] for table in tables.values()} == {V}
        assert tables["bias"] is model.output_bias.value
        name = "embedding" if config.tied else "kernel"
        assert tables[name] is model.softmax_kernel
        trained = {id(w.value) for w in model.trainable_variables}
        assert {id(table) for table in tables.values()} <= trained


@pytest.mark.parametrize("config", [VARIANTS[0], VARIANTS[7]])
def test_bfloat16_is_close(config: ModelConfig) -> None:
    model, window = make_model(config, random=True), Window()
    exact, rounded = window.encode(model), window.encode(model, precision="bfloat16")
    assert rounded.hidden.dtype == rounded.state.dtype == tf.float32
    np.testing.assert_allclose(rounded.hidden, exact.hidden, atol=0.05)
    assert (rounded.hidden.numpy() != exact.hidden.numpy()).any()


@pytest.mark.parametrize("config", [VARIANTS[0], VARIANTS[2], VARIANTS[5]])
def test_output_bias_begins_as_log_unigram(config: ModelConfig) -> None:
    total = sum(COUNTS) + V
    expected = [math.log((count + 1) / total) for count in COUNTS]
    np.testing.assert_allclose(make_model(config).output_bias, expected, rtol=1e-6)


@pytest.mark.parametrize("config", VARIANTS)
def test_the_first_loss_is_that_of_the_unigrams(config: ModelConfig) -> None:
    window = Window()
    model = make_model(config)
    sums = softmax_loss(
        window.encode(model).hidden,
        kernel=tf.convert_to_tensor(model.softmax_kernel),
        bias=tf.convert_to_tensor(model.output_bias),
        targets=tf.constant(window.targets),
        weights=tf.ones([B, T]),
    )
    unigram = -unigram_log_probabilities(COUNTS)[window.targets].sum()
    assert float(sums.loss) == pytest.approx(unigram, rel=0.01)
    uniform = B * T * math.log(V)
    assert abs(unigram - uniform) > 0.05 * uniform  # else it would say nothing


def test_seed_gives_the_weights() -> None:
    def weights(seed: int) -> list[bytes]:
        return [weight.numpy().tobytes() for weight in make_model(VARIANTS[2], seed=seed).weights]

    assert weights(1) == weights(1)
    names = [weight.path for weight in make_model(VARIANTS[2]).weights]
    same = {n for n, one, two in zip(names, weights(1), weights(2), strict=True) if one == two}
    assert {name.split("/")[-1] for name in same} <= {"bias", "output_bias"}
