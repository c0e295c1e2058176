"""Detects a diverged training, and saves the data needed to find out why.

  <workdir>/broken/step-<N>/arrays.npz   weights, optimizer slots and lane states at detection
                            batch.npz    the global batch of step N, as `model.data.batches.Batch`
                            meta.json    reason, losses of the steps, sources of the batch

Step N is the first bad one; the state is from the step at which it was detected.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.arrays import ArrayLike, write_arrays
from model.baselines.unigram import unigram_log_probabilities
from model.config import Config
from model.data.batches import Batch, LaneReader, train_batch
from model.data.plan import TrainPlan
from model.data.records import Dataset
from model.data.target_sampling import TargetSampler
from model.errors import CharloomError
from model.files import publish_folder, temporary_folder

FOLDER = "broken"
BATCH_FILE, ARRAYS_FILE, META_FILE = "batch.npz", "arrays.npz", "meta.json"
MIN_WORDS = 100
"""Fewer words are not judged alone: their mean is too noisy."""
NEW_WATCH: Mapping[str, Any] = {"loss": 0.0, "words": 0, "high_since": None, "fine": 0}
"""State of a `LossWatch`: nats and words not judged yet, the first step of the last interval if it
was high, and the step up to which all is known to be fine."""
_NAMED_SOURCES = 3


@dataclasses.dataclass(frozen=True)
class Fault:
    """A diverged training: where and why."""

    step: int
    """The first bad step, counted from 1."""
    reason: str
    """What is wrong, as the first part of a message."""


class LossWatch:
    """Detects non-finite and diverging losses; all workers find the same.

    A loss diverges when its mean over an interval exceeds the loss of the rarest word under the
    unigram model, in two consecutive intervals after the warm-up. The model starts as the unigram
    model, under which no text is that unlikely, and only improves unless the steps are too long. So
    an ordinary training never comes close, whatever its text, and a single jump from which it
    recovers is tolerated.
    """

    def __init__(
        self,
        vocab_counts: Sequence[int],
        *,
        warmup_steps: int,
        begin: Mapping[str, Any] | None = None,
    ):
        """Starts before the first interval, or from the state of another watch.

        Args:
          vocab_counts: `[V]` targets of each word in the training split.
          warmup_steps: intervals that end in the warm-up are not judged.
          begin: the `state` of the watch to continue.
        """
        self.limit = float(-unigram_log_probabilities(vocab_counts).min())
        self._warmup_steps = warmup_steps
        state = {**NEW_WATCH, **(begin or {})}
        self._loss, self._words = float(state["loss"]), int(state["words"])
        self._high_since: int | None = state["high_since"]
        self._fine = int(state["fine"])

    @property
    def state(self) -> dict[str, Any]:
        """Its state after the intervals so far, as JSON values."""
        return {
            "loss": self._loss,
            "words": self._words,
            "high_since": self._high_since,
            "fine": self._fine,
        }

    def good_step(self, losses: Sequence[float], words: Sequence[float], *, step: int) -> int:
        """Returns the newest step after which the model is known to have been good.

        It is known once the loss of the following step has been seen.

        Args:
          losses: of the steps since the last call of `check`.
          words: targets of each.
          step: steps done.
        """
        if self._high_since is not None:
            return self._high_since - 2
        fine = self._fine
        if fine == step - len(losses):  # otherwise earlier steps have not been judged
            for loss, count in zip(losses, words, strict=True):
                if loss > self.limit * max(count, 1):
                    break
                fine += 1
        return fine - 1

    def check(
        self, losses: Sequence[float], words: Sequence[float], *, step: int, gradient_norm: float
    ) -> Fault | None:
        """Judges one interval; call it exactly once for each step.

        Args:
          losses: negative log-likelihood of each step's batch, in nats.
          words: targets of each step's batch.
          step: steps done, including the last of `losses`.
          gradient_norm: of the newest step.
        """
        fault = check_numbers(losses, step=step, gradient_norm=gradient_norm)
        if fault:
            return fault
        if step <= self._warmup_steps:
            if sum(losses) <= self.limit * sum(words):
                self._fine = step
            return None
        self._loss += sum(losses)
        self._words += int(sum(words))
        if self._words < MIN_WORDS:
            return None
        mean = self._loss / self._words
        self._loss, self._words = 0.0, 0
        if mean <= self.limit:
            self._high_since, self._fine = None, step
            return None
        since = self._high_since
        if since is None:
            means = [loss / max(count, 1) for loss, count in zip(losses, words, strict=True)]
            first = next((at for at, one in enumerate(means) if one > self.limit), 0)
            self._high_since = step - len(losses) + first + 1
            return None
        return Fault(
            since,
            f"the loss diverges from step {since} on: at step {step} it is {mean:.4g} nats per word, "
            f"while predicting by word counts alone never exceeds {self.limit:.4g}",
        )


def check_numbers(losses: Sequence[float], *, step: int, gradient_norm: float) -> Fault | None:
    """Finds the first non-finite loss; arguments as for `LossWatch.check`."""
    first = step - len(losses) + 1
    for at, loss in enumerate(losses):
        if not math.isfinite(loss):
            return Fault(first + at, f"the loss is {loss} at step {first + at}")
    if not math.isfinite(gradient_norm):
        return Fault(step, f"the gradient's norm is {gradient_norm} at step {step}")
    return None


def read_batch(config: Config, *, records: str, step: int) -> tuple[Batch, list[dict[str, Any]]]:
    """Rereads what all lanes read at a step.

    Args:
      config: of the training.
      records: its folder of records.
      step: counted from 1.

    Returns:
      The global batch, and the record, source (file and byte offset) and lanes of each record in
      it.
    """
    train = config.train
    # Opens its own files: the training's may be in use by the prefetching thread.
    with Dataset.open(records) as dataset:
        plan = TrainPlan(
            dataset.lengths("train"), lanes=train.lanes, window=train.window, seed=train.seed
        )
        width = config.model.max_word_bytes
        reader = LaneReader(dataset, "train", max_word_bytes=width, window=train.window)
        sampler = TargetSampler(train, dataset.vocab.counts)
        batch = train_batch(plan, reader, step - 1, range(train.lanes), sampler=sampler)
        there = batch.weights > 0
        found = np.unique(batch.records[there]).tolist()
        sources = [
            {
                "record": record,
                "source": dataset.read("train", record).source,
                "lanes": np.nonzero((there & (batch.records == record)).any(axis=1))[0].tolist(),
            }
            for record in found
        ]
    return batch, sources


def dump_broken(
    workdir: str,
    *,
    step: int,
    arrays: Mapping[str, ArrayLike],
    batch: Batch,
    meta: Mapping[str, Any],
) -> str:
    """Saves the state of a diverged training; replaces an older one of the same step.

    Args:
      workdir: the training's folder.
      step: the first bad step.
      arrays: weights, slots and lane states by name.
      batch: the global batch of that step.
      meta: JSON values.

    Returns:
      The folder.

    Raises:
      OSError: the folder can't be written.
    """
    final = os.path.join(workdir, FOLDER, f"step-{step}")
    with temporary_folder(final) as temporary:
        write_arrays(os.path.join(temporary, ARRAYS_FILE), arrays)
        write_arrays(os.path.join(temporary, BATCH_FILE), _arrays_of(batch))
        with open(os.path.join(temporary, META_FILE), "w", encoding="utf-8") as file:
            json.dump({"step": step, **meta}, file, indent=2)
        publish_folder(temporary, final, replace=True)
    return final


def _arrays_of(batch: Any, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """Flattens a dataclass of arrays into arrays by name; nested ones as `field/name`."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if dataclasses.is_dataclass(value):
            arrays |= _arrays_of(value, f"{prefix}{field.name}/")
        elif value is not None:
            arrays[prefix + field.name] = value
    return arrays


def broken_error(
    fault: Fault, sources: Sequence[Mapping[str, Any]], *, saved: str
) -> CharloomError:
    """Returns the error that ends a diverged training; `saved` states where its state is."""
    named = ", ".join(str(one["source"]) for one in sources[:_NAMED_SOURCES])
    more = len(sources) - _NAMED_SOURCES
    named += f" and {more} more" if more > 0 else ""
    return CharloomError(
        f"{fault.reason}; that step's batch comes from {named}; {saved}; lower train.learning_rate "
        "and use another --workdir"
    )
