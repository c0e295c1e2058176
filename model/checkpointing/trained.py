"""A trained model, read back from the folder of its training."""

from __future__ import annotations

import json
from typing import NamedTuple

from model.baselines.byte_ngram import SpellingModel, check_arrays
from model.checkpointing.checkpoints import Checkpoint, best_checkpoint
from model.checkpointing.variable_names import check_complete, join_named, name_variables, shapes_of
from model.config import Config, from_json
from model.data.records import Dataset
from model.errors import InputError
from model.files import COMPLETED_FILE, is_complete
from model.network.joint_model import JointModel


class Loaded(NamedTuple):
    """A trained model, read back."""

    model: JointModel
    config: Config
    checkpoint: Checkpoint


def load_model(workdir: str, dataset: Dataset) -> Loaded:
    """Reads the best checkpoint of a finished training.

    Args:
      workdir: the training's folder.
      dataset: the records that it was trained on.

    Raises:
      InputError: the training is not complete or is of other records.
    """
    if not is_complete(workdir):
        raise InputError(
            f"{workdir} holds no finished training (no {COMPLETED_FILE}); "
            "run the same charloom train again"
        )
    checkpoint = best_checkpoint(workdir)
    if checkpoint.meta.get("dataset_digest") != dataset.digest:
        raise InputError(f"{workdir} was trained on other records than {dataset.path}")
    config = from_json(json.dumps(checkpoint.meta["config"]), source=checkpoint.path)
    model = JointModel(config.model, vocab_counts=dataset.vocab.counts)
    assign_weights(model, checkpoint)
    return Loaded(model, config, checkpoint)


def assign_weights(model: JointModel, checkpoint: Checkpoint) -> None:
    """Sets a model's weights from a training's checkpoint, averaged ones where it has them.

    Raises:
      InputError: the checkpoint lacks an array of the model, or has one of another shape.
    """
    variables = name_variables("model", model.weights)
    if checkpoint.meta["averaged"]:
        averaged = name_variables("average", model.trainable_variables)
        trained = name_variables("model", model.trainable_variables).keys()
        kept = {name: one for name, one in variables.items() if name not in trained}
        variables = join_named(kept, averaged)
    found = {name: one for name, one in checkpoint.arrays.items() if name in variables}
    try:
        check_complete(shapes_of(variables), shapes_of(found))
    except ValueError as error:
        raise InputError(
            f"{checkpoint.path} is of another model ({error}); train again in another --workdir"
        ) from None
    for name, variable in variables.items():
        variable.assign(checkpoint.arrays[name])


def read_spelling(checkpoint: Checkpoint) -> SpellingModel:
    """Returns the spelling model of a checkpoint.

    Raises:
      InputError: the checkpoint has none.
    """
    check_spelling(checkpoint)
    return SpellingModel.from_arrays(checkpoint.arrays)


def check_spelling(checkpoint: Checkpoint) -> None:
    """Raises InputError if a checkpoint has no spelling model; the model is not made."""
    try:
        check_arrays(checkpoint.arrays)
    except ValueError as error:
        raise InputError(f"{checkpoint.path} {error}; train again in another --workdir") from None
