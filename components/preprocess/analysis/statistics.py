"""Statistics for the data card that go beyond each split's figures: words, documents, leaks."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from components.preprocess.analysis.near_duplicates import Search, count_leaks
from components.preprocess.passes.corpus_scan import CorpusScan
from components.preprocess.passes.scratch_files import index_path, signatures_path
from components.preprocess.passes.signatures import Signatures
from components.preprocess.passes.word_counts import SplitCounts
from model.config import ModelConfig
from model.data.example_reader import parse_features
from model.data.records import SPLITS, shard_name

_SIZE = struct.Struct("<Q")
_HEAD_BYTES = 12
"""Header of a record in its file: its size and a checksum of the size."""

SHOWN_SECONDS = 10.0
"""Seconds between two lines of progress."""


def describe_text(
    scan: CorpusScan,
    known: SplitCounts,
    *,
    folder: str,
    scratch: str,
    groups: int,
    search: Search,
) -> dict[str, Any]:
    """Returns the entry `statistics` of dataset.json (docs/data-contract.md).

    Args:
      scan: what the first pass found.
      known: word counts of the training split.
      folder: contains the shards.
      scratch: contains the partial indexes and the signatures.
      groups: number of groups.
      search: how many records are compared to find near-duplicates; with 0 they are not counted.
    """
    documents = scan.documents
    return {
        "document_length_histogram": {str(power): documents[power] for power in sorted(documents)},
        "frequent_words": _decode(known.frequent),
        "frequent_unknown": _decode(known.frequent_unknown),
        "near_duplicates": None
        if search.records == 0
        else _find_leaks(folder, scratch, groups, search=search),
    }


def for_card(info: Mapping[str, Any], known: SplitCounts) -> dict[str, Any]:
    """Returns what `card.write_card` shows in addition to dataset.json.

    The number of words longer than a model sees assumes the default W.
    """
    seen = ModelConfig().max_word_bytes - 2  # without the begin and end marks
    truncated = {
        split: sum(
            count
            for size, count in info["splits"][split]["word_length_histogram"].items()
            if int(size) > seen
        )
        for split in SPLITS
    }
    statistics = info["statistics"]
    lists = ("frequent_words", "frequent_unknown")
    return {
        **statistics,
        **{name: [list(row) for row in statistics[name].items()] for name in lists},
        "max_word_bytes": seen,
        "count_histogram": [list(pair) for pair in known.histogram.items()],
        "splits": {split: {"truncated_words": truncated[split]} for split in SPLITS},
    }


def _decode(words: Sequence[tuple[bytes, int]]) -> dict[str, int]:
    return {word.decode(): count for word, count in words}


class Progress:
    """Prints how much of the leakage check is done, and the time left, every `SHOWN_SECONDS`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes a clock, which returns seconds."""
        self._clock = clock
        self._first: tuple[float, float] | None = None  # the first call: when, and which share
        self._shown = 0.0

    def __call__(self, share: float) -> None:
        """Takes the share that is done, above 0 and at most 1."""
        now = self._clock()
        if self._first is None:
            self._first, self._shown = (now, share), now
        if now - self._shown < SHOWN_SECONDS or share >= 1:
            return
        self._shown = now
        begun, done = self._first
        left = (now - begun) * (1 - share) / (share - done)
        unit = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
        print(f"near-duplicates: {share:.0%} compared, about {unit} left", flush=True)


class SignatureFile:
    """The signatures of a group's records of a split; the file is open only while it is read."""

    def __init__(self, path: str) -> None:
        """Takes the path."""
        self._path = path
        self._size = len(np.load(path, mmap_mode="r"))

    def __len__(self) -> int:
        """Returns the number of records."""
        return self._size

    def __getitem__(self, place: slice) -> Signatures:
        """Returns the signatures of a slice of them."""
        signatures: Signatures = np.array(np.load(self._path, mmap_mode="r")[place])
        return signatures


def _find_leaks(folder: str, scratch: str, groups: int, *, search: Search) -> dict[str, Any]:
    signatures = {
        split: [SignatureFile(signatures_path(scratch, split, group)) for group in range(groups)]
        for split in SPLITS
    }

    def source_of(split: str, record: int) -> str:
        ends = np.cumsum([len(part) for part in signatures[split]])
        group = int(np.searchsorted(ends, record, side="right"))
        place = record - int(ends[group])  # negative: counted from the end
        offset = int(np.load(index_path(scratch, split, group), mmap_mode="r")[place, 0])
        with open(os.path.join(folder, shard_name(split, group, groups)), "rb") as file:
            file.seek(offset)
            (size,) = _SIZE.unpack(file.read(_HEAD_BYTES)[: _SIZE.size])
            return parse_features(file.read(size)).source.decode()

    return count_leaks(signatures, source_of=source_of, search=search)
