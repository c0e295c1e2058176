"""Turns a plan and records into arrays: words, targets, distinct spellings and their index.

Records are kept as flat spellings; rows of W characters are built only for the U distinct words of
a batch. A known word is identified by its id, which determines its spelling, so only the few
unknown words are compared by spelling.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from model.data.plan import EvalPlan, Segment, TrainPlan
from model.data.records import Record
from model.data.target_sampling import SampledRows, TargetSampler
from model.text.spelling import spell, spelling_matrix, spread, truncate
from model.text.vocab import BOS_ID, DOCUMENT_START, UNK_ID

CACHED_RECORDS = 1024
CACHED_BYTES = 256 << 20
"""Limits of what a `LaneReader` keeps decoded, besides the record read last; a step that reads more
decodes some records again."""

Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one worker's lanes read in one step; b of the B lanes are its own."""

    word_ids: Int32Array
    """`[b, T]` words read."""
    targets: Int32Array
    """`[b, T]` words to predict."""
    weights: npt.NDArray[np.float32]
    """`[b, T]` 1 where there is a target, 0 in padding."""
    words: Int32Array
    """`[U]` ids of the distinct words read; unknown words are distinguished by spelling.

    Known words come first, by id, then unknown ones by spelling (its W characters), so the order
    depends only on the set. The first word is repeated at the end until U is one of the sizes of
    `padded_size`; `index` never points there.
    """
    char_ids: Int32Array
    """`[U, W]` their spellings."""
    index: Int32Array
    """`[b, T]` index of each word read among them."""
    fresh: npt.NDArray[np.bool_]
    """`[b]` whether the lane starts a record with a zero state."""
    records: Int32Array
    """`[b, T]` the record of each target."""
    rows: SampledRows | None = None
    """With the sampled softmax, the vocabulary rows that the step uses."""


def padded_size(distinct: int) -> int:
    """Returns U, the padded number of rows for `distinct` distinct words.

    There are eight sizes between successive powers of two: graphs and allocators see few shapes,
    and a batch has at most an eighth more rows than it needs.
    """
    step = max(1, (1 << max(distinct - 1, 0).bit_length()) // 16)
    return -(-distinct // step) * step


class RecordSource(Protocol):
    """A source of records, such as a `Dataset`."""

    def read(self, split: str, index: int) -> Record:
        """Returns one record of a split."""


class _Decoded(NamedTuple):
    """A decoded record."""

    word_ids: Int32Array
    """`[L + 1]`."""
    word_lengths: IntArray
    """`[L + 1]` character ids of each word, at most W - 2."""
    starts: IntArray
    """`[L + 2]` start of each word in `char_ids`, and the end of the last one."""
    char_ids: npt.NDArray[np.uint16]

    @property
    def size(self) -> int:
        """Bytes of its arrays."""
        return sum(array.nbytes for array in self)


def _decode(record: Record, max_word_bytes: int) -> _Decoded:
    char_ids, lengths = truncate(record.char_ids, record.word_lengths, max_word_bytes - 2)
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return _Decoded(record.word_ids.astype(np.int32), lengths, starts, char_ids.astype(np.uint16))


_BLANK = Record(
    word_ids=np.asarray([BOS_ID], np.int64),
    word_lengths=np.asarray([1], np.int64),
    char_ids=np.asarray(spell(DOCUMENT_START), np.int64),
    source="",
)
"""The word that padding reads."""


class LaneReader:
    """Reads the segments of a plan as arrays; caches decoded records."""

    def __init__(self, dataset: RecordSource, split: str, *, max_word_bytes: int, window: int):
        """Selects a split of a dataset, W and T."""
        self._dataset = dataset
        self._split = split
        self._width = max_word_bytes
        self._window = window
        self._cache: collections.OrderedDict[int, _Decoded] = collections.OrderedDict()
        self._cached_bytes = 0
        self._blank = _decode(_BLANK, max_word_bytes)

    def _record(self, index: int) -> _Decoded:
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        decoded = _decode(self._dataset.read(self._split, index), self._width)
        self._cache[index] = decoded
        self._cached_bytes += decoded.size
        while len(self._cache) > 1 and (
            len(self._cache) > CACHED_RECORDS or self._cached_bytes > CACHED_BYTES
        ):
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.size
        return decoded

    def batch(self, lanes: Sequence[Sequence[Segment]], fresh: Sequence[bool]) -> Batch:
        """Returns the batch of one step.

        Args:
          lanes: for each of b lanes, the segments it reads, at most T words.
          fresh: for each lane, whether its state starts at zero.
        """
        parts, places = self._parts(lanes), self._places(lanes)
        shape = (len(lanes), self._window)
        word_ids, targets = self._ids(parts, places, shape)
        weights, records = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
        weights.reshape(-1)[places] = 1.0
        records.reshape(-1)[places] = np.repeat(
            [segment.record for _, segment in parts], [s.stop - s.start for _, s in parts]
        )
        read = word_ids.reshape(-1)[places]
        if len(places) < word_ids.size:  # padding counts as another word, at the end
            parts.append((self._blank, Segment(0, 0, 1)))
            read = np.append(read, np.int32(BOS_ID))
        words, char_ids, numbers = self._distinct(parts, read)
        index = np.full(shape, numbers[-1], np.int32)
        index.reshape(-1)[places] = numbers[: len(places)]
        return Batch(
            word_ids=word_ids,
            targets=targets,
            weights=weights,
            words=words,
            char_ids=char_ids,
            index=index,
            fresh=np.asarray(fresh),
            records=records,
        )

    def ids(self, lanes: Sequence[Sequence[Segment]]) -> tuple[Int32Array, Int32Array]:
        """Returns the words `[b, T]` that the lanes read, and their targets `[b, T]`."""
        return self._ids(self._parts(lanes), self._places(lanes), (len(lanes), self._window))

    def _parts(self, lanes: Sequence[Sequence[Segment]]) -> list[tuple[_Decoded, Segment]]:
        return [(self._record(segment.record), segment) for one in lanes for segment in one]

    def _places(self, lanes: Sequence[Sequence[Segment]]) -> IntArray:
        """Returns `[n]` positions in `[b * T]` of the words that the lanes read."""
        sizes = np.asarray([sum(s.stop - s.start for s in one) for one in lanes], np.int64)
        return spread(np.arange(len(lanes)) * self._window, sizes)

    @staticmethod
    def _ids(
        parts: list[tuple[_Decoded, Segment]], places: IntArray, shape: tuple[int, int]
    ) -> tuple[Int32Array, Int32Array]:
        word_ids, targets = np.full(shape, BOS_ID, np.int32), np.zeros(shape, np.int32)
        if parts:
            for array, ahead in ((word_ids, 0), (targets, 1)):
                array.reshape(-1)[places] = np.concatenate(
                    [one.word_ids[s.start + ahead : s.stop + ahead] for one, s in parts]
                )
        return word_ids, targets

    def _distinct(
        self, parts: list[tuple[_Decoded, Segment]], word_ids: Int32Array
    ) -> tuple[Int32Array, Int32Array, IntArray]:
        """Finds the distinct words of segments; see `Batch` for their order.

        Ids matter too: two long words of the vocabulary may share their first W characters.

        Args:
          parts: the segments and their records.
          word_ids: `[n]` the words read.

        Returns:
          Ids `[U]` and spellings `[U, W]` of the distinct words, and the index of each word
          among them, `[n]`.
        """
        lengths = np.concatenate([one.word_lengths[s.start : s.stop] for one, s in parts])
        char_ids = np.concatenate(
            [one.char_ids[one.starts[s.start] : one.starts[s.stop]] for one, s in parts]
        )
        ends = np.cumsum(lengths)
        starts = ends - lengths
        keys = _number_unknown(word_ids, char_ids, starts, ends)
        _, first, numbers = np.unique(keys, return_index=True, return_inverse=True)
        first = np.append(first, np.full(padded_size(len(first)) - len(first), first[0]))
        spelled = char_ids[spread(starts[first], lengths[first])]
        matrix = spelling_matrix(spelled, lengths[first], self._width)
        return word_ids[first], matrix.astype(np.int32), numbers


def _number_unknown(
    word_ids: Int32Array, char_ids: npt.NDArray[np.uint16], starts: IntArray, ends: IntArray
) -> Int32Array:
    """Replaces the ids of unknown words by larger numbers, one per spelling.

    Args:
      word_ids: `[n]`.
      char_ids: flat spellings.
      starts: `[n]` start of each word in `char_ids`.
      ends: `[n]` end of each word.
    """
    places = np.flatnonzero(word_ids == UNK_ID)
    if not len(places):
        return word_ids
    data = char_ids.astype(">u2").tobytes()  # bytes compare as the characters do
    spellings = [
        data[start:end]
        for start, end in zip(
            (2 * starts[places]).tolist(), (2 * ends[places]).tolist(), strict=True
        )
    ]
    above = int(word_ids.max()) + 1
    numbers = {one: above + rank for rank, one in enumerate(sorted(set(spellings)))}
    keys = word_ids.copy()
    keys[places] = [numbers[one] for one in spellings]
    return keys


def train_batch(
    plan: TrainPlan,
    reader: LaneReader,
    step: int,
    lanes: range,
    *,
    sampler: TargetSampler | None = None,
) -> Batch:
    """Returns what some lanes read at a training step; `sampler` draws for all lanes."""
    segments = plan.step_segments(step)
    batch = reader.batch(segments[lanes.start : lanes.stop], [False] * len(lanes))
    if sampler is None:
        return batch
    word_ids, targets = batch.word_ids, batch.targets
    if len(lanes) < plan.lanes:
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
    """Yields `make(step)` for each step; prepares the next one while the current one is used."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        pending = None
        for step in steps:
            coming = pool.submit(make, step)
            if pending is not None:
                yield pending.result()
            pending = coming
        if pending is not None:
            yield pending.result()
