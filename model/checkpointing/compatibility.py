"""Which models can be compared, and with whose weights a training can begin. No TensorFlow here."""

from __future__ import annotations

import dataclasses
import os

from model.config import Config, DataConfig
from model.errors import InputError

SAME_FIELDS = ("tokenizer", "lowercase", "sentence_marks")
"""Fields of `DataConfig` that decide into what words a text is split."""


def why_not(champion: DataConfig, challenger: DataConfig) -> str | None:
    """Returns why two models can't be compared, or None: they must split text into the same words."""
    for name in SAME_FIELDS:
        theirs, ours = getattr(champion, name), getattr(challenger, name)
        if theirs != ours:
            return (
                f"it splits text into other words (data.{name} is {theirs}, here {ours}); "
                "publish under another --name"
            )
    return None


def check_same_model(version: str, theirs: Config, ours: Config) -> None:
    """Checks that a training can begin with the weights of a published version.

    Args:
      version: its folder.
      theirs: its config.
      ours: the training's.

    Raises:
      InputError: its model is of another form, or reads other words.
    """
    for field in dataclasses.fields(ours.model):
        before, after = getattr(theirs.model, field.name), getattr(ours.model, field.name)
        if before != after:
            raise InputError(
                f"{version} has model.{field.name}={before}, not {after}, so no training can begin "
                "with its weights; take the preset or config that it was made with (it has the "
                f"model section of {os.path.join(version, 'config.json')})"
            )
    reason = why_not(theirs.data, ours.data)
    if reason:
        raise InputError(f"no training can begin with the weights of {version}: {reason}")
