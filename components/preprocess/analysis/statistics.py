"""Statistics for the data card that go beyond each split's figures: words, documents, leaks."""

from __future__ import annotations

import collections
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.preprocess.analysis.near_duplicates import count_leaks
from components.preprocess.passes.file_scans import FileScan
from components.preprocess.passes.scratch_files import index_path, signatures_path
from components.preprocess.passes.word_counts import SplitCounts
from model.config import ModelConfig
from model.data.example_reader import parse_features
from model.data.records import SPLITS, shard_name

_SIZE = struct.Struct("<Q")
_HEAD_BYTES = 12
"""Header of a record in its file: its size and a checksum of the size."""


def describe_text(
    scans: Sequence[FileScan],
    known: SplitCounts,
    *,
    folder: str,
    scratch: str,
    groups: int,
) -> dict[str, Any]:
    """Returns the entry `statistics` of dataset.json (docs/data-contract.md).

    Args:
      scans: scans of the files.
      known: word counts of the training split.
      folder: contains the shards.
      scratch: contains the partial indexes and the signatures.
      groups: number of groups.
    """
    documents: collections.Counter[int] = collections.Counter()
    for scan in scans:
        documents.update({int(power): count for power, count in scan.documents.items()})
    return {
        "document_length_histogram": {str(power): documents[power] for power in sorted(documents)},
        "frequent_words": _decode(known.frequent),
        "frequent_unknown": _decode(known.frequent_unknown),
        "near_duplicates": _find_leaks(folder, scratch, groups),
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


def _find_leaks(folder: str, scratch: str, groups: int) -> dict[str, Any]:
    signatures = {
        split: [
            np.load(signatures_path(scratch, split, group), mmap_mode="r")
            for group in range(groups)
        ]
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

    return count_leaks(signatures, source_of=source_of)
