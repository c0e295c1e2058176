"""Whether records can train a config, and what may change later. No TensorFlow here."""

from __future__ import annotations

import dataclasses

from model.config import Config
from model.data.plan import TrainPlan, own_lanes
from model.data.records import Dataset
from model.data.target_sampling import TargetSampler

FREE_FIELDS = ("steps", "log_steps", "valid_steps", "checkpoint_steps", "keep_checkpoints")
"""Fields of TrainConfig that may change when a training resumes."""


def check_config(config: Config, dataset: Dataset, *, workers: int = 1) -> Config:
    """Returns `config` with the records' data section, after checking that it can be trained.

    Raises:
      InputError: lanes can't be divided evenly, there are fewer words than one batch needs, or
        the vocabulary is too small for the sampled softmax.
    """
    own_lanes(config.train.lanes, index=0, count=workers)
    train = config.train
    TrainPlan(dataset.lengths("train"), lanes=train.lanes, window=train.window, seed=train.seed)
    TargetSampler(train, dataset.vocab.counts)
    return dataclasses.replace(config, data=dataset.config)
