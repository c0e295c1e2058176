from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from model.checkpointing.variable_names import check_complete, join_named, name_variables, shapes_of
from model.config import ModelConfig
from model.errors import CharloomError
from model.network.joint_model import JointModel


def variable(path: str, value: int) -> Any:
    return SimpleNamespace(path=path, value=value)


def test_names_of_variables_and_of_their_slots() -> None:
    variables = [variable("m/a", 1), variable("m/b", 2)]
    assert name_variables("model", variables) == {"model/m/a": 1, "model/m/b": 2}
    assert name_variables("adam/first", variables, [3, 4]) == {
        "adam/first/m/a": 3,
        "adam/first/m/b": 4,
    }
    with pytest.raises(ValueError, match="shorter"):
        name_variables("adam/first", variables, [3])


def test_two_variables_of_one_name_are_refused() -> None:
    variables = [variable("m/width_3/kernel", 1), variable("m/width_3/kernel", 2)]
    with pytest.raises(CharloomError) as caught:
        name_variables("model", variables)
    assert str(caught.value) == (
        "two arrays of the model are called model/m/width_3/kernel, so only one of them would be "
        "saved; report this as a bug of charloom"
    )
    with pytest.raises(CharloomError, match="are called state,"):
        join_named({"state": 1}, {"other": 2}, {"state": 1})
    assert join_named({"a": 1}, {}, [("b", 2)]) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"a": (1, 2)}, "array b is missing"),
        ({"b": ()}, "array a is missing"),
        ({"a": (2, 1), "b": ()}, "array a has shape (2, 1), not (1, 2)"),
        ({"a": (1, 2), "b": (), "c": (3,)}, "array c is unknown"),
    ],
)
def test_what_is_not_complete_is_named(found: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        check_complete({"a": (1, 2), "b": ()}, found)
    assert str(caught.value) == message


def test_shapes() -> None:
    assert shapes_of({"a": np.zeros([2, 3]), "b": np.zeros([])}) == {"a": (2, 3), "b": ()}
    check_complete({"a": (2, 3)}, shapes_of({"a": np.zeros([2, 3])}))
    check_complete({}, {})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("inputs", ["joint", "words", "characters"])
@pytest.mark.parametrize("projection", [0, 4])
def test_every_variable_of_a_model_has_a_name_of_its_own(
    tied: bool, inputs: str, projection: int
) -> None:
    config = ModelConfig(
        inputs=inputs,
        tied=tied and inputs != "characters",
        word_dim=5,
        filter_widths=(1, 2, 12),
        filter_counts=(2, 2, 2),  # equal, so that only names tell the convolutions apart
        highway_layers=3,
        lstm_layers=3,
        lstm_dim=6,
        lstm_projection=projection,
    )
    model = JointModel(config, vocab_counts=[3, 2, 1, 1], seed=1)
    named = name_variables("model", model.weights)
    assert len(named) == len(model.weights) == len({id(one.value) for one in model.weights})
    trained = name_variables("average", model.trainable_variables)
    assert len(trained) == len(model.trainable_variables)


def test_two_convolutions_of_one_name_are_noticed() -> None:
    """The case that was lost silently: Keras itself lets two layers have one name."""
    layers = [keras.layers.Conv1D(4, 3, name="width_3") for _ in range(2)]
    for layer in layers:
        layer.build((None, None, 2))
    weights = [weight for layer in layers for weight in layer.weights]
    with pytest.raises(CharloomError, match="are called model/width_3/kernel,"):
        name_variables("model", weights)
