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
    char_ids: Int32Array
    """`[U, W]` spellings of the distinct words read."""
    char_index: Int32Array
    """`[b, T]` which spelling each word read has."""
    fresh: npt.NDArray[np.bool_]
    """`[b]` whether the lane begins a record with a zero state."""
    records: Int32Array
    """`[b, T]` the record that each target comes from."""


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
        word_ids = np.full(shape, BOS_ID, np.int32)
        targets = np.zeros(shape, np.int32)
        weights = np.zeros(shape, np.float32)
        records = np.zeros(shape, np.int32)
        spellings = np.empty((*shape, self._width), np.uint16)
        spellings[:] = self._blank
        for lane, segments in enumerate(lanes):
            at = 0
            for segment in segments:
                ids, matrix = self._record(segment.record)
                stop = at + segment.stop - segment.start
                word_ids[lane, at:stop] = ids[segment.start : segment.stop]
                targets[lane, at:stop] = ids[segment.start + 1 : segment.stop + 1]
                spellings[lane, at:stop] = matrix[segment.start : segment.stop]
                records[lane, at:stop] = segment.record
                weights[lane, at:stop] = 1.0
                at = stop
        char_ids, char_index = _distinct(spellings.reshape(-1, self._width))
        return Batch(
            word_ids=word_ids,
            targets=targets,
            weights=weights,
            char_ids=char_ids,
            char_index=char_index.reshape(shape),
            fresh=np.asarray(fresh),
            records=records,
        )


def _distinct(spellings: npt.NDArray[np.uint16]) -> tuple[Int32Array, Int32Array]:
    """Returns the distinct rows `[U, W]` of `[N, W]`, and for each row which one it is `[N]`."""
    rows = np.ascontiguousarray(spellings)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first].astype(np.int32), index.astype(np.int32)


def train_batch(plan: TrainPlan, reader: LaneReader, step: int, lanes: range) -> Batch:
    """Returns what some lanes read at a training step."""
    return reader.batch([plan.segments(step, lane) for lane in lanes], [False] * len(lanes))


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
