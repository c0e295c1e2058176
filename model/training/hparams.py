"""A training as one row of TensorBoard's HPARAMS tab.

No experiment is declared: TensorBoard finds the columns from the rows, those of the
metrics too, so trainings of different versions of the config stand in one table.
"""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf
from tensorboard.plugins.hparams import api_pb2, summary, summary_v2

from model.config import Config, to_dict

FINAL_TAG = "final/valid_perplexity"
"""Scalar, written once, at the end."""


def flat_config(config: Config) -> dict[str, Any]:
    """Returns every field of model and train as `section.field`; a tuple as `1,2,3`."""
    sections = to_dict(config)
    return {
        f"{section}.{name}": ",".join(map(str, value)) if isinstance(value, list) else value
        for section in ("model", "train")
        for name, value in sections[section].items()
    }


def write_start(config: Config, *, workdir: str) -> None:
    """Writes the row to the present summary writer; one row a workdir."""
    fields = flat_config(config)
    _write(summary_v2.hparams_pb(fields, trial_id=workdir, start_time_secs=time.time()))


def write_end(*, step: int, valid_perplexity: float | None) -> None:
    """Completes the row; `valid_perplexity` None: there is no validation split."""
    if valid_perplexity is not None:
        tf.summary.scalar(FINAL_TAG, valid_perplexity, step=step)
    _write(summary.session_end_pb(api_pb2.STATUS_SUCCESS))


def _write(message: Any) -> None:
    tf.summary.experimental.write_raw_pb(message.SerializeToString(), step=0)
