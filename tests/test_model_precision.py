"""What one worker and several have in common, by precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.train.main import run
from components.train.training_job import TrainingJob
from model.config import TrainConfig, with_overrides
from model.metrics import read_metrics
from model.network.lstm import FORWARD_BFLOAT16, multiply
from model.presets import tiny
from model.training.steps import product_precision


@pytest.mark.parametrize(
    ("precision", "reduced", "products"),
    [
        ("float32", "auto", "float32"),
        ("float32", "float32", "float32"),
        ("float32", "bfloat16", "float32"),
        ("bfloat16", "auto", "bfloat16"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("bfloat16", "float32", FORWARD_BFLOAT16),
    ],
)
def test_precision_of_products(precision: str, reduced: str, products: str) -> None:
    assert product_precision(TrainConfig(precision=precision, reduce_precision=reduced)) == products


def weight_gradient(a: tf.Tensor, b: tf.Tensor, d: tf.Tensor, precision: str) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(b)
        loss = tf.reduce_sum(multiply(a, b, precision=precision) * d)
    return tape.gradient(loss, b)


@pytest.mark.parametrize(
    ("precision", "low", "high"), [(FORWARD_BFLOAT16, 0.0, 1e-6), ("bfloat16", 1e-4, 1e-1)]
)
def test_gradients_of_parts_add_up(precision: str, low: float, high: float) -> None:
    random = np.random.default_rng(1)
    a, b, d = (
        tf.constant(random.normal(size=size), tf.float32) for size in ((64, 5), (5, 7), (64, 7))
    )
    whole = weight_gradient(a, b, d, precision)
    parts = sum(weight_gradient(a[at::2], b, d[at::2], precision) for at in (0, 1))
    difference = float(tf.norm(parts - whole) / tf.norm(whole))
    assert low <= difference <= high


def test_forward_products_are_rounded_all_the_same() -> None:
    random = np.random.default_rng(1)
    a, b = (tf.constant(random.normal(size=size), tf.float32) for size in ((4, 5), (5, 7)))
    ours, rounded, exact = (
        multiply(a, b, precision=one) for one in (FORWARD_BFLOAT16, "bfloat16", "float32")
    )
    np.testing.assert_array_equal(ours, rounded)
    assert (ours != exact).numpy().any()


@pytest.mark.slow
def test_two_workers_in_bfloat16_with_gradients_in_float32(
    tiny_records: str, tmp_path: Path
) -> None:
    """2.1e-4 apart with `auto`; what is left comes of rounded forward products."""
    settings = ["train.log_steps=1", "train.precision=bfloat16", "train.reduce_precision=float32"]
    losses = []
    for workers in (1, 2):
        workdir = str(tmp_path / str(workers))
        run(
            TrainingJob(records=tiny_records, workdir=workdir, workers=workers),
            with_overrides(tiny(), settings),
        )
        losses.append([row["loss"] for row in read_metrics(workdir) if "loss" in row])
    assert len(losses[0]) == 60
    np.testing.assert_allclose(losses[1][:3], losses[0][:3], rtol=1e-6)
    np.testing.assert_allclose(losses[1], losses[0], rtol=5e-5)
