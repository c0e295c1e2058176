"""The second pass: encodes the pieces of a group of units and writes its shards."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from components.preprocess.passes.row_files import RowFile
from components.preprocess.passes.scan import load_pieces
from components.preprocess.passes.scratch_files import (
    INDEX_COLUMNS,
    index_path,
    pieces_path,
    seen_path,
    signatures_path,
)
from components.preprocess.passes.segment import Pieces
from components.preprocess.passes.signatures import BINS, Signatures, make_signatures
from model.data.example_writer import RecordEncoder, frame
from model.data.records import SPLITS, shard_name
from model.data.seen import Hashes, SeenText, cut_units, hash_words
from model.files import whole_file
from model.text.vocab import DOCUMENT_START, LINE_END, UNK_ID, Vocabulary

MAX_WORD_LENGTH = 1024
"""Longer words count as this long in the statistics."""

SUMS = ("characters", "bytes", "unknown_words")

_BATCH = 1 << 13
"""Records that are signed, or added to an index, at once: signing takes many times their signatures."""


def write_group(
    index: int, units: Sequence[int], *, folder: str, scratch: str, count: int, vocab: Vocabulary
) -> dict[str, Any]:
    """Encodes the pieces of a group of units and writes its shards.

    Args:
      index: index of the group.
      units: indices of its units.
      folder: receives the shards.
      scratch: contains the files of pieces; receives the group's part of the record index, and the
        signatures.
      count: number of groups.
      vocab: maps words to ids.

    Returns:
      `index`, and either `problem` (why it failed, for the user) or `splits`: for each split
      `shard`, its entry in dataset.json, `sums`, its contribution to the split's, and
      `word_lengths`, a histogram of word lengths in bytes.
    """
    writers: dict[str, _ShardWriter] = {}
    seen = SeenText()
    try:
        with contextlib.ExitStack() as stack:
            for split in SPLITS:
                name = shard_name(split, index, count)
                rows = stack.enter_context(
                    whole_file(index_path(scratch, split, index), flush=False)
                )
                signed = stack.enter_context(
                    whole_file(signatures_path(scratch, split, index), flush=False)
                )
                writers[split] = _ShardWriter(
                    name,
                    stack.enter_context(whole_file(os.path.join(folder, name))),
                    index=RowFile(rows, np.dtype(np.int64), INDEX_COLUMNS),
                    signatures=RowFile(signed, np.dtype(np.uint16), BINS),
                )
            for unit in units:
                for pieces in load_pieces(pieces_path(scratch, unit)):
                    _write_pieces(pieces, [writers[split] for split in SPLITS], vocab)
                    seen = seen.union(SeenText(hash_training_text(pieces)))
            seen.save(seen_path(scratch, index))
            splits = {split: one.finish() for split, one in writers.items()}
        return {"index": index, "splits": splits}
    except OSError as error:
        problem = f"can't write records to {folder} ({error}); free space or choose another folder"
        return {"index": index, "problem": problem}


def _write_pieces(pieces: Pieces, writers: Sequence[_ShardWriter], vocab: Vocabulary) -> None:
    ids = np.asarray([vocab.ids.get(word, UNK_ID) for word in pieces.distinct])
    encoder = RecordEncoder(pieces.distinct, ids.tolist())
    starts = pieces.ends - pieces.lengths
    words = np.insert(pieces.words, starts, pieces.before)  # the context word first
    splits, begin = pieces.splits.tolist(), 0
    characters = pieces.characters.tolist()
    for piece, length in enumerate(pieces.lengths.tolist()):
        end = begin + 1 + length
        record = encoder.encode(words[begin:end], source=pieces.sources[piece])
        writers[splits[piece]].write(record, words=length, characters=characters[piece])
        begin = end
    for counts, writer in zip(pieces.count_words(), writers, strict=True):
        writer.add_sums(pieces.distinct, counts, unknown=ids == UNK_ID)
    fingerprints = np.fromiter(map(zlib.crc32, pieces.distinct), np.uint64, len(pieces.distinct))
    for first in range(0, len(starts), _BATCH):
        last = min(first + _BATCH, len(starts)) - 1
        signatures = make_signatures(
            fingerprints,
            pieces.words[starts[first] : pieces.ends[last]],
            pieces.lengths[first : last + 1],
        )
        for split, writer in enumerate(writers):
            writer.sign(signatures[pieces.splits[first : last + 1] == split])


def hash_training_text(pieces: Pieces) -> Hashes:
    """Returns the unit hashes of the training text among some pieces."""
    hashes, train = hash_words(pieces.distinct), pieces.splits == SPLITS.index("train")
    words = pieces.words[np.repeat(train, pieces.lengths)]
    lengths, before = pieces.lengths[train], pieces.before[train]
    return cut_units(hashes[words], lengths, hashes[before], every_run=False).hashes


class _ShardWriter:
    """Writes a shard, and collects its statistics."""

    def __init__(self, name: str, file: BinaryIO, *, index: RowFile, signatures: RowFile) -> None:
        self._name = name
        self._file = file
        self._index = index
        self._signatures = signatures
        self._hash = hashlib.sha256()
        self._size = self._records = self._words = 0
        self._rows: list[tuple[int, int, int]] = []
        self._sums = dict.fromkeys(SUMS, 0)
        self._word_lengths: collections.Counter[int] = collections.Counter()

    def write(self, record: bytes, *, words: int, characters: int) -> None:
        """Appends one record with its numbers of words and of characters of text."""
        framed = frame(record)
        self._file.write(framed)
        self._hash.update(framed)
        self._rows.append((self._size, words, characters))
        self._size += len(framed)
        self._words += words
        if len(self._rows) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._records += len(self._rows)
        self._index.append(np.asarray(self._rows, np.int64).reshape(-1, INDEX_COLUMNS))
        self._rows = []

    def sign(self, signatures: Signatures) -> None:
        """Appends the signatures of the next records."""
        self._signatures.append(signatures)

    def add_sums(
        self,
        distinct: Sequence[bytes],
        counts: npt.NDArray[np.int64],
        *,
        unknown: npt.NDArray[np.bool_],
    ) -> None:
        """Adds written words; `counts` has the count of each distinct one."""
        found = np.flatnonzero(counts)
        texts = [distinct[place] for place in found.tolist()]
        texts = [b"" if text in (LINE_END, DOCUMENT_START) else text for text in texts]
        often = counts[found]
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        letters = np.fromiter((len(text.decode()) for text in texts), np.int64, len(texts))
        self._sums["bytes"] += int(sizes @ often)
        self._sums["characters"] += int(letters @ often)
        self._sums["unknown_words"] += int(often[unknown[found]].sum())
        by_size = np.bincount(np.minimum(sizes, MAX_WORD_LENGTH), weights=often)
        for size in np.flatnonzero(by_size).tolist():
            if size:
                self._word_lengths[size] += int(by_size[size])

    def finish(self) -> dict[str, Any]:
        """Completes the shard's index and signatures; returns its statistics."""
        self._flush()
        self._index.finish()
        self._signatures.finish()
        shard = {
            "file": self._name,
            "records": self._records,
            "words": self._words,
            "bytes": self._size,
            "sha256": self._hash.hexdigest(),
        }
        lengths = {str(size): self._word_lengths[size] for size in sorted(self._word_lengths)}
        return {"shard": shard, "sums": self._sums, "word_lengths": lengths}
