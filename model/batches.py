"""Plan and records to arrays: words, targets, distinct spellings and their index."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from model.plan import EvalPlan, Segment, TrainPlan
from model.records import Record
from model.sampling import Rows, TargetSampler
from model.vocab import BOS_ID, CHAR_BEGIN, CHAR_BOS, CHAR_END

Int32Array = npt.NDArray[np.int32]
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the lanes of one worker read in one step; b of the B lanes are its own."""

    word_ids: Int32Array
    """`[b, T]` words read."""
    targets: Int32Array
    """`[b, T]` words to predict."""
    weights: npt.NDArray[np.float32]
    """`[b, T]` 1 where there is a target, 0 in padding."""
    words: Int32Array
    """`[U]` ids of the distinct words read; unknown words are distinct by their spelling."""
    char_ids: Int32Array
    """`[U, W]` their spellings."""
    index: Int32Array
    """`[b, T]` which of them each word read is."""
    fresh: npt.NDArray[np.bool_]
    """`[b]` whether the lane begins a record with a zero state."""
    records: Int32Array
    """`[b, T]` the record that each target comes from."""
    rows: Rows | None = None
    """With the sampled softmax, the words that the step has to do with."""


def spelling_matrix(
    char_ids: npt.NDArray[np.int64], word_lengths: npt.NDArray[np.int64], max_word_bytes: int
) -> npt.NDArray[np.uint16]:
    """Lays flat spellings out as rows with begin and end marks.

    Args:
      char_ids: `[sum(word_lengths)]`.
      word_lengths: `[N]`.
      max_word_bytes: W; a longer word keeps its first W - 2 characters.

    Returns:
      `[N, W]`, padded with `CHAR_PAD` (0).
    """
    words = len(word_lengths)
    matrix = np.zeros((words, max_word_bytes), np.uint16)
    kept = np.minimum(word_lengths, max_word_bytes - 2)
    rows = np.repeat(np.arange(words), word_lengths)
    columns = np.arange(len(char_ids)) - np.repeat(
        np.cumsum(word_lengths) - word_lengths, word_lengths
    )
    inside = columns < kept[rows]
    matrix[:, 0] = CHAR_BEGIN
    matrix[rows[inside], columns[inside] + 1] = char_ids[inside]
    matrix[np.arange(words), kept + 1] = CHAR_END
    return matrix


class RecordSource(Protocol):
    """Where records come from; a `Dataset` is one."""

    def read(self, split: str, index: int) -> Record:
        """Returns one record of a split."""


class LaneReader:
    """Reads the segments of a plan as arrays; keeps the records in use decoded."""

    def __init__(self, dataset: RecordSource, split: str, *, max_word_bytes: int, window: int):
        """Binds a split of a dataset to W and T."""
        self._dataset = dataset
        self._split = split
        self._width = max_word_bytes
        self._window = window
        self._cache: collections.OrderedDict[
            int, tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]
        ] = collections.OrderedDict()
        self._blank = spelling_matrix(
            np.asarray([CHAR_BOS], np.int64), np.asarray([1], np.int64), max_word_bytes
        )

    def _record(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        record = self._dataset.read(self._split, index)
        decoded = (
            record.word_ids,
            spelling_matrix(record.char_ids, record.word_lengths, self._width),
        )
        self._cache[index] = decoded
        if len(self._cache) > 1024:
            self._cache.popitem(last=False)
        return decoded

    def batch(self, lanes: list[list[Segment]], fresh: list[bool]) -> Batch:
        """Returns the batch of one step.

        Args:
          lanes: for each of b lanes the segments it reads, T words at most.
          fresh: for each lane, whether its state starts at zero.
        """
        shape = (len(lanes), self._window)
        word_ids, targets = self.ids(lanes)
        weights = np.zeros(shape, np.float32)
        records = np.zeros(shape, np.int32)
        spellings = np.empty((*shape, self._width), np.uint16)
        spellings[:] = self._blank
        for lane, segments in enumerate(lanes):
            at = 0
            for segment in segments:
                _, matrix = self._record(segment.record)
                stop = at + segment.stop - segment.start
                spellings[lane, at:stop] = matrix[segment.start : segment.stop]
                records[lane, at:stop] = segment.record
                weights[lane, at:stop] = 1.0
                at = stop
        words, char_ids, index = _distinct(word_ids.ravel(), spellings.reshape(-1, self._width))
        return Batch(
            word_ids=word_ids,
            targets=targets,
            weights=weights,
            words=words,
            char_ids=char_ids,
            index=index.reshape(shape),
            fresh=np.asarray(fresh),
            records=records,
        )

    def ids(self, lanes: list[list[Segment]]) -> tuple[Int32Array, Int32Array]:
        """Returns the words `[b, T]` that lanes read, and their targets `[b, T]`."""
        word_ids = np.full((len(lanes), self._window), BOS_ID, np.int32)
        targets = np.zeros_like(word_ids)
        for lane, segments in enumerate(lanes):
            at = 0
            for segment in segments:
                ids, _ = self._record(segment.record)
                stop = at + segment.stop - segment.start
                word_ids[lane, at:stop] = ids[segment.start : segment.stop]
                targets[lane, at:stop] = ids[segment.start + 1 : segment.stop + 1]
                at = stop
        return word_ids, targets


def _distinct(
    word_ids: Int32Array, spellings: npt.NDArray[np.uint16]
) -> tuple[Int32Array, Int32Array, Int32Array]:
    """Finds the distinct words among `[N]` ids with their spellings `[N, W]`.

    Ids count too: of two long words of the vocabulary W characters may be the same.

    Returns:
      Their ids `[U]` and spellings `[U, W]`, and which of them each word is, `[N]`.
    """
    rows = np.concatenate([word_ids[:, np.newaxis].view(np.uint16), spellings], axis=1)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    return word_ids[first], spellings[first].astype(np.int32), index.astype(np.int32)


def train_batch(
    plan: TrainPlan,
    reader: LaneReader,
    step: int,
    lanes: range,
    *,
    sampler: TargetSampler | None = None,
) -> Batch:
    """Returns what some lanes read at a training step; `sampler` draws at random for all lanes."""
    segments = [plan.segments(step, lane) for lane in range(plan.lanes)]
    batch = reader.batch(segments[lanes.start : lanes.stop], [False] * len(lanes))
    if sampler is None:
        return batch
    word_ids, targets = reader.ids(segments)
    targets = sampler.replace(targets, step=step)
    own = targets[lanes.start : lanes.stop]
    rows = None
    if sampler.is_sampled:
        used = np.concatenate([word_ids.ravel(), targets.ravel()])
        rows = sampler.rows(step=step, used=used, words=batch.words, targets=own)
    return dataclasses.replace(batch, targets=own, rows=rows)


def eval_batch(plan: EvalPlan, reader: LaneReader, step: int, lanes: range) -> Batch:
    """Returns what some lanes read at an evaluation step."""
    segments = [plan.segment(step, lane) for lane in lanes]
    return reader.batch(
        [[segment] if segment else [] for segment in segments],
        [segment is None or segment.start == 0 for segment in segments],
    )


def prefetch(make: Callable[[int], Made], steps: range) -> Iterator[Made]:
    """Yields `make(step)` for each step, the next one made while this one is used."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        pending = None
        for step in steps:
            coming = pool.submit(make, step)
            if pending is not None:
                yield pending.result()
            pending = coming
        if pending is not None:
            yield pending.result()
