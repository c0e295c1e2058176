"""The first pass: reads, checks, tokenises, cuts and counts a unit of text, and stores the pieces.

A unit's pieces are stored as arrays in one file, so that the second pass neither reads nor
tokenises the text again.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from components.preprocess.passes.file_scans import PartScan, add_fault, check_stray, hash_row
from components.preprocess.passes.scratch_files import pieces_path
from components.preprocess.passes.segment import Pieces, cut_block
from components.preprocess.passes.word_counts import WordCounter
from components.preprocess.passes.work_units import Part, Unit
from components.preprocess.sources.blocks import BadTextError, Block, read_blocks
from model.config import DataConfig
from model.data.records import SPLITS
from model.files import whole_file


def scan_unit(
    unit: Unit, config: DataConfig, *, folder: str, counter: WordCounter
) -> Iterator[PartScan]:
    """Scans a unit; yields what was found in each part.

    Args:
      unit: parts of files.
      config: how text becomes words and pieces.
      folder: receives the file of its pieces.
      counter: counts the words of its good parts.

    Raises:
      OSError: the file of pieces or of counts can't be written.
    """
    with whole_file(pieces_path(folder, unit.index), flush=False) as file:
        for part in unit.parts:
            yield _scan_part(part, config, file, counter)


def _scan_part(part: Part, config: DataConfig, file: BinaryIO, counter: WordCounter) -> PartScan:
    begin = file.tell()
    whole = part.last is None
    # Words of a file that may turn out to be bad are counted separately until its end.
    kept = None if config.on_bad_text == "error" else counter.try_out()
    scan = _Scan(part, config, counter if kept is None else kept)
    try:
        if whole and not part.file.size:
            raise BadTextError("empty")
        for block in _read(part, config, scan.hashes):
            pieces = scan.add(block)
            if pieces is not None:
                save_pieces(file, pieces)
        if whole:
            scan.check_whole()
    except BadTextError as bad:
        file.seek(begin)
        file.truncate()
        if kept is not None:
            kept.discard()
        return PartScan(
            file=part.file,
            first=part.first,
            hashes=scan.hashes,
            reason=bad.reason,
            offset=bad.offset,
            detail=bad.detail,
        )
    if kept is not None:
        counter.merge(kept)
    return scan.result()


def _read(part: Part, config: DataConfig, hashes: list[str]) -> Iterator[Block]:
    """Yields the blocks of a part; a read error becomes a BadTextError, too.

    A fault in the text is added to `hashes`.
    """
    blocks = read_blocks(part.file, config, first=part.first, last=part.last)
    while True:
        try:
            block = next(blocks)
        except StopIteration:
            return
        except BadTextError as error:
            add_fault(hashes, error)
            raise
        except OSError as error:
            raise BadTextError.unread(error) from None
        yield block


class _Scan:
    """Sums up the blocks of a part."""

    def __init__(self, part: Part, config: DataConfig, counter: WordCounter):
        self._part = part
        self._config = config
        self.hashes: list[str] = []
        self._size = 0
        self._characters = 0
        self._stray = 0
        self._fault: tuple[int, str] | None = None
        self._records: collections.Counter[str] = collections.Counter()
        self._documents: collections.Counter[str] = collections.Counter()
        self._counter = counter

    def add(self, block: Block) -> Pieces | None:
        """Cuts a block; returns its pieces, None if it has none."""
        self.hashes.append(hash_row(block))
        self._size += block.size
        self._stray += block.stray
        self._fault = self._fault or block.fault
        file = self._part.file
        pieces = cut_block(block, file.name, self._config, split=file.split)
        self._characters += pieces.text_characters
        if not pieces.sources:
            return None
        for split, count in enumerate(np.bincount(pieces.splits, minlength=len(SPLITS)).tolist()):
            self._records[SPLITS[split]] += count
        powers = [str(1 << (words.bit_length() - 1)) for words in pieces.documents.tolist()]
        self._documents.update(powers)
        self._count(pieces)
        return pieces

    def _count(self, pieces: Pieces) -> None:
        for split, counts in zip(SPLITS, pieces.count_words(), strict=True):
            found = np.flatnonzero(counts)
            words = [pieces.distinct[place] for place in found.tolist()]
            self._counter.add(split, words, counts[found].tolist())

    def check_whole(self) -> None:
        """Raises BadTextError if a whole file is not text."""
        check_stray(self._stray, self._size, self._fault, self._config)
        if not self._records:
            raise BadTextError("blank")

    def result(self) -> PartScan:
        return PartScan(
            file=self._part.file,
            first=self._part.first,
            hashes=self.hashes,
            records=dict(self._records),
            documents=dict(self._documents),
            size=self._size,
            characters=self._characters,
            stray=self._stray,
            fault=self._fault,
        )


# Files of pieces

_ARRAYS = ("words", "ends", "before", "splits", "documents", "characters")


def save_pieces(file: BinaryIO, pieces: Pieces) -> None:
    """Appends the pieces of a block to a file."""
    for texts in (pieces.distinct, [source.encode() for source in pieces.sources]):
        np.save(file, np.frombuffer(b"".join(texts), np.uint8))
        np.save(file, np.fromiter(map(len, texts), np.int64, len(texts)))
    for name in _ARRAYS:
        np.save(file, getattr(pieces, name))


def load_pieces(path: str) -> Iterator[Pieces]:
    """Yields what `save_pieces` appended."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while file.tell() < size:
            distinct, sources = _load_texts(file), _load_texts(file)
            arrays = {name: np.load(file) for name in _ARRAYS}
            yield Pieces(
                distinct=distinct,
                sources=[source.decode() for source in sources],
                text_characters=int(arrays["characters"].sum()),
                **arrays,
            )


def _load_texts(file: Any) -> list[bytes]:
    text: bytes = np.load(file).tobytes()
    ends = np.cumsum(np.load(file)).tolist()
    return [text[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
