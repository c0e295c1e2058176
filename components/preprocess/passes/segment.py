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
    """What the records of a block are made of.

    Attributes:
      distinct: the U distinct words.
      words: `[N]` int32, which of them each word is; line ends are words if they are marked.
      ends: `[P]` where each piece ends in `words`; one begins where the one before ends.
      before: `[P]` int32, the distinct word that is the context of each piece.
      sources: P sources: `name:offset` of its first line, `name:offset+k` where it begins k
        words into a long line.
      splits: `[P]` uint8, index in `SPLITS`.
      documents: how many words of each document that begins in the block are in it.
      characters: `[P]` Unicode characters of the text of each piece, as it stood: those of its
        lines, a line end being one, and of the lines without a word that follow them; those
        before the first line with a word go to the first piece.
      text_characters: those of the whole block: their sum, unless the block has no word.
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
        """Returns for each of `SPLITS` `[U]`, how often its pieces have each distinct word."""
        owner = np.repeat(self.splits, self.lengths)
        return [
            np.bincount(self.words[owner == split], minlength=len(self.distinct))
            for split in range(len(SPLITS))
        ]


def cut_block(block: Block, name: str, config: DataConfig, *, split: str = "") -> Pieces:
    """Tokenises a block and cuts it.

    Args:
      block: whole lines of a file.
      name: the file's name in sources.
      config: what a word, a document, a piece and a split are.
      split: where all pieces go; if empty, `choose_split` chooses for each of them.
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
    """Returns the split of a piece: a pure function of where it stands."""
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
    """Returns the word before each piece; adds the document start to the distinct words."""
    distinct.append(DOCUMENT_START)
    before = np.full(len(ends), len(distinct) - 1, np.int32)
    inside = np.flatnonzero(~begins_document[1:]) + 1
    before[inside] = words[ends[inside - 1] - 1]
    return before


def _word_before(block: Block, config: DataConfig) -> bytes:
    """Returns the last word of the text before a block; the document start if none is known."""
    tail = block.tail.decode("utf-8", "replace").encode().replace(b"\r", b"\n")
    for line in reversed(tail.split(b"\n")[:-1]):
        tokenized = tokenize_block(line + b"\n", config)
        if len(tokenized.words):
            return tokenized.distinct[int(tokenized.words[-1])]
    return DOCUMENT_START


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WordLines:
    """The M lines of a block that have words; a line that is too long counts as several."""

    ends: IntArray
    """`[M]` where each ends in the block's words."""
    offsets: IntArray
    """`[M]` byte offset of each."""
    inside: IntArray
    """`[M]` how many words of the line come before."""
    starts: npt.NDArray[np.bool_]
    """`[M]` whether a document begins with it."""
    characters: IntArray
    """`[M]` characters of each, and of the lines without a word after it (see `Pieces`)."""
    begins_document: bool
    """Whether the first one begins one, rather than goes on with that of the block before."""

    @classmethod
    def of(
        cls, tokenized: TokenizedBlock, block: Block, config: DataConfig, characters: IntArray
    ) -> _WordLines:
        """Finds the lines of a block, which have `characters`."""
        lengths = np.diff(tokenized.line_ends, prepend=0)
        kept = np.flatnonzero(lengths)
        # Replacing stray bytes has moved the lines, and offsets are those of the file.
        offsets = line_offsets(block.data) if block.stray else tokenized.line_offsets
        offsets = block.offset + offsets[kept]
        first = block.index == 0
        gaps = np.diff(kept, prepend=-1) > 1  # a line without a word is before it
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
        """Returns the source of a piece that begins with a line."""
        inside = self.inside[line]
        return f"{name}:{self.offsets[line]}" + (f"+{inside}" if inside else "")


def _ends_blank(tail: bytes, config: DataConfig) -> bool:
    """Returns whether the last line of the text before a block has no word.

    That is for the tokenizer to say: U+3000 is white space, and with `lowercase` a zero-width
    space is nothing.
    """
    if len(tail) == blocks.TAIL_BYTES:  # may begin inside a character
        tail = tail.lstrip(_CONTINUATION_BYTES)
    lines = tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if len(lines) < 2:
        return False
    line = lines[-2].decode("utf-8", "replace").encode()
    return not line.strip() or not len(tokenize_block(line + b"\n", config).words)


def _add_up(values: IntArray, begins: IntArray) -> IntArray:
    """Returns the sums of some runs of values, each up to where the next begins.

    What is before the first run is added to it.
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
    """Returns the characters of the parts of lines, in proportion to those of their words.

    Words are normalised and know no white space, so where they stood in a line is not known;
    the sum over a line's parts is exact, and each part up to a rounding where the line has no
    white space and is in normal form.

    Args:
      lines: `[M]` lines.
      parts: `[M]` into how many parts each is cut.
      ends: where each part ends in the block's words.
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
    """Gathers lines to pieces.

    A piece ends at the first line end where it has `record_words` words. A document's last
    piece, when it is shorter than a quarter of `record_words`, is joined to the one before.

    Returns:
      First line, last line, and whether a document begins, of each piece.
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
