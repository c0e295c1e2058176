"""Divides the text into units of work of about one block, and groups of units that share shards.

Both are pure functions of the list of files, so they are the same on every runner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from components.preprocess.passes.scratch_files import read_rows, unit_path, write_row
from components.preprocess.sources.blocks import BLOCK_BYTES, count_blocks, is_divisible
from components.preprocess.sources.types import InputFile
from model.config import DataConfig
from model.files import whole_file

MOST_FILES = 1 << 16
"""Maximum number of files in a unit, which a worker holds in memory; some may be empty."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Blocks `first` to `last` (exclusive; None: all) of a file."""

    file: InputFile
    first: int = 0
    last: int | None = None

    @property
    def size(self) -> int:
        """Its stored bytes."""
        if self.last is None:
            return self.file.size
        return min(self.file.size, self.last * BLOCK_BYTES) - self.first * BLOCK_BYTES


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive parts that one worker scans at a time."""

    index: int
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Its stored bytes."""
        return sum(part.size for part in self.parts)

    def save(self, folder: str) -> None:
        """Writes the unit to the scratch folder."""
        with whole_file(unit_path(folder, self.index), flush=False) as file:
            for part in self.parts:
                write_row(file, dataclasses.asdict(part))

    @classmethod
    def load(cls, folder: str, index: int) -> Unit:
        """Reads a unit.

        Raises:
          OSError: it can't be read.
        """
        rows = read_rows(unit_path(folder, index))
        return cls(index, tuple(Part(**row | {"file": InputFile(**row["file"])}) for row in rows))


def make_units(files: Iterable[InputFile], config: DataConfig) -> Iterator[Unit]:
    """Combines small files and cuts large ones into blocks, one unit at a time.

    If bad files are to be skipped, files are never cut: only at its end is a file known to be good.
    """
    parts = _divide(files, config, size=min(BLOCK_BYTES, config.shard_megabytes << 20))
    return (Unit(index, of_unit) for index, of_unit in enumerate(parts))


def _divide(
    files: Iterable[InputFile], config: DataConfig, *, size: int
) -> Iterator[tuple[Part, ...]]:
    small: list[Part] = []
    room = size
    for file in files:
        cut = config.on_bad_text == "error" and is_divisible(file, config)
        if cut and file.size > BLOCK_BYTES:
            if small:
                yield tuple(small)
            small, room = [], size
            for number in range(count_blocks(file)):
                yield (Part(file, number, number + 1),)
            continue
        small.append(Part(file))
        room -= file.size
        if room <= 0 or len(small) == MOST_FILES:
            yield tuple(small)
            small, room = [], size
    if small:
        yield tuple(small)


def make_groups(sizes: Sequence[int], size: int) -> list[list[int]]:
    """Groups consecutive units as evenly as possible; returns their indices.

    The bytes are divided by the smallest power of two with at most about `size` bytes per group, so
    that groups divide evenly among most numbers of workers. A group without a unit, beside one that
    is larger than a group, is left out.

    Args:
      sizes: of the units.
      size: of a group.
    """
    total = max(sum(sizes), 1)
    count = 1 << (-(-total // size) - 1).bit_length()
    groups: list[list[int]] = [[] for _ in range(count)]
    begin = 0
    for unit, bytes_ in enumerate(sizes):
        middle = begin + bytes_ // 2
        groups[min(middle * count // total, count - 1)].append(unit)
        begin += bytes_
    return [group for group in groups if group]
