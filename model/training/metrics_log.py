"""Writes a training's metrics.jsonl, TensorBoard events and log lines."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from typing import Any

import tensorflow as tf

from model.config import Config
from model.files import write_whole
from model.metrics import METRICS_FILE, perplexity, read_metrics
from model.training.tensorboard import end_hparams, start_hparams

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """Metrics of the steps since the previous report."""

    loss: float
    """Mean negative log-likelihood per word, in nats."""
    words_per_second: float
    """Targets per second over all workers, excluding validation and checkpoints."""
    rate: float
    """Learning rate of the newest step."""
    gradient_norm: float
    """Global norm of the newest step's gradient, before clipping."""
    update_norm: float | None = None
    """Global norm of the newest step's weight update, if known."""
    read_words: int
    """Words that this worker read."""
    unknown_words: int
    """Those outside the vocabulary."""
    waiting_seconds: float
    """Seconds spent waiting for batches."""
    step_seconds: float
    """Seconds spent in steps, including waiting for their results."""


class RunLog:
    """Writes the metrics of one run; does nothing on workers other than the chief."""

    def __init__(self, workdir: str, *, step: int, steps: int, chief: bool, is_scored: bool = True):
        """Opens the files.

        Args:
          workdir: the training's folder.
          step: steps done; metrics of later steps, from before a restart, are dropped.
          steps: total steps.
          chief: whether this worker writes.
          is_scored: whether a validation pass after exactly these steps still counts.
        """
        self._steps = steps
        self._chief = chief
        self._started = time.monotonic()
        self._first_step = step
        self._earlier_seconds = 0.0
        if not chief:
            return
        rows = [
            row
            for row in read_metrics(workdir)
            if row["step"] < step
            or (row["step"] == step and (is_scored or "valid_words" not in row))
        ]
        self._earlier_seconds = max((row["seconds"] for row in rows), default=0.0)
        path = os.path.join(workdir, METRICS_FILE)
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = open(path, "a", encoding="utf-8")
        self._events = tf.summary.create_file_writer(os.path.join(workdir, "tensorboard"))

    @property
    def seconds(self) -> float:
        """Training time so far in seconds, including before a restart."""
        return self._earlier_seconds + time.monotonic() - self._started

    def start(self, config: Config, *, workdir: str) -> None:
        """Writes the training's hyperparameters to TensorBoard."""
        if self._chief:
            with self._events.as_default():
                start_hparams(config, workdir=workdir)

    def train(self, interval: StepMetrics, *, step: int) -> None:
        """Reports the steps since the previous report; `step` steps are done in total."""
        if not self._chief:
            return
        done = step - self._first_step
        left = (time.monotonic() - self._started) / done * (self._steps - step) if done else 0.0
        loss = interval.loss
        row = {
            "step": step,
            "steps": self._steps,
            "loss": loss,
            "words_per_second": interval.words_per_second,
            "learning_rate": interval.rate,
            "gradient_norm": interval.gradient_norm,
            "read_words": interval.read_words,
            "unknown_words": interval.unknown_words,
            "waiting_seconds": round(interval.waiting_seconds, 4),
            "step_seconds": round(interval.step_seconds, 4),
            "seconds_left": left,
        }
        scalars = {
            "train/loss": loss,
            "train/perplexity": perplexity(-loss, 1),
            "train/words_per_second": interval.words_per_second,
            "train/learning_rate": interval.rate,
            "train/gradient_norm": interval.gradient_norm,
            "train/unknown_share": interval.unknown_words / max(interval.read_words, 1),
            "seconds/waiting": interval.waiting_seconds,
            "seconds/step": interval.step_seconds,
        }
        if interval.update_norm is not None:
            row["update_norm"] = scalars["train/update_norm"] = interval.update_norm
        self._write(row, scalars)
        log.info(
            "step %d/%d  loss %.4f  perplexity %.1f  %s words/s  %d:%02d left",
            step,
            self._steps,
            loss,
            perplexity(-loss, 1),
            f"{interval.words_per_second:,.0f}",
            *divmod(round(left), 60),
        )

    def valid(self, *, step: int, log_likelihood: float, words: int, seconds: float) -> None:
        """Reports a validation pass and its duration."""
        if not self._chief:
            return
        value = perplexity(log_likelihood, words)
        self._write(
            {
                "step": step,
                "valid_log_likelihood": log_likelihood,
                "valid_words": words,
                "valid_seconds": round(seconds, 4),
            },
            {
                "valid/loss": -log_likelihood / words,
                "valid/perplexity": value,
                "seconds/validation": seconds,
            },
        )
        log.info("step %d/%d  validation perplexity %.2f", step, self._steps, value)

    def samples(self, text: str, *, step: int) -> None:
        """Writes a Markdown text with the model's predictions."""
        if self._chief:
            with self._events.as_default():
                tf.summary.text("valid/next_words", text, step=step)
            self._events.flush()

    def checkpoint(self, *, step: int, seconds: float) -> None:
        """Reports how long a checkpoint took."""
        if self._chief:
            with self._events.as_default():
                tf.summary.scalar("seconds/checkpoint", seconds, step=step)
            self._events.flush()

    def finish(self, *, step: int, valid_perplexity: float | None) -> None:
        """Reports the end of a finished training."""
        if self._chief:
            with self._events.as_default():
                end_hparams(step=step, valid_perplexity=valid_perplexity)

    def _write(self, row: dict[str, Any], scalars: dict[str, float]) -> None:
        self._file.write(json.dumps({**row, "seconds": round(self.seconds, 3)}) + "\n")
        self._file.flush()
        with self._events.as_default():
            for name, value in scalars.items():
                tf.summary.scalar(name, value, step=row["step"])
        self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        if self._chief:
            self._file.close()
            self._events.close()
