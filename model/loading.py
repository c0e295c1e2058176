"""A trained model, read back from the folder of its training."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from model.checkpoints import Checkpoint, best_checkpoint
from model.config import Config, from_json
from model.errors import InputError
from model.network import JointModel
from model.records import COMPLETED_FILE, Dataset
from model.spelling import SpellingModel, check_arrays


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
    if not os.path.exists(os.path.join(workdir, COMPLETED_FILE)):
        raise InputError(
            f"{workdir} holds no finished training (no {COMPLETED_FILE}); "
            "run the same charloom train again"
        )
    checkpoint = best_checkpoint(workdir)
    if checkpoint.meta.get("dataset_digest") != dataset.digest:
        raise InputError(f"{workdir} was trained on other records than {dataset.path}")
    config = from_json(json.dumps(checkpoint.meta["config"]), source=checkpoint.path)
    model = JointModel(config.model, vocab_counts=dataset.vocab.counts)
    for variable in model.weights:
        averaged = f"average/{variable.path}"
        use_average = checkpoint.meta["averaged"] and averaged in checkpoint.arrays
        name = averaged if use_average else f"model/{variable.path}"
        variable.assign(checkpoint.arrays[name])
    return Loaded(model, config, checkpoint)


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
