"""What of a checkpoint still holds when a training goes on under a changed config.

The mean of the weights belongs to the last part of the training, and validation scores to
the steps at which they are due; a longer training has others. What it would not have is
dropped here, so that it goes on as if it had been that long from the start, as far as what
was saved tells. The table of all fields and states: docs/decisions/0023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from model.config import TrainConfig
from model.training.weight_average import EVERY, average_begin


@dataclasses.dataclass(frozen=True)
class Carried:
    """What still holds."""

    averaged: int
    """Sets of weights in the mean; 0 if the mean is dropped."""
    scores: dict[int, float]
    """Log-likelihood per word of every validation pass that counts, by step."""
    notes: list[str]
    """What was dropped or goes another way, to be logged; empty if nothing was."""


def carry_over(meta: Mapping[str, Any], config: TrainConfig) -> Carried:
    """Returns what of a checkpoint still holds under a config.

    Args:
      meta: its meta.json.
      config: with which training goes on; may differ in `FREE_FIELDS` from that of the checkpoint.
    """
    step, averaged = int(meta["step"]), int(meta["averaged"])
    # Every tenth step enters from the first one on, so the count tells which they are.
    first, last = EVERY * (step // EVERY - averaged + 1), EVERY * (step // EVERY)
    begin = average_begin(config)
    dropped = averaged > 0 and first <= begin
    notes = []
    if dropped:
        anew = f"after step {begin}" if step <= begin else "here"
        notes.append(
            f"the mean of the weights of steps {first} to {last} is dropped and begins {anew}"
        )
    elif averaged and step // EVERY - begin // EVERY > averaged:
        notes.append(f"the mean of the weights goes on from steps {first} to {last} only")
    scores = _read_scores(meta)
    kept = {
        at: score
        for at, score in scores.items()
        # A mean of one set of weights is these weights.
        if is_due(config, at) and not (dropped and at > first)
    }
    if len(kept) < len(meta["history"]):
        notes.append(f"{len(meta['history']) - len(kept)} validation scores no longer count")
    old = int(meta["config"]["train"]["steps"])
    if old != config.steps and config.schedule == "cosine":
        notes.append(f"the learning rate falls until step {config.steps}")
    if notes and old != config.steps:
        notes.insert(0, f"train.steps is {config.steps} and was {old}")
    return Carried(0 if dropped else averaged, kept, notes)


def is_due(config: TrainConfig, step: int) -> bool:
    """Says whether a validation pass is due after `step` steps."""
    return step % config.valid_steps == 0 or step == config.steps


def _read_scores(meta: Mapping[str, Any]) -> dict[int, float]:
    """Returns the validation scores of a checkpoint by step; none if the steps are not known."""
    history = [float(value) for value in meta["history"]]
    steps = meta.get("history_steps")
    if steps is None:  # by an older charloom, which noted no steps
        train, step = meta["config"]["train"], int(meta["step"])
        every, end = int(train["valid_steps"]), int(train["steps"])
        due = [at for at in range(1, step + 1) if at % every == 0 or at == end]
        # A pass that a stop has cut off is missing at the end.
        steps = due[: len(history)] if len(due) - len(history) in (0, 1) else []
    return dict(zip(steps, history, strict=False))
