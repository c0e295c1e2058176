"""Our trainer as a program with the commands of `bench/_torch_model.py`.

Host work (reading, batching, transfers) is timed, as in a training. The job names config and
records; `words` counts what this process's group trained on. All workers of a group get the same
lines.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench._data import valid_plan
from model.config import from_json
from model.data.records import Dataset
from model.distributed.cluster import join_cluster


class Program:
    """A training that advances on request."""

    def __init__(self, job: dict[str, Any]):
        """Takes a job of `write_job`: config, records, threads, valid_words."""
        cluster = join_cluster(threads=job["threads"])
        config = from_json(json.dumps(job["config"]))
        dataset = Dataset.open(job["records"])
        # Drives a training like model/training/loop.py; nothing else here depends on it.
        from model.data.batches import LaneReader, prefetch, train_batch
        from model.data.plan import TrainPlan
        from model.data.target_sampling import TargetSampler
        from model.training.state import build_training

        self._training = training = build_training(config, dataset, cluster)
        train, width = config.train, config.model.max_word_bytes
        plan = TrainPlan(
            dataset.lengths("train"), lanes=train.lanes, window=train.window, seed=train.seed
        )
        reader = LaneReader(dataset, "train", max_word_bytes=width, window=train.window)
        self._valid_plan = valid_plan(dataset, config, valid_words=job.get("valid_words", 0))
        self._valid_reader = LaneReader(dataset, "valid", max_word_bytes=width, window=train.window)
        sampler = TargetSampler(train, dataset.vocab.counts)
        self._batches: Iterator[Any] = prefetch(
            lambda step: [
                train_batch(plan, reader, step, own, sampler=sampler) for own in training.lanes
            ],
            range(1 << 30),
        )
        self._words = train.lanes * train.window
        self._state_shape = (train.lanes, *training.model.zero_state(1).shape[1:])

    def _train_step(self) -> Any:
        """Starts one step; returns its loss, possibly not computed yet."""
        import tensorflow as tf

        from model.training.loop import local_inputs
        from model.training.optimizer import learning_rate

        training = self._training
        result = training.steps.train(
            local_inputs(training, next(self._batches)),
            training.state,
            step=tf.constant(training.step, tf.int32),
            rate=tf.constant(learning_rate(training.config.train, training.step), tf.float32),
        )
        training.state = result.state
        training.step += 1
        return result.loss

    def train(self, *, steps: int = 0, seconds: float = 0.0) -> dict[str, float]:
        """Trains for some steps, or for at least some seconds."""
        losses: list[Any] = []
        start = time.perf_counter()
        while len(losses) < steps or (not steps and time.perf_counter() - start < seconds):
            losses.append(self._train_step())
            if len(losses) > 1:
                float(losses[-2])  # keeps the clock from running ahead of the steps
        loss = sum(float(one) for one in losses)
        return {
            "steps": len(losses),
            "words": len(losses) * self._words,
            "seconds": time.perf_counter() - start,
            "loss": loss,
        }

    def evaluate(self) -> dict[str, float]:
        """Scores the validation words by the full softmax."""
        from model.data.batches import eval_batch, prefetch
        from model.training.loop import local_inputs
        from model.training.state import deal_state

        training, plan = self._training, self._valid_plan
        state = deal_state(training, np.zeros(self._state_shape, np.float32))
        loss, words, start = 0.0, 0, time.perf_counter()

        def make(step: int) -> list[Any]:
            return [eval_batch(plan, self._valid_reader, step, own) for own in training.lanes]

        for batches in prefetch(make, range(plan.steps)):
            result = training.steps.evaluate(local_inputs(training, batches), state)
            state = result.state
            loss += float(result.loss)
            words += int(result.words)
        return {"loss": loss, "words": words, "seconds": time.perf_counter() - start}


def main() -> None:
    """Answers commands until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", required=True, help="JSON file of bench/_data.py")
    with open(parser.parse_args().job, encoding="utf-8") as file:
        program = Program(json.load(file))
    print(json.dumps({"ready": "charloom"}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(program, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
