"""Divides the text into units of work of about one block, and groups of units that share shards.

Both are pure functions of the list of files, so they are the same on every runner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from components.preprocess.sources.blocks import BLOCK_BYTES, count_blocks, is_divisible
from components.preprocess.sources.types import InputFile
from model.config import DataConfig


@dataclasses.dataclass(frozen=True)
class Part:
    """Blocks `first` to `last` (exclusive; None: all) of a file."""

    file: InputFile
    first: int = 0
    last: int | None = None


@dataclasses.dataclass(frozen=True)
class Unit:
    """Consecutive parts that one worker scans at a time."""

    index: int
    parts: tuple[Part, ...]


def make_units(files: Sequence[InputFile], config: DataConfig) -> list[Unit]:
    """Combines small files and cuts large ones into blocks.

    If bad files are to be skipped, files are never cut: only at its end is a file known to be good.
    """
    size = min(BLOCK_BYTES, config.shard_megabytes << 20)
    units: list[tuple[Part, ...]] = []
    small: list[Part] = []
    room = size
    for file in files:
        cut = config.on_bad_text == "error" and is_divisible(file, config)
        if cut and file.size > BLOCK_BYTES:
            if small:
                units.append(tuple(small))
            small, room = [], size
            units += [(Part(file, number, number + 1),) for number in range(count_blocks(file))]
            continue
        small.append(Part(file))
        room -= file.size
        if room <= 0:
            units.append(tuple(small))
            small, room = [], size
    if small:
        units.append(tuple(small))
    return [Unit(index, parts) for index, parts in enumerate(units)]


def make_groups(units: Sequence[Unit], size: int) -> list[list[int]]:
    """Groups consecutive units as evenly as possible; returns their indices.

    The bytes are divided by the smallest power of two with at most about `size` bytes per group, so
    that groups divide evenly among most numbers of workers. A group without a unit, beside one that
    is larger than a group, is left out.
    """
    sizes = [sum(_size(part) for part in unit.parts) for unit in units]
    total = max(sum(sizes), 1)
    count = 1 << (-(-total // size) - 1).bit_length()
    groups: list[list[int]] = [[] for _ in range(count)]
    begin = 0
    for unit, bytes_ in zip(units, sizes, strict=True):
        middle = begin + bytes_ // 2
        groups[min(middle * count // total, count - 1)].append(unit.index)
        begin += bytes_
    return [group for group in groups if group]


def _size(part: Part) -> int:
    if part.last is None:
        return part.file.size
    end = min(part.file.size, part.last * BLOCK_BYTES)
    return end - part.first * BLOCK_BYTES
