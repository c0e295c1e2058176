"""Text in bytes, as the preprocess stage reads, checks and cuts it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from components.preprocess.passes.file_scans import FileScan, scans_of_files
from components.preprocess.passes.scan import scan_unit
from components.preprocess.passes.segment import Pieces, cut_block
from components.preprocess.passes.tokenize import line_offsets
from components.preprocess.passes.word_counts import WordCounter
from components.preprocess.passes.work_units import make_units
from components.preprocess.sources.blocks import Block, read_blocks
from components.preprocess.sources.types import InputFile
from model.config import DataConfig
from model.data.records import SPLITS


class Piece(NamedTuple):
    """What becomes one record."""

    source: str
    split: str
    words: list[bytes]


def blocks_of(data: bytes, config: DataConfig, *, name: str = "f") -> list[Block]:
    """Returns the blocks of a file with some bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name.replace("/", "_")
        path.write_bytes(data)
        return list(read_blocks(InputFile(str(path), name, len(data)), config))


def lines_of(data: bytes, config: DataConfig) -> list[tuple[bytes, int]]:
    """Returns the lines of a file and their offsets."""
    lines = []
    for block in blocks_of(data, config):
        texts = block.text().splitlines()  # bytes: at line ends only
        offsets = line_offsets(block.data) + block.offset
        lines += list(zip(texts, offsets.tolist(), strict=True))
    return lines


def pieces_of(block: Block, name: str, config: DataConfig, *, split: str = "") -> list[Piece]:
    """Returns the pieces of a block."""
    return unpack(cut_block(block, name, config, split=split))


def unpack(pieces: Pieces) -> list[Piece]:
    """Returns pieces as lists of words."""
    found, begin = [], 0
    for piece, end in enumerate(pieces.ends.tolist()):
        numbers = [pieces.before[piece], *pieces.words[begin:end]]
        words = [pieces.distinct[number] for number in numbers]
        found.append(Piece(pieces.sources[piece], SPLITS[pieces.splits[piece]], words))
        begin = end
    return found


def scan(data: bytes, config: DataConfig) -> FileScan:
    """Returns what the first pass finds out about a file with some bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(data)
        (unit,) = make_units([InputFile(str(path), "f", len(data))], config)
        counter = WordCounter()
        (found,) = scans_of_files(scan_unit(unit, config, folder=folder, counter=counter), config)
        return found
