"""What a model in training expects after some texts of the validation split, as a table."""

from __future__ import annotations

from typing import Any

from model.checkpointing.checkpoints import Checkpoint
from model.checkpointing.trained import Loaded
from model.config import Config
from model.data.records import Dataset
from model.evaluation.evaluate import sample_next_words
from model.network.joint_model import JointModel
from model.text.display import printable, table

SAMPLES = 3
WORDS = 12
"""Words of context that the model has read, at most."""


def sample_table(model: JointModel, config: Config, dataset: Dataset) -> str:
    """Returns the five likeliest next words after the beginnings of some records, in Markdown.

    It reads weights only, draws nothing at random and holds no collective, so one worker
    may call it alone and the training goes on as if it had not.
    """
    loaded = Loaded(model, config, Checkpoint(path="", arrays={}, meta={}))
    samples = sample_next_words(loaded, dataset, split="valid", count=SAMPLES, words=WORDS)
    return table(["after", "comes", "expected"], [_row(sample) for sample in samples])


def _row(sample: dict[str, Any]) -> list[str]:
    expected = [f"{printable(n['word'])} {n['probability']:.3f}" for n in sample["next"]]
    context = " ".join(printable(word) for word in sample["context"].split(" "))
    return [context, printable(sample["truth"]), ", ".join(expected)]
