"""Cuts blocks of text into the pieces that become records, and splits them.

Shape letters: N words in a block, M lines with words in it, P pieces, U distinct words.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt

from components.preprocess.passes.tokenize import (
    TokenizedBlock,
    count_characters,
    line_offsets,
    tokenize_block,
)
from components.preprocess.sources import blocks
from components.preprocess.sources.blocks import Block
from model.config import DataConfig
from model.data.records import SPLITS
from model.text.vocab import DOCUMENT_START

IntArray = npt.NDArray[np.int64]

_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pieces:
    """The pieces of a block, which become records.

    Attributes:
      distinct: the U distinct words.
      words: `[N]` int32 indices into `distinct`; marked line ends are words.
      ends: `[P]` end of each piece in `words`; each starts where the previous one ends.
      before: `[P]` int32 index into `distinct` of each piece's context word.
      sources: P sources: `name:offset` of its first line, `name:offset+k` if it starts k words into
        a long line.
      splits: `[P]` uint8, index in `SPLITS`.
      documents: words, within the block, of each document that starts in it.
      characters: `[P]` Unicode characters of the original text of each piece: of its lines, with a
        line end as one, and of the following lines without words; those before the first line with
        a word belong to the first piece.
      text_characters: of the whole block: their sum, unless the block has no words.
    """

    distinct: list[bytes]
    words: npt.NDArray[np.int32]
    ends: IntArray
    before: npt.NDArray[np.int32]
    sources: list[str]
    splits: npt.NDArray[np.uint8]
    documents: IntArray
    characters: IntArray
    text_characters: int

    @property
    def lengths(self) -> IntArray:
        """`[P]` words of each piece."""
        return np.diff(self.ends, prepend=0)

    def count_words(self) -> list[IntArray]:
        """Returns, for each of `SPLITS`, `[U]` counts of each distinct word in its pieces."""
        owner = np.repeat(self.splits, self.lengths)
        return [
            np.bincount(self.words[owner == split], minlength=len(self.distinct))
            for split in range(len(SPLITS))
        ]


def cut_block(block: Block, name: str, config: DataConfig, *, split: str = "") -> Pieces:
    """Tokenises a block and cuts it into pieces.

    Args:
      block: whole lines of a file.
      name: the file's name in sources.
      config: defines words, documents, pieces and splits.
      split: split of all pieces; if empty, `choose_split` decides for each.
    """
    text = block.text()
    tokenized = tokenize_block(text, config)
    characters = count_characters(text, tokenized.line_offsets)
    lines = _WordLines.of(tokenized, block, config, characters)
    firsts, lasts, begins_document = _cut_lines(lines, config)
    sources = [lines.source(name, first) for first in firsts]
    if split:
        splits = np.full(len(sources), SPLITS.index(split), np.uint8)
    else:
        chosen = [SPLITS.index(choose_split(source, config)) for source in sources]
        splits = np.asarray(chosen, np.uint8)
    ends = lines.ends[lasts] if len(lasts) else np.zeros(0, np.int64)
    distinct = list(tokenized.distinct)
    before = _contexts(ends, begins_document, tokenized.words, distinct)
    if len(before) and not lines.begins_document:
        distinct.append(_word_before(block, config))
        before[0] = len(distinct) - 1
    starts = np.concatenate([[0], ends])[:-1][begins_document]
    return Pieces(
        distinct=distinct,
        words=tokenized.words,
        ends=ends,
        before=before,
        sources=sources,
        splits=splits,
        documents=np.diff(np.append(starts, len(tokenized.words))),
        characters=_add_up(lines.characters, np.asarray(firsts, np.int64)),
        text_characters=int(characters.sum()),
    )


def choose_split(source: str, config: DataConfig) -> str:
    """Returns the split of a piece: a pure function of its position."""
    digest = hashlib.sha256(source.encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < config.test_fraction:
        return "test"
    return "valid" if place < config.test_fraction + config.valid_fraction else "train"


def _contexts(
    ends: IntArray,
    begins_document: npt.NDArray[np.bool_],
    words: npt.NDArray[np.int32],
    distinct: list[bytes],
) -> npt.NDArray[np.int32]:
    distinct.append(DOCUMENT_START)
    before = np.full(len(ends), len(distinct) - 1, np.int32)
    inside = np.flatnonzero(~begins_document[1:]) + 1
    before[inside] = words[ends[inside - 1] - 1]
    return before


def _word_before(block: Block, config: DataConfig) -> bytes:
    """Returns the last word before a block; the document start if unknown."""
    tail = block.tail.decode("utf-8", "replace").encode().replace(b"\r", b"\n")
    lines = tail.split(b"\n")[:-1]
    count = 1
    while lines:  # more and more at a time: most often the last one has a word, or none has
        last = tokenize_block(b"\n".join([*lines[-count:], b""]), config)
        if len(last.words):
            return last.distinct[int(last.words[-1])]
        del lines[-count:]
        count *= 8
    return DOCUMENT_START


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WordLines:
    """The M lines of a block that have words; an overlong line counts as several."""

    ends: IntArray
    """`[M]` end of each in the block's words."""
    offsets: IntArray
    """`[M]` byte offset of each."""
    inside: IntArray
    """`[M]` words of the line that precede it."""
    starts: npt.NDArray[np.bool_]
    """`[M]` whether a document starts with it."""
    characters: IntArray
    """`[M]` characters of each and of the following lines without words (see `Pieces`)."""
    begins_document: bool
    """Whether the first one starts a document rather than continues the previous block's."""

    @classmethod
    def of(
        cls, tokenized: TokenizedBlock, block: Block, config: DataConfig, characters: IntArray
    ) -> _WordLines:
        """Finds the lines of a block, given the `characters` of each."""
        lengths = np.diff(tokenized.line_ends, prepend=0)
        kept = np.flatnonzero(lengths)
        # Replacing undecodable bytes shifts lines, but offsets refer to the file.
        offsets = line_offsets(block.data) if block.stray else tokenized.line_offsets
        offsets = block.offset + offsets[kept]
        first = block.index == 0
        gaps = np.diff(kept, prepend=-1) > 1  # a line without words precedes it
        if config.document == "line":
            starts = np.ones(len(kept), np.bool_)
        elif config.document == "paragraph":
            starts = gaps.copy()
            if len(starts) and not starts[0]:
                starts[0] = first or _ends_blank(block.tail, config)
        else:
            starts = np.zeros(len(kept), np.bool_)
        if len(starts) and first:
            starts[0] = True
        return _split_long(
            cls(
                ends=tokenized.line_ends[kept],
                offsets=offsets,
                inside=np.zeros(len(kept), np.int64),
                starts=starts,
                characters=_add_up(characters, kept),
                begins_document=bool(len(starts) and starts[0]),
            ),
            config.record_words,
            tokenized,
        )

    def source(self, name: str, line: int) -> str:
        """Returns the source of a piece that starts with a line."""
        inside = self.inside[line]
        return f"{name}:{self.offsets[line]}" + (f"+{inside}" if inside else "")


def _ends_blank(tail: bytes, config: DataConfig) -> bool:
    """Returns whether the last line before a block has no words.

    Only the tokenizer knows: U+3000 is white space, and with `lowercase` a zero-width space
    disappears.
    """
    if len(tail) == blocks.TAIL_BYTES:  # may start inside a character
        tail = tail.lstrip(_CONTINUATION_BYTES)
    lines = tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if len(lines) < 2:
        return False
    line = lines[-2].decode("utf-8", "replace").encode()
    return not line.strip() or not len(tokenize_block(line + b"\n", config).words)


def _add_up(values: IntArray, begins: IntArray) -> IntArray:
    """Returns sums over runs of values, each up to the start of the next.

    Values before the first run are added to it.
    """
    if not len(begins):
        return np.zeros(0, np.int64)
    sums: IntArray = np.add.reduceat(values, np.concatenate([[0], begins[1:]]))
    return sums


def _split_long(lines: _WordLines, size: int, tokenized: TokenizedBlock) -> _WordLines:
    """Cuts lines of more than twice `size` words every `size` words."""
    lengths = np.diff(lines.ends, prepend=0)
    parts = np.where(lengths > 2 * size, -(-lengths // size), 1)
    if not np.any(parts > 1):
        return lines
    line = np.repeat(np.arange(len(parts)), parts)
    number = np.arange(len(line)) - np.repeat(np.cumsum(parts) - parts, parts)
    begins = lines.ends - lengths
    ends = np.minimum(begins[line] + (number + 1) * size, lines.ends[line])
    ends = np.where(parts[line] > 1, ends, lines.ends[line])
    return _WordLines(
        ends=ends,
        offsets=lines.offsets[line],
        inside=number * size,
        starts=lines.starts[line] & (number == 0),
        characters=_share_characters(lines, parts, ends, tokenized),
        begins_document=lines.begins_document,
    )


def _share_characters(
    lines: _WordLines, parts: IntArray, ends: IntArray, tokenized: TokenizedBlock
) -> IntArray:
    """Divides lines' characters among their parts, in proportion to the words' characters.

    Words are normalised and exclude white space, so their position in a line is unknown. The sum
    over a line's parts is exact, and each part is exact up to rounding if the line has no white
    space and is in normal form.

    Args:
      lines: `[M]` lines.
      parts: `[M]` number of parts each is cut into.
      ends: end of each part in the block's words.
      tokenized: the block's words.
    """
    letters = np.asarray([len(word.decode()) for word in tokenized.distinct], np.int64)
    before = np.concatenate([[0], np.cumsum(letters[tokenized.words])])
    line = np.repeat(np.arange(len(parts)), parts)
    begins = np.concatenate([[0], lines.ends[:-1]])
    base, total = before[begins], before[lines.ends] - before[begins]
    shares: IntArray = lines.characters[line] * (before[ends] - base[line]) // total[line]
    shares[1:] -= np.where(line[1:] == line[:-1], shares[:-1], 0)
    return shares


def _cut_lines(
    lines: _WordLines, config: DataConfig
) -> tuple[list[int], list[int], npt.NDArray[np.bool_]]:
    """Combines lines into pieces.

    A piece ends at the first line end at which it has `record_words` words. A document's last piece
    is joined to the previous one if it is shorter than a quarter of `record_words`.

    Returns:
      First line, last line, and whether a document starts, of each piece.
    """
    ends: list[int] = lines.ends.tolist()
    size = config.record_words
    documents = np.flatnonzero(lines.starts).tolist()
    if ends and not lines.begins_document:
        documents.insert(0, 0)
    firsts: list[int] = []
    lasts: list[int] = []
    begins: list[bool] = []
    stops = [*documents[1:], len(ends)] if documents else []
    for document, stop in zip(documents, stops, strict=True):
        line = document
        while line < stop:
            start = ends[line - 1] if line else 0
            last = min(bisect.bisect_left(ends, start + size, line, stop), stop - 1)
            firsts.append(line)
            lasts.append(last)
            begins.append(line == document)
            line = last + 1
        short = 4 * (ends[lasts[-1]] - (ends[firsts[-1] - 1] if firsts[-1] else 0)) < size
        if short and not begins[-1]:
            del firsts[-1], begins[-1], lasts[-2]
    begins_document = np.asarray(begins, np.bool_)
    if ends and not lines.begins_document:
        begins_document[0] = False
    return firsts, lasts, begins_document
