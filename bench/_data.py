"""Input of the benchmarks: records of a corpus, and the same words as arrays for PyTorch."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from model.config import CONFIG_VERSION, Config, DataConfig, to_dict, with_overrides
from model.data.batches import Batch, LaneReader, eval_batch, train_batch
from model.data.plan import EvalPlan, TrainPlan
from model.data.records import Dataset
from model.errors import InputError
from model.presets import get_preset
from model.text.spelling import NUM_CHARS
from model.training.optimizer import learning_rate

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BROWN = os.path.join(ROOT, os.pardir, "shared", "data", "brown")
CACHE = os.path.join(tempfile.gettempdir(), "charloom-bench")
VERSION = {"config_version": CONFIG_VERSION}
"""What `from_json` requires besides the fields."""
VOCAB_SIZE = 16384
RECORD_WORDS = 8192


def open_corpus(*, vocab: str = "built", max_words: int = VOCAB_SIZE) -> Dataset:
    """Opens Brown, prepared once into a temporary folder, or else the demo's corpus.

    Brown is trained on train.txt and validated on valid.txt.

    Args:
      vocab: `built` from the most frequent words, or `given`: the Brown protocol's vocabulary.
      max_words: V of a built vocabulary.
    """
    from components.preprocess.main import run  # imports Beam, which takes seconds

    files: dict[str, Any]
    brown = os.path.exists(os.path.join(BROWN, "train.txt"))
    config = DataConfig(
        tokenizer="whitespace",
        sentence_marks=False,
        record_words=RECORD_WORDS if brown else 256,
        vocab_size=max_words,
        test_fraction=0.0,
    )
    if brown:
        name = "brown"
        splits = ("train", "valid")
        files = {split: [os.path.join(BROWN, f"{split}.txt")] for split in splits}
    else:
        from pipelines.local.demo import write_corpus

        name, vocab = "pydoc", "built"
        files = {"inputs": [write_corpus(os.path.join(CACHE, "pydoc"))]}
    given = os.path.join(BROWN, "vocab.txt") if vocab == "given" else ""
    records = os.path.join(CACHE, f"{name}-{vocab}-{max_words}")
    say(f"records of {name} in {records}")

    def prepare() -> None:
        with contextlib.redirect_stdout(sys.stderr):
            run(**files, vocab=given, records=records, config=config)

    try:
        prepare()
    except InputError:  # possibly from an older charloom or another text
        if not os.path.isdir(records):
            raise
        shutil.rmtree(records)
        prepare()
    return Dataset.open(records)


def add_options(parser: argparse.ArgumentParser, *, preset: str) -> None:
    """Adds the options of all scripts: --preset and --set."""
    parser.add_argument("--preset", default=preset, help="default: %(default)s")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="as for charloom train"
    )


def read_config(options: argparse.Namespace, dataset: Dataset) -> Config:
    """Returns the config of `add_options`, with the records' data section."""
    config = with_overrides(get_preset(options.preset), options.set)
    return dataclasses.replace(config, data=dataset.config)


class _Spellings:
    """Numbers the distinct spellings of many batches."""

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._rows: list[npt.NDArray[np.int32]] = []

    def index(self, batch: Batch) -> npt.NDArray[np.int32]:
        """Returns `[b, T]` the number of each word's spelling."""
        numbers = []
        for row in batch.char_ids:
            key = row.tobytes()
            if key not in self._ids:
                self._ids[key] = len(self._rows)
                self._rows.append(row)
            numbers.append(self._ids[key])
        return np.asarray(numbers, np.int32)[batch.index]

    def matrix(self) -> npt.NDArray[np.int32]:
        """Returns `[spellings, W]`."""
        return np.stack(self._rows)


def valid_plan(dataset: Dataset, config: Config, *, valid_words: int = 0) -> EvalPlan:
    """Plans the validation split, or its first records of at least `valid_words` words."""
    lengths = dataset.lengths("valid")
    if valid_words:
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), valid_words)) + 1]
    return EvalPlan(lengths, lanes=config.train.lanes, window=config.train.window)


def export_job(
    folder: str,
    *,
    config: Config,
    dataset: Dataset,
    steps: int,
    loss: str,
    threads: int = 2,
    cutoffs: tuple[int, ...] = (),
    valid_words: int | None = None,
) -> str:
    """Writes the input of `_torch_model.py`: the words of our own training steps.

    Args:
      folder: receives job.json and arrays.npz.
      config: sizes, lanes, window, schedule.
      dataset: the records.
      steps: number of steps exported; longer trainings start over.
      loss: `full` or `adaptive`.
      threads: number of PyTorch threads.
      cutoffs: of the adaptive softmax.
      valid_words: None omits validation, 0 exports all of it.

    Returns:
      The path of job.json.
    """
    spellings = _Spellings()
    arrays = _train_arrays(config, dataset, steps=steps, spellings=spellings)
    if valid_words is not None:
        plan = valid_plan(dataset, config, valid_words=valid_words)
        arrays |= _valid_arrays(config, dataset, plan=plan, spellings=spellings)
    arrays["spellings"] = spellings.matrix()
    path = os.path.join(folder, f"{loss}.npz")
    np.savez(path, **arrays)
    job = {
        "arrays": path,
        "model": to_dict(config.model),
        "dropout": [
            config.model.input_dropout,
            config.model.hidden_dropout,
            config.model.output_dropout,
        ],
        "train": to_dict(config.train),
        "vocab_size": len(dataset.vocab),
        "num_chars": NUM_CHARS,
        "loss": loss,
        "cutoffs": list(cutoffs),
        "threads": threads,
    }
    return write_job(os.path.join(folder, f"{loss}.json"), job)


def write_job(path: str, job: dict[str, Any]) -> str:
    """Writes a job as JSON; returns its path."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(job, file, indent=1)
    return path


def _train_arrays(
    config: Config, dataset: Dataset, *, steps: int, spellings: _Spellings
) -> dict[str, Any]:
    train = config.train
    plan = TrainPlan(
        dataset.lengths("train"), lanes=train.lanes, window=train.window, seed=train.seed
    )
    reader = _reader(config, dataset, "train")
    batches = (train_batch(plan, reader, step, range(train.lanes)) for step in range(steps))
    rows = [(batch.word_ids, batch.targets, spellings.index(batch)) for batch in batches]
    names = ("word_ids", "targets", "char_index")
    arrays = {
        name: np.stack(part) for name, part in zip(names, zip(*rows, strict=True), strict=True)
    }
    rates = [learning_rate(train, step) for step in range(steps)]
    return {**arrays, "rates": np.asarray(rates, np.float64)}


def _valid_arrays(
    config: Config, dataset: Dataset, *, plan: EvalPlan, spellings: _Spellings
) -> dict[str, Any]:
    reader = _reader(config, dataset, "valid")
    lanes = range(config.train.lanes)
    batches = [eval_batch(plan, reader, step, lanes) for step in range(plan.steps)]
    return {
        "valid_word_ids": np.stack([batch.word_ids for batch in batches]),
        "valid_targets": np.stack([batch.targets for batch in batches]),
        "valid_weights": np.stack([batch.weights for batch in batches]),
        "valid_fresh": np.stack([batch.fresh for batch in batches]),
        "valid_char_index": np.stack([spellings.index(batch) for batch in batches]),
    }


def _reader(config: Config, dataset: Dataset, split: str) -> LaneReader:
    return LaneReader(
        dataset, split, max_word_bytes=config.model.max_word_bytes, window=config.train.window
    )


def say(text: str) -> None:
    """Prints progress to stderr."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
