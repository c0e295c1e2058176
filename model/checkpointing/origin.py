"""Which weights a training started from, and where a version keeps its own.

<workdir>/warm_start/   arrays and meta.json, as in a checkpoint; absent with random weights
<version>/checkpoint/   the same

No TensorFlow here.
"""

from __future__ import annotations

import os
from typing import Any

from model.checkpointing.checkpoints import Checkpoint, read_checkpoint, read_meta
from model.errors import InputError
from model.files import holds_saved_model

WARM_START_FOLDER = "warm_start"
KEPT_FIELDS = ("path", "checkpoint", "words", "new_words")
"""Fields of meta.json that a training's checkpoints pass on."""
CHECKPOINT_FOLDER = "checkpoint"
TRAINED_DIGEST, VOCAB_DIGEST = "trained_sha256", "vocab_sha256"
"""Additional fields of meta.json: digests of the training's checkpoint and of vocab.txt."""


def read_warm_start(workdir: str) -> Checkpoint | None:
    """Reads the weights a training starts from; None if they are random.

    Raises:
      InputError: they are not whole.
    """
    path = os.path.join(workdir, WARM_START_FOLDER)
    if not os.path.isdir(path):
        return None
    try:
        return read_checkpoint(path)
    except ValueError as error:
        raise InputError(f"{path} is not whole ({error}); choose another --workdir") from None


def describe_warm_start(start: Checkpoint) -> dict[str, Any]:
    """Returns what checkpoints and reports record about a warm start."""
    return {name: start.meta[name] for name in KEPT_FIELDS}


def read_trained_digest(version: str) -> str:
    """Returns the digest of the training checkpoint that a version was made from.

    Raises:
      InputError: the folder has no checkpoint, or one that is not whole.
    """
    path = checkpoint_folder(version)
    try:
        return str(read_meta(path)[TRAINED_DIGEST])
    except (OSError, ValueError, KeyError) as error:
        raise damaged_version(path, str(error)) from None


def checkpoint_folder(version: str) -> str:
    """Returns the folder of a version's checkpoint.

    Raises:
      InputError: it has none.
    """
    path = os.path.join(version, CHECKPOINT_FOLDER)
    if not os.path.isdir(path):
        if not holds_saved_model(version):
            raise InputError(
                f"{version} is not a version of a model; name <registry>/<name>/<number>"
            )
        raise InputError(
            f"{version} was published by an older charloom (no {CHECKPOINT_FOLDER}); "
            "train and publish a new model"
        )
    return path


def damaged_version(path: str, reason: str) -> InputError:
    """Returns the error for a version, or part of it, that can't be read."""
    return InputError(f"{path} is not whole ({reason}); name another version")
