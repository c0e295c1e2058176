"""LSTM layers: Keras' weights, run by our own loop on CPUs and by cuDNN on GPUs.

The textbook loop, except that three things are computed once per window instead of once per word:
  the product of the input with its weights (even once per distinct word), and the gradients of both
  weight matrices. This requires a custom gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

FORWARD_BFLOAT16 = "bfloat16 forward"
"""Precision with bfloat16 forward products and float32 gradient products, so that gradients of
parts of a batch add up to the gradient of the whole batch."""


def product_types(precision: str) -> tuple[tf.DType, tf.DType]:
    """Returns the types of products and of their gradients' products."""
    if precision == FORWARD_BFLOAT16:
        return tf.bfloat16, tf.float32
    dtype = tf.as_dtype(precision)
    return dtype, dtype


def multiply(a: tf.Tensor, b: tf.Tensor, *, precision: str = "float32") -> tf.Tensor:
    """Returns `[n, k] x [k, m]` as float32; forward and gradient products use `precision`.

    With `FORWARD_BFLOAT16` the gradient's products are in float32.
    """
    dtype, of_gradient = product_types(precision)
    if dtype == tf.float32:
        return tf.matmul(a, b)

    @tf.custom_gradient
    def rounded(a: tf.Tensor, b: tf.Tensor) -> Any:
        a, b = tf.cast(a, dtype), tf.cast(b, dtype)

        def gradient(d: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            x, y, d = (tf.cast(one, of_gradient) for one in (a, b, d))
            return (
                tf.cast(tf.matmul(d, y, transpose_b=True), tf.float32),
                tf.cast(tf.matmul(x, d, transpose_a=True), tf.float32),
            )

        return tf.cast(tf.matmul(a, b), tf.float32), gradient

    return rounded(tf.convert_to_tensor(a), tf.convert_to_tensor(b))


class LSTM(keras.layers.Layer):
    """An LSTM layer (Hochreiter and Schmidhuber 1997), with an optional output projection.

    With a projection (Sak et al. 2014, arXiv 1402.1128) the output has R values, not H.
    """

    def __init__(self, units: int, *, projection: int = 0, **kwargs: Any):
        """Takes H as `units`, and R as `projection`, or 0 for none."""
        super().__init__(**kwargs)
        self.units = units
        self.output_size = projection or units
        self.cudnn: keras.layers.LSTM | None = None
        self.projection: Any = None
        if not projection:
            self.cudnn = keras.layers.LSTM(
                units, return_sequences=True, return_state=True, name="keras"
            )

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Makes the variables; `shape` is `[.., X]`."""
        if self.cudnn is not None:
            self.cudnn.build((None, None, shape[-1]))
            cell = self.cudnn.cell
            self.kernel, self.recurrent_kernel = cell.kernel, cell.recurrent_kernel
            self.bias = cell.bias
        else:
            rows = {"kernel": shape[-1], "recurrent_kernel": self.output_size}
            self.kernel, self.recurrent_kernel = (
                self.add_weight(shape=(size, 4 * self.units), initializer="glorot_uniform", name=n)
                for n, size in rows.items()
            )
            self.bias = self.add_weight(shape=(4 * self.units,), initializer="zeros", name="bias")
            self.bias.assign(tf.repeat([0.0, 1.0, 0.0], [self.units, self.units, 2 * self.units]))
            self.projection = self.add_weight(
                shape=(self.units, self.output_size),
                initializer="glorot_uniform",
                name="projection",
            )
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        *,
        state: tf.Tensor,
        index: tf.Tensor | None = None,
        recurrent_kernel: tf.Tensor | None = None,
        precision: str = "float32",
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs the layer over a window.

        Args:
          x: `[b, T, X]`, or `[U, X]` distinct vectors with their `index`.
          state: `[b, 2, H]` output (R values, then zeros) and cell before the window.
          index: `[b, T]` index of the vector at each position.
          recurrent_kernel: `[R, 4H]` replaces the variable, with dropout applied.
          precision: of the products over the whole window.

        Returns:
          `[b, T, R]` outputs, and the state after the window.
        """
        output, cell = state[:, 0, : self.output_size], state[:, 1]
        if (
            self.cudnn is not None
            and recurrent_kernel is None
            and tf.config.list_logical_devices("GPU")
        ):
            x = x if index is None else tf.gather(x, index)
            outputs, output, cell = self.cudnn(x, initial_state=[output, cell])
            return outputs, tf.stack([output, cell], axis=1)
        # Converted to tensors: an eager custom gradient does not recognise a strategy's variable as
        # its argument.
        kernel = tf.convert_to_tensor(
            self.recurrent_kernel.value if recurrent_kernel is None else recurrent_kernel
        )
        z = multiply(tf.reshape(x, [-1, x.shape[-1]]), self.kernel, precision=precision) + self.bias
        if index is not None:
            z = tf.gather(z, tf.transpose(index))
        else:
            z = tf.transpose(
                tf.reshape(z, [*tf.unstack(tf.shape(x)[:2]), 4 * self.units]), [1, 0, 2]
            )
        projection = (
            None if self.projection is None else tf.convert_to_tensor(self.projection.value)
        )
        outputs, output, cell = _scan(z, kernel, projection, output, cell)
        outputs = tf.transpose(outputs, [1, 0, 2])
        outputs.set_shape([*(x if index is None else index).shape[:2], self.output_size])
        output = tf.pad(output, [[0, 0], [0, self.units - self.output_size]])
        return outputs, tf.stack([output, cell], axis=1)


def _scan(
    z: tf.Tensor,
    kernel: tf.Tensor,
    projection: tf.Tensor | None,
    output: tf.Tensor,
    cell: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Runs the recurrence.

    Args:
      z: `[T, b, 4H]` input contributions to the gates (input, forget, new, output).
      kernel: `[R, 4H]`.
      projection: `[H, R]`, or None, and then R is H.
      output: `[b, R]` before the first word.
      cell: `[b, H]` before the first word.

    Returns:
      `[T, b, R]` outputs, and the last output and cell.
    """

    @tf.custom_gradient
    def scan(z: tf.Tensor, kernel: tf.Tensor, *rest: tf.Tensor) -> Any:
        trace = _forward(z, kernel, projection, output, cell)

        def gradient(*d: tf.Tensor) -> list[tf.Tensor]:
            return _backward(
                d, kernel=kernel, projection=projection, first=(output, cell), trace=trace
            )

        return (trace.outputs, trace.outputs[-1], trace.cells[-1]), gradient

    weights = [kernel] if projection is None else [kernel, projection]
    found: tuple[tf.Tensor, tf.Tensor, tf.Tensor] = scan(z, *weights)
    return found


class _Trace(NamedTuple):
    """Values that the gradient needs."""

    outputs: tf.Tensor
    """`[T, b, R]`."""
    cells: tf.Tensor
    """`[T, b, H]`."""
    gates: tf.Tensor
    """`[T, b, 4H]` after the sigmoid; the third is not used."""
    new: tf.Tensor
    """`[T, b, H]` candidate values, after the tanh."""


def _forward(
    z: tf.Tensor,
    kernel: tf.Tensor,
    projection: tf.Tensor | None,
    output: tf.Tensor,
    cell: tf.Tensor,
) -> _Trace:
    """Runs the window forward; see `_scan` for the shapes."""
    steps, size = tf.shape(z)[0], cell.shape[1]
    shapes = (output.shape, cell.shape, z.shape[1:], cell.shape)
    arrays = [tf.TensorArray(tf.float32, steps, element_shape=shape) for shape in shapes]

    def step(t: tf.Tensor, output: tf.Tensor, cell: tf.Tensor, arrays: list[Any]) -> Any:
        at = z[t] + tf.matmul(output, kernel)
        gates, new = tf.sigmoid(at), tf.tanh(at[:, 2 * size : 3 * size])
        i, f, _, o = tf.split(gates, 4, axis=-1)  # the third is unused
        cell = f * cell + i * new
        output = o * tf.tanh(cell)
        if projection is not None:
            output = tf.matmul(output, projection)
        values = (output, cell, gates, new)
        arrays = [array.write(t, value) for array, value in zip(arrays, values, strict=True)]
        return t + 1, output, cell, arrays

    _, _, _, arrays = tf.while_loop(
        lambda t, *unused: t < steps, step, (0, output, cell, arrays), maximum_iterations=steps
    )
    return _Trace(*(array.stack() for array in arrays))


def _backward(
    d: tuple[tf.Tensor, ...],
    *,
    kernel: tf.Tensor,
    projection: tf.Tensor | None,
    first: tuple[tf.Tensor, tf.Tensor],
    trace: _Trace,
) -> list[tf.Tensor]:
    """Returns the gradients of z, kernel and projection; the state before a window has none."""
    d_outputs, d_output, d_cell = d
    steps = tf.shape(trace.cells)[0]
    i, f, _, o = tf.split(trace.gates, 4, axis=-1)
    new, tanh = trace.new, tf.tanh(trace.cells)
    before = tf.concat([first[1][tf.newaxis], trace.cells[:-1]], axis=0)
    # Everything independent of later words, for the whole window at once: derivatives of the cell
    # by
    # the first three gates, and of the output by the last gate and the cell.
    by_cell = tf.stack([new * i * (1.0 - i), before * f * (1.0 - f), i * (1.0 - new * new)], axis=2)
    by_output = tf.stack([tanh * o * (1.0 - o), o * (1.0 - tanh * tanh)], axis=2)
    d_zs = tf.TensorArray(tf.float32, steps, element_shape=trace.gates.shape[1:])
    d_ys = tf.TensorArray(tf.float32, steps, element_shape=first[0].shape)
    # Transposed once: products with an on-the-fly transpose take a third longer.
    back = tf.transpose(kernel)

    def step(k: tf.Tensor, d_output: tf.Tensor, d_cell: tf.Tensor, d_zs: Any, d_ys: Any) -> Any:
        t = steps - 1 - k
        d_output += d_outputs[t]
        if projection is not None:
            d_ys = d_ys.write(t, d_output)
            d_output = tf.matmul(d_output, projection, transpose_b=True)
        from_output = d_output[:, tf.newaxis] * by_output[t]
        d_cell += from_output[:, 1]
        parts = [d_cell[:, tf.newaxis] * by_cell[t], from_output[:, :1]]
        d_z = tf.reshape(tf.concat(parts, axis=1), tf.shape(trace.gates)[1:])
        return k + 1, tf.matmul(d_z, back), d_cell * f[t], d_zs.write(t, d_z), d_ys

    _, _, _, d_zs, d_ys = tf.while_loop(
        lambda k, *unused: k < steps,
        step,
        (0, d_output, d_cell, d_zs, d_ys),
        maximum_iterations=steps,
    )
    d_z = d_zs.stack()
    read = tf.concat([first[0][tf.newaxis], trace.outputs[:-1]], axis=0)
    gradients = [d_z, _over_window(read, d_z)]
    if projection is not None:
        gradients.append(_over_window(o * tanh, d_ys.stack()))
    return gradients


def _over_window(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Returns the sum over `[T, b]` of outer products: the gradient of a weight matrix."""
    return tf.matmul(
        tf.reshape(a, [-1, a.shape[-1]]), tf.reshape(b, [-1, b.shape[-1]]), transpose_a=True
    )
