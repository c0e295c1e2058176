from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from model.checkpointing.checkpoints import Checkpoint
from model.checkpointing.trained import Loaded, assign_weights
from model.data.records import Dataset
from model.errors import InputError
from model.network.joint_model import JointModel


@pytest.fixture
def averaged(loaded: Loaded) -> Checkpoint:
    """The checkpoint with a mean of all weights that is 1 above them."""
    arrays = dict(loaded.checkpoint.arrays)
    for variable in loaded.model.trainable_variables:
        arrays[f"average/{variable.path}"] = arrays[f"model/{variable.path}"] + 1
    meta = {**loaded.checkpoint.meta, "averaged": 3}
    return dataclasses.replace(loaded.checkpoint, arrays=arrays, meta=meta)


@pytest.fixture
def model(loaded: Loaded, dataset: Dataset) -> JointModel:
    return JointModel(loaded.config.model, vocab_counts=dataset.vocab.counts)


def test_the_mean_is_taken_where_there_is_one(averaged: Checkpoint, model: JointModel) -> None:
    for meta, more in (({"averaged": 3}, 1), ({"averaged": 0}, 0)):
        assign_weights(model, dataclasses.replace(averaged, meta={**averaged.meta, **meta}))
        for variable in model.weights:
            expected = averaged.arrays[f"model/{variable.path}"] + more
            np.testing.assert_array_equal(variable.numpy(), expected)


@pytest.mark.parametrize("prefix", ["average", "model"])
def test_an_array_that_is_missing_is_named(
    averaged: Checkpoint, loaded: Loaded, model: JointModel, prefix: str
) -> None:
    meta = {**averaged.meta, "averaged": int(prefix == "average")}
    convolution = loaded.model.char_cnn.convolutions[1]  # type: ignore[union-attr]
    name = f"{prefix}/{convolution.kernel.path}"
    arrays = dict(averaged.arrays)
    del arrays[name]
    with pytest.raises(InputError) as caught:
        assign_weights(model, dataclasses.replace(averaged, arrays=arrays, meta=meta))
    assert str(caught.value) == (
        f"{averaged.path} belongs to another model (array {name} is missing); train again in another "
        "--workdir"
    )


def test_a_frozen_part_has_no_mean(averaged: Checkpoint, model: JointModel) -> None:
    model.char_cnn.trainable = False  # type: ignore[union-attr]
    frozen = {variable.path for variable in model.char_cnn.weights}  # type: ignore[union-attr]
    arrays = dict(averaged.arrays)
    for path in frozen:
        del arrays[f"average/{path}"]
    assign_weights(model, dataclasses.replace(averaged, arrays=arrays))
    for variable in model.weights:
        more = int(variable.path not in frozen)
        expected = averaged.arrays[f"model/{variable.path}"] + more
        np.testing.assert_array_equal(variable.numpy(), expected)
