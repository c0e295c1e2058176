"""The part of a version in the registry that a next training and comparison read.

<version>/checkpoint/   weights and spelling model, as a training's checkpoint has them
          vocab.txt     the vocabulary
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from model.baselines.byte_ngram import KEYS, SpellingModel
from model.checkpointing.checkpoints import Checkpoint, read_checkpoint, read_meta, write_checkpoint
from model.checkpointing.trained import Loaded, check_spelling, read_spelling
from model.checkpointing.variable_names import check_complete, join_named, name_variables, shapes_of
from model.config import Config, from_json
from model.data.records import VOCAB_FILE, Dataset
from model.errors import InputError
from model.files import holds_saved_model
from model.network.joint_model import JointModel
from model.text.vocab import Vocabulary

CHECKPOINT_FOLDER = "checkpoint"
TRAINED_DIGEST, VOCAB_DIGEST = "trained_sha256", "vocab_sha256"
"""Fields of meta.json beside those of a training: digests of its checkpoint, and of vocab.txt."""


class Published(NamedTuple):
    """A published model, read back."""

    model: JointModel
    config: Config
    vocab: Vocabulary
    spelling: SpellingModel
    checkpoint: Checkpoint
    path: str
    """The version's folder."""

    @property
    def trained_digest(self) -> str:
        """SHA-256 of the training's checkpoint, as its report states it."""
        return str(self.checkpoint.meta[TRAINED_DIGEST])


def save_published(loaded: Loaded, dataset: Dataset, folder: str) -> None:
    """Writes `checkpoint/` and `vocab.txt` into the folder of a version to be.

    Args:
      loaded: the model; its weights are written as they are, averaged ones where they are used.
      dataset: the records that it was trained on.
      folder: the version's folder.

    Raises:
      InputError: the checkpoint is of an older charloom and has no spellings.
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
    """Reads the model of a version.

    Args:
      version: a version's folder, as `save_published` left it.

    Raises:
      InputError: the folder holds none, or one that is not whole.
    """
    path = _checkpoint_folder(version)
    try:
        checkpoint = read_checkpoint(path)
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    vocab = Vocabulary.load(os.path.join(version, VOCAB_FILE))
    if vocab.digest != checkpoint.meta.get(VOCAB_DIGEST):
        raise _damaged(version, f"{VOCAB_FILE} was changed")
    config = from_json(json.dumps(checkpoint.meta["config"]), source=path)
    model = JointModel(config.model, vocab_counts=vocab.counts)
    variables = name_variables("model", model.weights)
    found = {name: array for name, array in checkpoint.arrays.items() if name not in KEYS}
    try:
        check_complete(shapes_of(variables), shapes_of(found))
    except ValueError as error:
        raise _damaged(path, f"it is of another model: {error}") from None
    for name, variable in variables.items():
        variable.assign(checkpoint.arrays[name])
    return Published(model, config, vocab, read_spelling(checkpoint), checkpoint, version)


def read_trained_digest(version: str) -> str:
    """Returns the digest of the training's checkpoint of which a version was made.

    Raises:
      InputError: the folder holds none, or one that is not whole.
    """
    path = _checkpoint_folder(version)
    try:
        return str(read_meta(path)[TRAINED_DIGEST])
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, str(error)) from None


def _checkpoint_folder(version: str) -> str:
    path = os.path.join(version, CHECKPOINT_FOLDER)
    if not os.path.isdir(path):
        if not holds_saved_model(version):
            raise InputError(f"{version} is no version of a model; name <registry>/<name>/<number>")
        raise InputError(
            f"{version} was published by an older charloom (no {CHECKPOINT_FOLDER}); "
            "train and publish a model anew"
        )
    return path


def _damaged(path: str, reason: str) -> InputError:
    return InputError(f"{path} is not whole ({reason}); name another version")
