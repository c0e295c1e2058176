"""What a training run leaves to look at: metrics.jsonl, TensorBoard events, log lines."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from typing import Any

import tensorflow as tf

from model.files import write_whole

METRICS_FILE = "metrics.jsonl"
log = logging.getLogger(__name__)


def perplexity(log_likelihood: float, words: int) -> float:
    """Returns exp(-log-likelihood per word), inf where that overflows."""
    try:
        return math.exp(-log_likelihood / words)
    except OverflowError:
        return math.inf


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """Returns the lines of a workdir's metrics file; a line cut short ends them."""
    rows: list[dict[str, Any]] = []
    try:
        with open(os.path.join(workdir, METRICS_FILE), encoding="utf-8") as file:
            for line in file:
                rows.append(json.loads(line))
    except (FileNotFoundError, ValueError):
        pass
    return rows


class RunLog:
    """Writes the metrics of one run; on a worker that is not the chief it writes nothing."""

    def __init__(self, workdir: str, *, step: int, steps: int, chief: bool):
        """Opens the files.

        Args:
          workdir: the training's folder.
          step: steps done; metrics of later ones, from before a restart, are dropped.
          steps: steps in all.
          chief: whether this worker writes.
        """
        self._steps = steps
        self._chief = chief
        self._started = time.monotonic()
        self._first_step = step
        self._earlier_seconds = 0.0
        if not chief:
            return
        rows = [row for row in read_metrics(workdir) if row["step"] <= step]
        self._earlier_seconds = max((row["seconds"] for row in rows), default=0.0)
        path = os.path.join(workdir, METRICS_FILE)
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = open(path, "a", encoding="utf-8")
        self._events = tf.summary.create_file_writer(os.path.join(workdir, "tensorboard"))

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a restart included."""
        return self._earlier_seconds + time.monotonic() - self._started

    def train(self, *, step: int, loss: float, words_per_second: float, rate: float) -> None:
        """Reports the mean loss per word, in nats, since the last report."""
        if not self._chief:
            return
        done = step - self._first_step
        left = (time.monotonic() - self._started) / done * (self._steps - step) if done else 0.0
        self._write(
            {
                "step": step,
                "steps": self._steps,
                "loss": loss,
                "words_per_second": words_per_second,
                "learning_rate": rate,
                "seconds_left": left,
            },
            {
                "train/loss": loss,
                "train/perplexity": perplexity(-loss, 1),
                "train/words_per_second": words_per_second,
                "train/learning_rate": rate,
            },
        )
        log.info(
            "step %d/%d  loss %.4f  perplexity %.1f  %s words/s  %d:%02d left",
            step,
            self._steps,
            loss,
            perplexity(-loss, 1),
            f"{words_per_second:,.0f}",
            *divmod(round(left), 60),
        )

    def valid(self, *, step: int, log_likelihood: float, words: int) -> None:
        """Reports a pass over the validation split."""
        if not self._chief:
            return
        value = perplexity(log_likelihood, words)
        self._write(
            {"step": step, "valid_log_likelihood": log_likelihood, "valid_words": words},
            {"valid/loss": -log_likelihood / words, "valid/perplexity": value},
        )
        log.info("step %d/%d  validation perplexity %.2f", step, self._steps, value)

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
