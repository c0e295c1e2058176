from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.network.lstm import LSTM, multiply

B, T, U, X, H, R = 3, 5, 4, 6, 7, 3


def random_tensor(*shape: int, seed: int = 0, scale: float = 1.0) -> tf.Tensor:
    values = np.random.default_rng([seed, *shape]).normal(0, scale, shape)
    return tf.constant(values, tf.float32)


def make_layer(projection: int = 0) -> LSTM:
    layer = LSTM(H, projection=projection, name="lstm")
    layer.build((None, X))
    for index, weight in enumerate(layer.weights):
        weight.assign(random_tensor(*weight.shape, seed=index, scale=0.5))
    return layer


def plain(
    layer: LSTM, x: tf.Tensor, state: tf.Tensor, kernel: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """The textbook's equations, differentiated by TensorFlow; same shapes as `LSTM.call`."""
    output, cell = state[:, 0, : layer.output_size], state[:, 1]
    kernel = layer.recurrent_kernel if kernel is None else kernel
    outputs = []
    for t in range(x.shape[1]):
        z = tf.matmul(x[:, t], layer.kernel) + tf.matmul(output, kernel) + layer.bias
        entry, forget, new, out = tf.split(z, 4, axis=1)
        cell = tf.sigmoid(forget) * cell + tf.sigmoid(entry) * tf.tanh(new)
        output = tf.sigmoid(out) * tf.tanh(cell)
        if layer.projection is not None:
            output = tf.matmul(output, layer.projection)
        outputs.append(output)
    output = tf.pad(output, [[0, 0], [0, H - layer.output_size]])
    return tf.stack(outputs, axis=1), tf.stack([output, cell], axis=1)


def make_state(size: int) -> tf.Tensor:
    """Returns `[B, 2, H]` as `LSTM.call` wants it, with an output of `size` values."""
    shown = tf.cast(tf.range(H) < size, tf.float32)
    return random_tensor(B, 2, H, seed=8) * tf.stack([shown, tf.ones(H)])


def sum_of(outputs: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
    """A loss in which every output and both parts of the state have a weight of their own."""
    return tf.reduce_sum(outputs * random_tensor(*outputs.shape, seed=1)) + tf.reduce_sum(
        state * random_tensor(*state.shape, seed=2)
    )


def assert_close(one: Any, other: Any, *, atol: float = 2e-5) -> None:
    for first, second in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_allclose(first, second, atol=atol)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("projection", [0, R, H])
def test_values_and_gradients_are_the_textbooks(projection: int, compiled: bool) -> None:
    layer, x, state = make_layer(projection), random_tensor(B, T, X), make_state(projection or H)

    def values_and_gradients(read: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = read()
            loss = sum_of(*found)
        return found, tape.gradient(loss, [x, *(weight.value for weight in layer.weights)])

    ours = lambda: values_and_gradients(lambda: layer(x, state=state))  # noqa: E731
    got = tf.function(ours)() if compiled else ours()
    assert got[0][0].shape == (B, T, layer.output_size)
    assert got[0][1].shape == (B, 2, H)
    assert len(got[1]) == (5 if projection else 4)
    assert_close(got, values_and_gradients(lambda: plain(layer, x, state)))


def test_equals_keras() -> None:
    layer, x, state = make_layer(), random_tensor(B, T, X), make_state(H)
    reference = keras.layers.LSTM(H, return_sequences=True, return_state=True)
    reference.build((B, T, X))
    reference.set_weights(layer.get_weights())
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        found = layer(x, state=state)
        outputs, output, cell = reference(x, initial_state=[state[:, 0], state[:, 1]])
        expected = (outputs, tf.stack([output, cell], axis=1))
        losses = sum_of(*found), sum_of(*expected)
    assert_close(found, expected)
    for one, other in zip((x, *layer.weights), (x, *reference.weights), strict=True):
        one, other = (w.value if hasattr(w, "value") else w for w in (one, other))
        assert_close(tape.gradient(losses[0], one), tape.gradient(losses[1], other))


def test_begins_as_keras_does() -> None:
    # Biases zero, but one at the forget gate; and no two layers alike.
    ours, projected = LSTM(H), LSTM(H, projection=R)
    reference = keras.layers.LSTM(H)
    for layer in (ours, projected, reference):
        layer.build((None, None, X) if layer is reference else (None, X))
    forget = [0.0] * H + [1.0] * H + [0.0] * (2 * H)
    assert ours.bias.numpy().tolist() == projected.bias.numpy().tolist() == forget
    assert reference.cell.bias.numpy().tolist() == forget
    for name, rows in (("kernel", X), ("recurrent_kernel", R)):
        assert getattr(projected, name).shape == (rows, 4 * H)
        bound = (6 / (rows + 4 * H)) ** 0.5  # Glorot and Bengio 2010
        assert 0.8 * bound < np.abs(getattr(projected, name)).max() <= bound
    assert projected.projection.shape == (H, R)


@pytest.mark.parametrize("projection", [0, R])
def test_distinct_vectors_with_their_index(projection: int) -> None:
    layer, state = make_layer(projection), make_state(projection or H)
    x = random_tensor(U, X)
    index = tf.constant(np.random.default_rng(3).integers(0, U, (B, T)), tf.int32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        by_index = layer(x, state=state, index=index)
        gathered = layer(tf.gather(x, index), state=state)
        losses = sum_of(*by_index), sum_of(*gathered)
    assert_close(by_index, gathered)
    sources = [x, *(weight.value for weight in layer.weights)]
    one, other = (tape.gradient(loss, sources) for loss in losses)
    assert_close(*([tf.convert_to_tensor(part) for part in side] for side in (one, other)))


@pytest.mark.parametrize("projection", [0, R])
def test_recurrent_weights_of_ones_own(projection: int) -> None:
    layer, x = make_layer(projection), random_tensor(B, T, X)
    state = make_state(projection or H)
    kernel = 0.5 * layer.recurrent_kernel.value
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(kernel)
        found = layer(x, state=state, recurrent_kernel=kernel)
        expected = plain(layer, x, state, kernel)
        losses = sum_of(*found), sum_of(*expected)
    assert_close(found, expected)
    assert_close(*(tape.gradient(loss, kernel) for loss in losses))
    assert tape.gradient(losses[0], layer.recurrent_kernel.value) is None
    assert not np.allclose(found[0], layer(x, state=state)[0], atol=1e-2)


@pytest.mark.parametrize("projection", [0, R])
def test_state_is_carried(projection: int) -> None:
    layer, x = make_layer(projection), random_tensor(B, T, X)
    state = make_state(projection or H)
    whole, last = layer(x, state=state)
    first, between = layer(x[:, :2], state=state)
    second, after = layer(x[:, 2:], state=between)
    assert_close([tf.concat([first, second], axis=1), after], [whole, last], atol=1e-6)
    padding = after[:, 0, layer.output_size :]  # of a projected output, that is less than H
    assert not padding.numpy().any()
    assert padding.shape == (B, H - layer.output_size)


def test_no_gradient_leaves_the_window() -> None:
    # Truncated back-propagation: the state before is a constant.
    layer, x, state = make_layer(), random_tensor(B, T, X), make_state(H)
    with tf.GradientTape() as tape:
        tape.watch(state)
        loss = sum_of(*layer(x, state=state))
    gradient = tape.gradient(loss, state)
    assert gradient is None or not tf.convert_to_tensor(gradient).numpy().any()


def test_bfloat16_rounds_the_numbers_of_a_product() -> None:
    a, b, d = random_tensor(8, 40), random_tensor(40, 6), random_tensor(8, 6, seed=1)
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        product = multiply(a, b, precision="bfloat16")
        loss = tf.reduce_sum(product * d)

    def rounded(x: tf.Tensor) -> Any:
        return tf.cast(tf.cast(x, tf.bfloat16), tf.float32).numpy().astype(np.float64)

    d_a, d_b = tape.gradient(loss, [a, b])
    exact = (
        rounded(a) @ rounded(b),
        rounded(d) @ rounded(b).T,
        rounded(a).T @ rounded(d),
    )
    for found, expected in zip((product, d_a, d_b), exact, strict=True):
        assert found.dtype == tf.float32
        # A CPU rounds the sum once, by 2**-9 of it at most, or with it some sums on the way.
        np.testing.assert_allclose(found, expected, rtol=2**-6, atol=2**-3)
    assert (product.numpy() != multiply(a, b).numpy()).any()
    np.testing.assert_allclose(multiply(a, b), a.numpy() @ b.numpy(), atol=1e-5)


def test_bfloat16_of_a_window_is_close() -> None:
    layer, x, state = make_layer(), random_tensor(B, T, X), make_state(H)
    exact, rounded = layer(x, state=state), layer(x, state=state, precision="bfloat16")
    assert_close(rounded, exact, atol=0.02)
    assert (rounded[0].numpy() != exact[0].numpy()).any()
