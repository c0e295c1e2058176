"""Which words each lane reads at each step: pure functions of lengths, seed and step.

Training concatenates the records of an epoch in shuffled order and cuts the stream into B equal
lanes of S steps of T words. The remainder at the end of the stream, less than the B * T words of
another step, is not read in that epoch; other epochs have another order and leave out other words
(`TrainPlan.dropped_words` counts them; nothing else is left out). Where no order could reach the
end of the longest record, as with a single record, each epoch starts further on in the stream,
which then wraps around. Nothing here depends on the number of workers, and any step can be computed
without reading the ones before.
"""

from __future__ import annotations

import functools
import heapq
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.errors import InputError

IntArray = npt.NDArray[np.int64]


def own_lanes(lanes: int, *, index: int, count: int) -> range:
    """Returns the contiguous lanes that one of `count` replicas owns.

    Raises:
      InputError: the lanes can't be divided evenly.
    """
    if lanes % count:
        raise InputError(
            f"train.lanes is {lanes}, which is not divisible by {count} workers; "
            f"use --set train.lanes={nearest_lanes(lanes, count=count)}"
        )
    share = lanes // count
    return range(index * share, (index + 1) * share)


def nearest_lanes(lanes: int, *, count: int) -> int:
    """Returns about as many lanes that `count` replicas can share."""
    return max(1, round(lanes / count)) * count


class Segment(NamedTuple):
    """Words `start` to `stop` of one record; word 0 is the first one predicted."""

    record: int
    start: int
    stop: int


class TrainPlan:
    """Stateful truncated back-propagation through time over shuffled records."""

    def __init__(self, lengths: IntArray, *, lanes: int, window: int, seed: int):
        """Makes the plan.

        Args:
          lengths: `[records]` words of each training record.
          lanes: B.
          window: T.
          seed: shuffles the records.

        Raises:
          InputError: there are fewer words than one batch needs.
        """
        self.lengths = lengths
        self.lanes = lanes
        self.window = window
        self.seed = seed
        self.words = int(lengths.sum())
        self.steps_per_epoch = self.words // (lanes * window)
        if not self.steps_per_epoch:
            raise InputError(
                f"the training split has {self.words} words and one batch needs {lanes * window} "
                f"(train.lanes {lanes} x train.window {window}); lower train.lanes or train.window"
            )

    @property
    def dropped_words(self) -> int:
        """Words at the end of the stream that an epoch does not read, 0 to B * T - 1.

        They don't fill a step, but may exceed T, what one lane reads in a step.
        """
        return self.words - self.steps_per_epoch * self.lanes * self.window

    def describe(self) -> str:
        """Describes in one line what an epoch reads and leaves out."""
        return (
            f"an epoch is {self.steps_per_epoch:,} steps of {self.lanes} lanes x {self.window} "
            f"words; it reads {self.words - self.dropped_words:,} of {self.words:,} words and "
            f"leaves out {self.dropped_words:,}, different ones each epoch"
        )

    @functools.lru_cache(maxsize=2)  # noqa: B019 (a plan lives as long as its training)
    def _order(self, epoch: int) -> tuple[IntArray, IntArray, IntArray]:
        """Returns the records of an epoch's stream, where each starts, and at which of its words.

        If the stream starts inside a record, the record occurs twice, its first words last.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.lengths))
        lengths, skipped = self.lengths[order], np.zeros(len(order) + 1, np.int64)
        shift = self._shift(epoch)
        if shift:
            ends = np.cumsum(lengths)
            place = int(np.searchsorted(ends, shift, side="right"))
            skipped[0] = lengths[place] - (ends[place] - shift)
            order, lengths = (
                np.concatenate([one[place:], one[: place + 1]]) for one in (order, lengths)
            )
            lengths[0] -= skipped[0]
            lengths[-1] = skipped[0]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return order, starts, skipped

    def _shift(self, epoch: int) -> int:
        """Returns how many words after the start of the first record an epoch starts.

        An epoch starts with the words that the epoch before it left out.
        """
        others = self.words - int(self.lengths.max())
        return epoch * self.dropped_words % self.words if others < self.dropped_words else 0

    def step_segments(self, step: int) -> list[list[Segment]]:
        """Returns, for each lane in order, the T words that it reads at a step.

        Args:
          step: counted from 0, over all epochs.
        """
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        order, starts, skipped = self._order(epoch)
        lanes = np.arange(self.lanes)
        begins = (lanes * self.steps_per_epoch + step_in_epoch) * self.window
        ends = begins + self.window
        # Positions in the record order of a lane's first and last word.
        first = np.searchsorted(starts, begins, side="right") - 1
        counts = np.searchsorted(starts, ends, side="left") - first
        lanes = np.repeat(lanes, counts)
        places = np.arange(len(lanes)) + np.repeat(first - np.cumsum(counts) + counts, counts)
        bases = starts[places] - skipped[places]
        cut = (
            order[places],
            np.maximum(begins[lanes], starts[places]) - bases,
            np.minimum(ends[lanes], starts[places + 1]) - bases,
        )
        segments: list[list[Segment]] = [[] for _ in range(self.lanes)]
        for lane, *segment in zip(lanes.tolist(), *(part.tolist() for part in cut), strict=True):
            if segment[2] > segment[1]:  # a record may have no words
                segments[lane].append(Segment(*segment))
        return segments


class EvalPlan:
    """Every record of a split once, each from its own start, packed into B lanes.

    A lane reads a record in windows of T words, the last one padded, and resets its state at the
    record's first window. So a record's log-likelihood does not depend on the other records or on
    B.
    """

    def __init__(self, lengths: IntArray, *, lanes: int, window: int):
        """Assigns the records, longest first, to the lane with the least to do."""
        windows = -(-lengths // window)
        self.window = window
        self.lanes = lanes
        self._queues: list[list[Segment]] = [[] for _ in range(lanes)]
        loads = [(0, lane) for lane in range(lanes)]
        for record in sorted(range(len(lengths)), key=lambda index: (-windows[index], index)):
            load, lane = heapq.heappop(loads)
            length = int(lengths[record])
            self._queues[lane].extend(
                Segment(record, start, min(start + window, length))
                for start in range(0, length, window)
            )
            heapq.heappush(loads, (load + int(windows[record]), lane))
        self.steps = max((len(queue) for queue in self._queues), default=0)

    def segment(self, step: int, lane: int) -> Segment | None:
        """Returns what a lane reads at a step; None once it has finished."""
        queue = self._queues[lane]
        return queue[step] if step < len(queue) else None
