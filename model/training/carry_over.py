"""Which parts of a checkpoint stay valid when a training resumes with a changed config.

The averaged weights belong to the last part of the training, and validation scores to the steps at
which they are due; a longer training has others. What it would not have is dropped, so that the
training continues, as far as the saved data allow, as if it had had this length from the start. The
table of all fields and states: docs/decisions/0023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from model.config import TrainConfig
from model.training.weight_average import EVERY, average_begin


@dataclasses.dataclass(frozen=True)
class Carried:
    """The parts of a checkpoint that stay valid."""

    averaged: int
    """Number of averaged sets of weights; 0 if the average is dropped."""
    scores: dict[int, float]
    """Log-likelihood per word of each validation pass that still counts, by step."""
    notes: list[str]
    """Log messages about what was dropped or changes; empty if nothing does."""


def carry_over(meta: Mapping[str, Any], config: TrainConfig) -> Carried:
    """Returns which parts of a checkpoint stay valid under a config.

    Args:
      meta: its meta.json.
      config: of the resumed training; may differ from the checkpoint's in `FREE_FIELDS`.
    """
    step, averaged = int(meta["step"]), int(meta["averaged"])
    # From the first one on, every `EVERY`-th step is averaged, so the count identifies them.
    first, last = EVERY * (step // EVERY - averaged + 1), EVERY * (step // EVERY)
    begin = average_begin(config)
    dropped = averaged > 0 and first <= begin
    notes = []
    if dropped:
        restart = f"after step {begin}" if step <= begin else "here"
        notes.append(
            f"the average of the weights of steps {first} to {last} is dropped and restarts {restart}"
        )
    elif averaged and step // EVERY - begin // EVERY > averaged:
        notes.append(f"the average of the weights continues from steps {first} to {last} only")
    scores = _read_scores(meta)
    kept = {
        at: score
        for at, score in scores.items()
        # The average of a single set of weights is these weights.
        if is_due(config, at) and not (dropped and at > first)
    }
    if len(kept) < len(meta["history"]):
        notes.append(f"{len(meta['history']) - len(kept)} validation scores no longer count")
    old = int(meta["config"]["train"]["steps"])
    if old != config.steps and config.schedule == "cosine":
        notes.append(f"the learning rate now decays until step {config.steps}")
    if notes and old != config.steps:
        notes.insert(0, f"train.steps was {old} and is now {config.steps}")
    return Carried(0 if dropped else averaged, kept, notes)


def is_due(config: TrainConfig, step: int) -> bool:
    """Returns whether a validation pass is due after `step` steps."""
    return step % config.valid_steps == 0 or step == config.steps


def _read_scores(meta: Mapping[str, Any]) -> dict[int, float]:
    """Returns a checkpoint's validation scores by step; none if the steps are unknown."""
    history = [float(value) for value in meta["history"]]
    steps = meta.get("history_steps")
    if steps is None:  # written by an older charloom, without steps
        train, step = meta["config"]["train"], int(meta["step"])
        every, end = int(train["valid_steps"]), int(train["steps"])
        due = [at for at in range(1, step + 1) if at % every == 0 or at == end]
        # A pass interrupted by a stop is missing at the end.
        steps = due[: len(history)] if len(due) - len(history) in (0, 1) else []
    return dict(zip(steps, history, strict=False))
