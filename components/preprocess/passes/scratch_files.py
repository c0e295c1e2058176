"""The files in the scratch folder, through which the passes communicate: names, and rows of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

INDEX_COLUMNS = 3
"""A record's offset in its shard, its words and its characters of text: a row of an index."""


def words_path(folder: str) -> str:
    """Returns the file of given vocabulary words, `null` if none are given."""
    return os.path.join(folder, "given-words.json")


def unit_path(folder: str, unit: int) -> str:
    """Returns the file of a unit."""
    return os.path.join(folder, f"{unit:08d}.unit.json")


def scan_path(folder: str, unit: int) -> str:
    """Returns the file of a unit's first-pass results."""
    return os.path.join(folder, f"{unit:08d}.scan.json")


def pieces_path(folder: str, unit: int) -> str:
    """Returns the file of a unit's pieces."""
    return os.path.join(folder, f"{unit:08d}.pieces")


def problem_path(folder: str) -> str:
    """Returns the file with the reason why there is no vocabulary, or `null`."""
    return os.path.join(folder, "problem.json")


def group_path(folder: str, group: int) -> str:
    """Returns the file of a group's second-pass results."""
    return os.path.join(folder, f"{group:08d}.group.json")


def index_path(folder: str, split: str, group: int) -> str:
    """Returns the file of the index of a group's records of a split, `[records, 3]` int64."""
    return os.path.join(folder, f"{split}-{group:08d}.index.npy")


def seen_path(folder: str, group: int) -> str:
    """Returns the file of hashes of a group's training text."""
    return os.path.join(folder, f"{group:08d}.seen.npy")


def signatures_path(folder: str, split: str, group: int) -> str:
    """Returns the file of the signatures of a group's records of a split, `[records, K]` uint16."""
    return os.path.join(folder, f"{split}-{group:08d}.signatures.npy")


def write_row(file: BinaryIO, row: Mapping[str, Any]) -> None:
    """Appends a row to a file of JSON lines."""
    file.write(json.dumps(row).encode() + b"\n")


def read_rows(path: str) -> Iterator[dict[str, Any]]:
    """Yields what `write_row` appended, one row in memory at a time.

    Raises:
      OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        yield from map(json.loads, file)
