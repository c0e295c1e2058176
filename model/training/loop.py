"""The training loop: runs steps, reports, validation passes and checkpoints."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from model.checkpointing.save_time import note_save, save_limit
from model.config import TrainConfig
from model.data.batches import Batch, LaneReader, eval_batch, prefetch, train_batch
from model.data.plan import EvalPlan, TrainPlan
from model.data.target_sampling import TargetSampler
from model.distributed.stop_signals import StopVote
from model.distributed.watchdog import Watchdog
from model.network.forward import batch_inputs
from model.training.carry_over import is_due
from model.training.optimizer import learning_rate
from model.training.reporter import Reporter
from model.training.state import Training, checkpoint_bytes, deal_state, distribute, save
from model.training.weight_average import enters_average

log = logging.getLogger(__name__)


class TrainLoop:
    """The training loop on one worker; all workers do the same in the same order.

    A resumed training continues as if it had never been interrupted: it makes up for a validation
    pass that was cut short, and reports include the steps from before the interruption.
    """

    def __init__(
        self,
        training: Training,
        workdir: str,
        reporter: Reporter,
        *,
        vote: StopVote,
        watchdog: Watchdog,
    ):
        """Opens the records.

        Args:
          training: built, and restored if there was a checkpoint.
          workdir: the training's folder.
          reporter: follows the run.
          vote: decides when to save and stop.
          watchdog: receives a sign of progress at every step.
        """
        config, dataset = training.config.train, training.dataset
        width = training.config.model.max_word_bytes
        self._training, self._workdir, self._reporter = training, workdir, reporter
        self._config, self._vote, self._watchdog = config, vote, watchdog
        self._plan = TrainPlan(
            dataset.lengths("train"), lanes=config.lanes, window=config.window, seed=config.seed
        )
        log.info("%s", self._plan.describe())
        self._valid_plan = EvalPlan(
            dataset.lengths("valid"), lanes=config.lanes, window=config.window
        )
        self._reader, self._valid_reader = (
            LaneReader(dataset, split, max_word_bytes=width, window=config.window)
            for split in ("train", "valid")
        )
        self._sampler = TargetSampler(config, dataset.vocab.counts)
        self._slow = True
        self._save_seconds = 0.0
        self._bytes = checkpoint_bytes(training)

    def run(self) -> None:
        """Trains to the last step; validates, saves and reports as the config says.

        Raises:
          StoppedError: a worker was asked to stop; the training is saved.
          CharloomError: the training diverged.
        """
        training, vote, reporter = self._training, self._vote, self._reporter
        if self._settle(restored=True):
            return
        self._note_save()
        steps = range(training.step, self._config.steps)
        vote.begin_phase()
        for batches in reporter.batches(prefetch(self._make, steps)):
            self._train(batches)
            if vote():
                self._leave()
            if self._settle():
                return

    def _make(self, step: int) -> list[Batch]:
        return [
            train_batch(self._plan, self._reader, step, own, sampler=self._sampler)
            for own in self._training.lanes
        ]

    def _train(self, batches: list[Batch]) -> None:
        training, config = self._training, self._config
        self._watchdog.beat(f"step {training.step + 1}", slow=self._slow)
        rate = learning_rate(config, training.step, setbacks=count_setbacks(training.history))
        with self._reporter.step():
            result = training.steps.train(
                local_inputs(training, batches),
                training.state,
                step=tf.constant(training.step, tf.int32),
                rate=tf.constant(rate, tf.float32),
            )
        training.state, training.valid = result.state, None
        training.step += 1
        training.is_rebased = False
        self._slow = False
        self._reporter.stepped(result)
        if training.average and enters_average(config, training.step):
            training.average.add()
        if training.step % config.log_steps == 0 or training.step == config.steps:
            self._reporter.report(rate=rate)

    def _settle(self, *, restored: bool = False) -> bool:
        """Validates and saves if due at this step.

        Args:
          restored: the step is from a checkpoint, or 0; then only a validation pass that was cut
            short is due.

        Returns:
          Whether the training has ended.
        """
        training, config = self._training, self._config
        if not training.step:
            return False
        last = training.step == config.steps
        due = is_due(config, training.step)
        validates = bool(due and self._valid_plan.steps and not training.valid)
        if validates:
            self._validate()
        last = last or bool(training.valid and is_settled(config, training.history))
        saves = training.step % config.checkpoint_steps == 0 or last
        # Where the average was dropped, the shorter training's checkpoint stays as it is.
        if (validates and not training.is_rebased) or (saves and not restored):
            stops = self._save()
            if stops and not last:
                self._raise_stopped()
        return last

    def _validate(self) -> None:
        training, reporter = self._training, self._reporter
        with reporter.aside("validation"), use_average(training):
            training.valid = self._score()
            if training.valid:
                reporter.show_samples()
        if not training.valid:
            self._leave()
        training.scores[training.step] = training.valid[0] / training.valid[1]
        reporter.validated(*training.valid)
        self._vote.begin_phase()

    def _score(self) -> tuple[float, int] | None:
        """Scores the validation split; all workers call it, each for its own lanes.

        Returns:
          Log-likelihood and words over all workers; None if they were asked to stop.
        """
        training, plan = self._training, self._valid_plan
        shape = (self._config.lanes, *training.model.zero_state(1).shape[1:])
        state = deal_state(training, np.zeros(shape, np.float32))
        loss, words = 0.0, 0

        def make(step: int) -> list[Batch]:
            return [eval_batch(plan, self._valid_reader, step, own) for own in training.lanes]

        self._vote.begin_phase()
        for index, batches in enumerate(prefetch(make, range(plan.steps))):
            self._watchdog.beat(f"the validation pass of step {training.step}", slow=index == 0)
            result = training.steps.evaluate(local_inputs(training, batches), state)
            state = result.state
            loss += float(result.loss)
            words += int(result.words)
            if self._vote():
                return None
        return -loss, words

    def _save(self) -> bool:
        """Saves; returns on all workers once worker 0 has written, and whether to stop then."""
        training = self._training
        outlook = self._reporter.check()  # never save a diverged model
        limit = save_limit(self._bytes, self._save_seconds)
        self._watchdog.beat(f"saving step {training.step}", seconds=limit)
        started = time.monotonic()
        self._note_save(saving=True)
        with self._reporter.aside("checkpoint"), self._vote.saving():
            save(training, self._workdir, outlook=outlook)
            stops = self._vote.at_once()
        self._save_seconds = time.monotonic() - started
        self._note_save()
        self._reporter.saved()
        return stops

    def _note_save(self, *, saving: bool = False) -> None:
        """Lets the launcher know how long a save may take, and whether one is under way."""
        if self._training.cluster.is_chief:
            note_save(self._workdir, size=self._bytes, seconds=self._save_seconds, saving=saving)

    def _leave(self) -> NoReturn:
        """Saves and raises StoppedError, on all workers at the same step."""
        self._save()
        self._raise_stopped()

    def _raise_stopped(self) -> NoReturn:
        # When one worker exits, the launcher stops the others: wait for the chief.
        self._training.cluster.wait_for_all()
        raise self._vote.error(f"stopped and saved at step {self._training.step}")


def use_average(training: Training) -> contextlib.AbstractContextManager[None]:
    """Uses the averaged weights, if there are any, for the duration of the context."""
    return training.average.in_use() if training.average else contextlib.nullcontext()


def count_setbacks(history: Sequence[float]) -> int:
    """Returns how many validation passes did not improve on the best before them."""
    return sum(value <= max(history[:at]) for at, value in enumerate(history) if at)


def is_settled(config: TrainConfig, history: Sequence[float]) -> bool:
    """Returns whether the last `patience` validation passes brought no improvement."""
    if not config.patience or len(history) <= config.patience:
        return False
    return max(history[-config.patience :]) <= max(history[: -config.patience])


def local_inputs(training: Training, batches: list[Batch]) -> Any:
    """Gives each local replica its batch, as tensors."""
    return distribute(
        training,
        [
            batch_inputs(batch, first_lane=lanes.start)
            for batch, lanes in zip(batches, training.lanes, strict=True)
        ],
    )
