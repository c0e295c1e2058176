"""Follows a training: reports, samples, a profile, and its end if it diverges."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

import numpy as np
import tensorflow as tf

from model.checkpointing.checkpoints import newest_checkpoint
from model.checkpointing.retention import set_aside
from model.config import to_json
from model.data.batches import Batch
from model.text.vocab import UNK_ID
from model.training.divergence import (
    Fault,
    LossWatch,
    broken_error,
    check_numbers,
    dump_broken,
    read_batch,
)
from model.training.metrics_log import RunLog, StepMetrics
from model.training.phases import Phases
from model.training.profiler import Profiler, ProfileSteps
from model.training.state import Outlook, Training, collect
from model.training.steps import StepResult
from model.training.tensorboard import sample_table, word_vectors, write_projector

log = logging.getLogger(__name__)


def count_words(batches: Sequence[Batch]) -> tuple[int, int]:
    """Returns how many words are read, excluding padding, and how many of them are `<unk>`."""
    there = [batch.weights > 0 for batch in batches]
    unknown = [
        (batch.word_ids == UNK_ID) & read for batch, read in zip(batches, there, strict=True)
    ]
    return sum(int(one.sum()) for one in there), sum(int(one.sum()) for one in unknown)


class Reporter:
    """One worker's view of its training. All workers make the same calls; the chief writes."""

    def __init__(
        self,
        training: Training,
        workdir: str,
        *,
        run_log: RunLog,
        profile: ProfileSteps | None = None,
    ):
        """Starts before the first step of this process.

        Args:
          training: the training; its step and state are read at every call.
          workdir: its folder.
          run_log: receives the reports.
          profile: the steps for the chief to trace.
        """
        self._training = training
        self._workdir = workdir
        self._run_log = run_log
        self._chief = training.cluster.is_chief
        self._events = os.path.join(workdir, "tensorboard")
        self._profiler = Profiler(self._events, profile if self._chief else None)
        self._phases = Phases()
        self._losses = LossWatch(
            training.dataset.vocab.counts,
            warmup_steps=training.config.train.warmup_steps,
            begin=training.loss_watch,
        )
        self._results: list[StepResult] = []
        self._read_words = self._unknown_words = 0
        self._since = time.monotonic()

    def batches(self, batches: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """Yields this worker's batches of each step; times the wait for them."""
        while True:
            with self._phases.timed("waiting"):
                found = next(batches, None)
            if found is None:
                return
            read, unknown = count_words(found)
            self._read_words += read
            self._unknown_words += unknown
            self._profiler.update(self._training.step, wait=self._wait)
            yield found

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Times the block as a step."""
        with self._phases.timed("step"):
            yield

    def stepped(self, result: StepResult) -> None:
        """Records a step's result without waiting for it, or holding its lanes' states."""
        self._results.append(result._replace(state=None))

    @contextlib.contextmanager
    def aside(self, phase: str) -> Iterator[None]:
        """Excludes the block from the throughput; adds its duration to `phase`."""
        started = time.monotonic()
        with self._phases.timed(phase):
            yield
        self._since += time.monotonic() - started

    def report(self, *, rate: float) -> None:
        """Reports the steps since the previous report.

        Raises:
          CharloomError: the training diverged.
        """
        with self._phases.timed("step"):  # waits for the results
            losses, words, norm = self._sums()
        step = self._training.step
        fault = self._losses.check(losses, words, step=step, gradient_norm=norm)
        if fault:
            self._end_broken(fault, losses)
        training = self._training
        update = training.steps.update_norm(
            step=tf.constant(training.step - 1, tf.int32), rate=tf.constant(rate, tf.float32)
        )
        interval = StepMetrics(
            loss=sum(losses) / sum(words),
            words_per_second=(sum(words) - sum(self._training.unreported[1]))
            / (time.monotonic() - self._since),
            rate=rate,
            gradient_norm=norm,
            update_norm=float(update),
            read_words=self._read_words,
            unknown_words=self._unknown_words,
            waiting_seconds=self._phases.take("waiting"),
            step_seconds=self._phases.take("step"),
        )
        self._run_log.train(interval, step=step)
        self._results, self._training.unreported = [], ([], [])
        self._read_words = self._unknown_words = 0
        self._since = time.monotonic()

    def _sums(self) -> tuple[list[float], list[float], float]:
        """Returns losses and words of the steps since the last report, and the last norm."""
        losses = [float(one) for r in self._results for one in np.atleast_1d(r.loss)]
        words = [float(one) for r in self._results for one in np.atleast_1d(r.words)]
        before = self._training.unreported
        losses, words = [*before[0], *losses], [*before[1], *words]
        norm = float(np.atleast_1d(self._results[-1].gradient_norm)[-1]) if self._results else 0.0
        return losses, words, norm

    def check(self) -> Outlook:
        """Returns what a checkpoint saved now must pass on; call it before saving.

        Raises:
          CharloomError: the training diverged.
        """
        losses, words, norm = self._sums()
        fault = check_numbers(losses, step=self._training.step, gradient_norm=norm)
        if fault:
            self._end_broken(fault, losses)
        return Outlook(
            losses=losses,
            words=words,
            loss_watch=self._losses.state,
            good_step=self._losses.good_step(losses, words, step=self._training.step),
        )

    def show_samples(self) -> None:
        """Logs the model's predictions for some texts of the validation split."""
        training = self._training
        if self._chief:
            text = sample_table(training.model, training.config, training.dataset)
            self._run_log.samples(text, step=training.step)

    def validated(self, log_likelihood: float, words: int) -> None:
        """Reports a validation pass."""
        seconds = self._phases.take("validation")
        self._run_log.valid(
            step=self._training.step, log_likelihood=log_likelihood, words=words, seconds=seconds
        )

    def saved(self) -> None:
        """Reports a checkpoint."""
        seconds = self._phases.take("checkpoint")
        self._run_log.checkpoint(step=self._training.step, seconds=seconds)

    def finish(self, *, valid_perplexity: float | None) -> None:
        """Reports the end, and writes the word vectors for the projector."""
        training, vocab = self._training, self._training.dataset.vocab
        self._run_log.finish(step=training.step, valid_perplexity=valid_perplexity)
        if not self._chief:
            return
        try:
            write_projector(self._events, vectors=word_vectors(training.model, vocab), vocab=vocab)
        except OSError as error:  # the training itself is whole and saved
            log.warning("no word vectors for TensorBoard: %s", error)

    def _wait(self) -> None:
        if self._results:
            self._results[-1].loss.numpy()

    def close(self) -> None:
        """Ends a running profile."""
        self._profiler.close()

    def _end_broken(self, fault: Fault, losses: list[float]) -> NoReturn:
        """Saves the state, then raises CharloomError; all workers find the same fault."""
        training, config = self._training, self._training.config
        arrays = collect(training)
        batch, sources = read_batch(config, records=training.dataset.path, step=fault.step)
        folder = os.path.join(self._workdir, "broken", f"step-{fault.step}")
        saved = f"the state is saved in {folder}"
        if self._chief:
            aside = self._set_aside(fault)
            first = training.step - len(losses) + 1
            meta = {
                "reason": fault.reason,
                "state_step": training.step,
                "losses": {
                    first + at: loss if math.isfinite(loss) else str(loss)
                    for at, loss in enumerate(losses)
                },
                "sources": sources,
                "checkpoint_before": newest_checkpoint(self._workdir),
                "set_aside": aside,
                "dataset_digest": training.dataset.digest,
                "config": json.loads(to_json(config)),
            }
            try:
                dump_broken(self._workdir, step=fault.step, arrays=arrays, batch=batch, meta=meta)
            except OSError as error:
                saved = f"the state can't be saved in {folder} ({error.strerror})"
        # When one worker exits, the launcher stops the others: wait for the chief.
        training.cluster.wait_for_all()
        raise broken_error(fault, sources, saved=saved)

    def _set_aside(self, fault: Fault) -> list[str]:
        """Renames the diverged model's checkpoints so that no training resumes from them."""
        try:
            paths = set_aside(self._workdir, first_bad=fault.step)
        except OSError as error:
            log.warning("checkpoints of the diverged model can't be renamed: %s", error)
            return []
        if paths:
            log.warning(
                "set aside %d checkpoints of the diverged model: %s", len(paths), ", ".join(paths)
            )
        return paths
