"""Which models can be compared or warm-started from. No TensorFlow here."""

from __future__ import annotations

import dataclasses
import os

from model.config import Config, DataConfig
from model.errors import InputError

SAME_FIELDS = ("tokenizer", "lowercase", "sentence_marks")
"""Fields of `DataConfig` that determine how text is split into words."""


def why_not(champion: DataConfig, challenger: DataConfig) -> str | None:
    """Returns why two models can't be compared, or None if they split text into the same words."""
    for name in SAME_FIELDS:
        theirs, ours = getattr(champion, name), getattr(challenger, name)
        if theirs != ours:
            return (
                f"it splits text differently (data.{name} is {theirs}, here {ours}); "
                "publish under another --name"
            )
    return None


def check_same_model(version: str, theirs: Config, ours: Config) -> None:
    """Checks that a training can start from the weights of a published version.

    Args:
      version: the version's folder.
      theirs: its config.
      ours: the training's.

    Raises:
      InputError: its model has another structure, or it splits text differently.
    """
    for field in dataclasses.fields(ours.model):
        before, after = getattr(theirs.model, field.name), getattr(ours.model, field.name)
        if before != after:
            raise InputError(
                f"{version} has model.{field.name}={before}, not {after}, so a training can't start "
                "from its weights; use the preset or config it was trained with (the "
                f"model section of {os.path.join(version, 'config.json')})"
            )
    reason = why_not(theirs.data, ours.data)
    if reason:
        raise InputError(f"a training can't start from the weights of {version}: {reason}")
