"""What is asked of TensorFlow's devices. There is no GPU here: its part is a stand-in, or unproven."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CODE = """
import tensorflow as tf
from model.distributed import devices
from model.errors import InputError
grown = []
experimental = tf.config.experimental
tf.config.list_physical_devices = lambda kind: ["gpu:0", "gpu:1"]
experimental.get_memory_growth = lambda gpu: gpu in grown
experimental.set_memory_growth = lambda gpu, on: grown.append(gpu)
assert experimental.tensor_float_32_execution_enabled()
devices.prepare_devices(gpus=2)
devices.prepare_devices(deterministic=True)  # as often as one likes
assert grown == ["gpu:0", "gpu:1"]
assert not experimental.tensor_float_32_execution_enabled()
from tensorflow.python.framework import config
assert config.is_op_determinism_enabled()
try:
    devices.prepare_devices(gpus=3)
except InputError as error:
    print(error)
"""


def test_float32_is_exact_memory_grows_and_missing_gpus_are_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "this worker was given 3 GPUs, but TensorFlow sees 2; use an image with CUDA, such as "
        "k8s/Dockerfile.gpu's, on a node whose driver fits it\n"
    )
