"""How TensorFlow uses this process's devices. On GPUs unproven: written by reading."""

from __future__ import annotations

import tensorflow as tf

from model.errors import InputError


def prepare_devices(*, gpus: int = 0, deterministic: bool = False) -> None:
    """Makes products of float32 exact, and leaves a GPU's memory to whoever needs it.

    Call it before any TensorFlow op.

    Args:
      gpus: how many GPUs this process was given.
      deterministic: whether the same ops must give the same bits on a GPU, too; slower.

    Raises:
      InputError: TensorFlow sees fewer GPUs.
    """
    # TensorFloat-32 has 10 bits of a float32's 23; `train.precision` is how to ask for less.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    found = tf.config.list_physical_devices("GPU")
    if len(found) < gpus:
        raise InputError(
            f"this worker was given {gpus} GPUs, but TensorFlow sees {len(found)}; use an image with "
            "CUDA, such as k8s/Dockerfile.gpu's, on a node whose driver fits it"
        )
    for gpu in found:
        if not tf.config.experimental.get_memory_growth(gpu):  # it can be set once only
            tf.config.experimental.set_memory_growth(gpu, True)
