"""Words/s from records on disk to batches, and seconds to a distant step, on one core.

The records are synthetic: 2 million words drawn by Zipf's law, some unknown, some not ASCII, some
longer than W. A block reads a different epoch, from a newly opened data set (its shards are in
the operating system's cache). Kinds of blocks take turns; `core_share` is the share of the time
in which this program had the core to itself.

  batches   output of `model.data.batches.train_batch`: words, targets, distinct spellings, index
  sampled   the same plus the draws of the sampled softmax for each step
  far step  from the index file of a billion words to the words of all lanes at step 1,000,000
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from bench import _data, _sides
from model.config import CONFIG_VERSION, Config, DataConfig, to_dict, with_overrides
from model.data.batches import LaneReader, train_batch
from model.data.example_writer import frame
from model.data.plan import TrainPlan
from model.data.records import (
    FORMAT_VERSION,
    INFO_FILE,
    SPLITS,
    VOCAB_FILE,
    Dataset,
    encode_record,
    load_index,
    save_index,
    shard_name,
)
from model.data.target_sampling import TargetSampler
from model.files import COMPLETED_FILE
from model.presets import get_preset
from model.text.vocab import DOCUMENT_START, Vocabulary

WORDS, RECORD_WORDS = 2_000_000, 1000
TYPES = 30_000
"""Distinct words of the text; with `_data.VOCAB_SIZE` of them known, about 6 % are unknown."""
SHARDS = 4
FAR_RECORDS, FAR_STEP = 1_000_000, 1_000_000


def main() -> None:
    """Measures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    _data.add_options(parser, preset="small")
    parser.add_argument("--blocks", type=int, default=7, help="blocks of each kind (default: 7)")
    options = parser.parse_args()
    os.sched_setaffinity(0, _sides.choose_cores(1))
    config = with_overrides(get_preset(options.preset), options.set)
    with tempfile.TemporaryDirectory(prefix="charloom-bench-") as folder:
        _data.say(f"records of {WORDS:,} words")
        records = os.path.join(folder, "records")
        info = write_records(records)
        far = write_far_index(folder)
        kinds: dict[str, Callable[[int], float]] = {
            "batches": lambda block: read_epoch(records, config, epoch=block, sampled=False),
            "sampled": lambda block: read_epoch(records, config, epoch=block, sampled=True),
            "far step": lambda block: reach_step(folder, far, config, seed=block),
        }
        found, share = measure(kinds, blocks=options.blocks)
        rows = mean_rows(records, config)
    train = info["splits"]["train"]
    _sides.print_result(
        words_per_second=_sides.median(found["batches"]),
        words_per_second_sampled=_sides.median(found["sampled"]),
        seconds_to_step_1000000=_sides.median(found["far step"]),
        preset=options.preset,
        lanes=config.train.lanes,
        window=config.train.window,
        max_word_bytes=config.model.max_word_bytes,
        vocabulary=info["vocab"]["size"],
        words=train["words"],
        records=train["records"],
        unknown_rate=round(train["unknown_words"] / train["words"], 4),
        rows_per_batch=round(rows, 1),
        core_share=round(share, 3),
        blocks={kind: [float(f"{one:.4g}") for one in values] for kind, values in found.items()},
    )


def measure(
    kinds: dict[str, Callable[[int], float]], *, blocks: int
) -> tuple[dict[str, list[float]], float]:
    """Runs blocks of each kind in turn, after a warm-up block of each.

    Returns:
      Results of the blocks by kind, and the share of the core that this program had.
    """
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    started = time.perf_counter(), time.process_time()
    for block in range(blocks + 1):
        for kind, run in kinds.items():
            value = run(block)
            _data.say(f"block {block} of {blocks}: {kind} {value:.5g}")
            if block:
                found[kind].append(value)
    share = (time.process_time() - started[1]) / (time.perf_counter() - started[0])
    if share < 0.9:
        _data.say(f"warning: other programs took {1 - share:.0%} of the core; figures are too low")
    return found, share


def read_epoch(records: str, config: Config, *, epoch: int, sampled: bool) -> float:
    """Builds the batches of an epoch; returns words/s."""
    train = config.train
    with Dataset.open(records) as dataset:
        sampler = TargetSampler(train, dataset.vocab.counts) if sampled else None
        started = time.perf_counter()
        plan, reader = open_plan(dataset, config)
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        for step in steps:
            train_batch(plan, reader, step, range(train.lanes), sampler=sampler)
        seconds = time.perf_counter() - started
    return len(steps) * train.lanes * train.window / seconds


def open_plan(dataset: Dataset, config: Config) -> tuple[TrainPlan, LaneReader]:
    """Returns the plan and reader of a training's batches."""
    train, width = config.train, config.model.max_word_bytes
    plan = TrainPlan(
        dataset.lengths("train"), lanes=train.lanes, window=train.window, seed=train.seed
    )
    return plan, LaneReader(dataset, "train", max_word_bytes=width, window=train.window)


def mean_rows(records: str, config: Config, *, steps: int = 50) -> float:
    """Returns U, the mean over some batches."""
    with Dataset.open(records) as dataset:
        plan, reader = open_plan(dataset, config)
        lanes = range(config.train.lanes)
        return float(
            np.mean([len(train_batch(plan, reader, at, lanes).words) for at in range(steps)])
        )


def reach_step(folder: str, info: dict[str, Any], config: Config, *, seed: int) -> float:
    """Returns the seconds from a split's index on disk to the segments of `FAR_STEP`."""
    train = config.train
    started = time.perf_counter()
    _, lengths = load_index(folder, info)
    plan = TrainPlan(lengths, lanes=train.lanes, window=train.window, seed=seed)
    segments = plan.step_segments(FAR_STEP)
    seconds = time.perf_counter() - started
    assert sum(s.stop - s.start for lane in segments for s in lane) == train.lanes * train.window
    return seconds


def write_far_index(folder: str) -> dict[str, Any]:
    """Writes the index of a billion words; returns the split's entry in dataset.json."""
    lengths = np.random.default_rng(4).integers(500, 1501, FAR_RECORDS)
    offsets = np.cumsum(7 * lengths) - 7 * lengths
    return {
        "index": save_index(folder, "train", [np.stack([offsets, lengths], axis=1)]),
        "shards": [{"records": FAR_RECORDS}],
    }


def write_records(folder: str) -> dict[str, Any]:
    """Writes a records folder for `Dataset.open`; returns its dataset.json."""
    words, drawn = spell_words(TYPES), draw_words()
    counts = dict(zip(words, np.bincount(drawn, minlength=TYPES).tolist(), strict=True))
    vocab = Vocabulary.build(counts, max_size=_data.VOCAB_SIZE, min_count=1)
    lengths = draw_lengths(len(drawn))
    os.makedirs(folder)
    vocab.save(os.path.join(folder, VOCAB_FILE))
    known = np.asarray([word in vocab.ids for word in words])
    ends = np.cumsum(lengths)
    stream = [DOCUMENT_START, *(words[at] for at in drawn.tolist())]
    texts = [
        stream[end - size : end + 1]
        for end, size in zip(ends.tolist(), lengths.tolist(), strict=True)
    ]
    parts: dict[str, list[list[list[bytes]]]] = {split: [] for split in SPLITS}
    parts["train"] = [texts[at::SHARDS] for at in range(SHARDS)]
    info: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "config_version": CONFIG_VERSION,
        "config": to_dict(DataConfig()),
        "vocab": {"size": len(vocab), "sha256": vocab.digest},
        "splits": {
            split: write_split(folder, split, shards, vocab) for split, shards in parts.items()
        },
        "digest": "bench",
    }
    info["splits"]["train"]["unknown_words"] = int((~known[drawn]).sum())
    for name, text in ((INFO_FILE, json.dumps(info)), (COMPLETED_FILE, "bench\n")):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    return info


def write_split(
    folder: str, split: str, shards: Sequence[Sequence[Sequence[bytes]]], vocab: Vocabulary
) -> dict[str, Any]:
    """Writes the shards of a split, each a list of records' words, and its index."""
    rows: list[tuple[int, int]] = []
    entries = []
    for number, texts in enumerate(shards):
        name, size = shard_name(split, number, len(shards)), 0
        with tf.io.TFRecordWriter(os.path.join(folder, name)) as writer:
            for text in texts:
                data = encode_record(text, vocab, source=f"synthetic:{len(rows)}")
                writer.write(data)
                rows.append((size, len(text) - 1))
                size += len(frame(data))
        entries.append({"file": name, "records": len(texts), "bytes": size})
    index = save_index(folder, split, [np.asarray(rows, np.int64).reshape(-1, 2)])
    words = sum(length for _, length in rows)
    return {"records": len(rows), "words": words, "shards": entries, "index": index}


def draw_words() -> npt.NDArray[np.int64]:
    """Returns `[WORDS]` the index among the `TYPES` of each word of the text, by Zipf's law."""
    weights = 1.0 / np.arange(1, TYPES + 1)
    return np.random.default_rng(1).choice(TYPES, size=WORDS, p=weights / weights.sum())


def draw_lengths(words: int) -> npt.NDArray[np.int64]:
    """Returns the words of each record, about `RECORD_WORDS`; they add up to `words`."""
    half = RECORD_WORDS // 2
    drawn = np.random.default_rng(3).integers(half, 3 * half + 1, 1 + words // half)
    ends = np.cumsum(drawn)
    ends = np.append(ends[ends < words], words)
    return np.diff(ends, prepend=0)


def spell_words(count: int) -> list[bytes]:
    """Returns distinct words, the frequent ones short; some not ASCII, some very long."""
    generator = np.random.default_rng(2)
    letters = [chr(code).encode() for code in range(ord("a"), ord("z") + 1)]
    accented = [*letters, *("é ü ß ñ".encode().split())]
    words: dict[bytes, None] = {}
    while len(words) < count:
        rank = len(words)
        length = min(12, 2 + int(np.log10(rank + 1) * 1.7))
        if rank % 500 == 499:
            length = 40
        of = accented if rank % 50 == 49 else letters
        words[b"".join(of[at] for at in generator.integers(0, len(of), length))] = None
    return list(words)


if __name__ == "__main__":
    _sides.run_main(main)
