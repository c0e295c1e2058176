"""Loads trained models: from a training's workdir, or from a version in the registry.

A warm start and a comparison read from a version:

<version>/checkpoint/   weights and spelling model, as in a training's checkpoint
          vocab.txt     the vocabulary
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from model.baselines.byte_ngram import KEYS, SpellingModel, check_arrays
from model.checkpointing.checkpoints import (
    Arrays,
    Checkpoint,
    best_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from model.checkpointing.origin import (
    CHECKPOINT_FOLDER,
    TRAINED_DIGEST,
    VOCAB_DIGEST,
    checkpoint_folder,
    damaged_version,
)
from model.checkpointing.variable_names import check_complete, join_named, name_variables, shapes_of
from model.config import Config, from_json
from model.data.records import VOCAB_FILE, Dataset
from model.errors import InputError
from model.files import COMPLETED_FILE, is_complete
from model.network.joint_model import JointModel
from model.text.vocab import Vocabulary


class Loaded(NamedTuple):
    """A trained model, loaded."""

    model: JointModel
    config: Config
    checkpoint: Checkpoint


def load_model(workdir: str, dataset: Dataset) -> Loaded:
    """Reads the best checkpoint of a finished training.

    Args:
      workdir: the training's folder.
      dataset: the records that it was trained on.

    Raises:
      InputError: the training is incomplete or used other records.
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
    """Sets a model's weights from a training's checkpoint; prefers the averaged ones.

    Raises:
      InputError: the checkpoint lacks an array of the model, or has one of the wrong shape.
    """
    variables = name_variables("model", model.weights)
    if checkpoint.meta["averaged"]:
        averaged = name_variables("average", model.trainable_variables)
        trained = name_variables("model", model.trainable_variables).keys()
        kept = {name: one for name, one in variables.items() if name not in trained}
        variables = join_named(kept, averaged)
    found = {name: one for name, one in checkpoint.arrays.items() if name in variables}
    try:
        _assign(variables, found)
    except ValueError as error:
        raise InputError(
            f"{checkpoint.path} belongs to another model ({error}); train again in another --workdir"
        ) from None


def _assign(variables: Mapping[str, Any], arrays: Arrays) -> None:
    """Sets variables to arrays of the same names; ValueError names a missing or extra array."""
    check_complete(shapes_of(variables), shapes_of(arrays))
    for name, variable in variables.items():
        variable.assign(arrays[name])


def read_spelling(checkpoint: Checkpoint) -> SpellingModel:
    """Returns the spelling model of a checkpoint.

    Raises:
      InputError: the checkpoint has none.
    """
    check_spelling(checkpoint)
    return SpellingModel.from_arrays(checkpoint.arrays)


def check_spelling(checkpoint: Checkpoint) -> None:
    """Raises InputError if a checkpoint has no spelling model; does not build it."""
    try:
        check_arrays(checkpoint.arrays)
    except ValueError as error:
        raise InputError(f"{checkpoint.path} {error}; train again in another --workdir") from None


class Published(NamedTuple):
    """A published model, loaded."""

    model: JointModel
    config: Config
    vocab: Vocabulary
    spelling: SpellingModel
    checkpoint: Checkpoint
    path: str
    """The version's folder."""

    @property
    def trained_digest(self) -> str:
        """SHA-256 of the training's checkpoint, as in its report."""
        return str(self.checkpoint.meta[TRAINED_DIGEST])


def save_published(loaded: Loaded, dataset: Dataset, folder: str) -> None:
    """Writes `checkpoint/` and `vocab.txt` into the folder of a new version.

    Args:
      loaded: the model; its current weights are written, averaged ones where they are in use.
      dataset: the records that it was trained on.
      folder: the version's folder.

    Raises:
      InputError: the checkpoint is from an older charloom and has no spellings.
    """
    check_spelling(loaded.checkpoint)
    weights = name_variables("model", loaded.model.weights)
    arrays = join_named(
        {name: variable.numpy() for name, variable in weights.items()},
        {name: loaded.checkpoint.arrays[name] for name in KEYS},
    )
    digests = {TRAINED_DIGEST: loaded.checkpoint.digest, VOCAB_DIGEST: dataset.vocab.digest}
    path = os.path.join(folder, CHECKPOINT_FOLDER)
    os.mkdir(path)
    write_checkpoint(
        path,
        step=loaded.checkpoint.step,
        arrays=arrays,
        meta={**loaded.checkpoint.meta, **digests},
    )
    dataset.vocab.save(os.path.join(folder, VOCAB_FILE))


def load_published(version: str) -> Published:
    """Loads the model of a version.

    Args:
      version: a version's folder, written by `save_published`.

    Raises:
      InputError: the folder has no checkpoint, or one that is not whole.
    """
    path = checkpoint_folder(version)
    try:
        checkpoint = read_checkpoint(path)
    except ValueError as error:
        raise damaged_version(path, str(error)) from None
    vocab = Vocabulary.load(os.path.join(version, VOCAB_FILE))
    if vocab.digest != checkpoint.meta.get(VOCAB_DIGEST):
        raise damaged_version(version, f"{VOCAB_FILE} was changed")
    config = from_json(json.dumps(checkpoint.meta["config"]), source=path)
    model = JointModel(config.model, vocab_counts=vocab.counts)
    found = {name: array for name, array in checkpoint.arrays.items() if name not in KEYS}
    try:
        _assign(name_variables("model", model.weights), found)
    except ValueError as error:
        raise damaged_version(path, f"it belongs to another model: {error}") from None
    return Published(model, config, vocab, read_spelling(checkpoint), checkpoint, version)
