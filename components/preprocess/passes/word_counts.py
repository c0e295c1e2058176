"""Counts words that do not fit into memory: spills to files by hash, merges part by part.

The number of distinct words grows with the corpus. A counter keeps a dictionary of bounded size and
writes it, when full, to a file of `PARTS` sections, by a hash of the word. Merging processes one
section of all files at a time.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from model.data.records import SPLITS
from model.files import write_whole
from model.text.vocab import DOCUMENT_START, LINE_END, SPECIAL_WORDS, Vocabulary

PARTS = 16

MAX_WORDS = 400_000
MAX_BYTES = 64 << 20
"""A counter with more distinct words than this, or more bytes of them, is written to a file."""

LISTED_WORDS = 50
"""Number of most frequent words, and of most frequent unknown words, kept."""

_MARKS = {DOCUMENT_START, LINE_END}
_ROOM = 100_000

_END = b"\n"
"""Ends a word in a file; the line end itself, the only word that contains one, is written as
b''."""


class WordCounter:
    """Counts the words of each split, in bounded memory."""

    def __init__(self, folder: str = "", name: str = ""):
        """Starts empty; files go into `folder`, and without one all counts stay in memory.

        File names start with `name`: counting the same text again replaces them.
        """
        self._folder = folder
        self._name = name
        self._trials = 0
        self.files: list[str] = []
        """Names of the written files."""
        self._clear()

    def _clear(self) -> None:
        self._counts: dict[str, dict[bytes, int]] = {split: {} for split in SPLITS}
        self._bytes = 0

    def __len__(self) -> int:
        """Returns the number of counts in memory."""
        return sum(map(len, self._counts.values()))

    def add(self, split: str, words: Sequence[bytes], counts: Sequence[int]) -> None:
        """Adds the counts of distinct words."""
        total = self._counts[split]
        for word, count in zip(words, counts, strict=True):
            if word in total:
                total[word] += count
            else:
                total[word] = count
                self._bytes += len(word)
        if self._folder and (len(self) > MAX_WORDS or self._bytes > MAX_BYTES):
            self.flush()

    def try_out(self) -> WordCounter:
        """Returns a counter for text that may be bad, to be passed to `merge` or discarded."""
        self._trials += 1
        return WordCounter(self._folder, f"{self._name}.{self._trials:06d}")

    def merge(self, other: WordCounter) -> None:
        """Adds the counts of a counter that `try_out` returned, which is not used any more."""
        if other.files:
            other.flush()
            self.files += other.files
            return
        for split, counts in other._counts.items():
            self.add(split, list(counts), list(counts.values()))

    def discard(self) -> None:
        """Removes the counts and the files."""
        for name in self.files:
            os.remove(os.path.join(self._folder, name))
        self.files = []
        self._clear()

    def flush(self) -> None:
        """Writes the counts to one file per split, and starts again from zero."""
        for split, counts in self._counts.items():
            if not counts:
                continue
            file = io.BytesIO()
            for words in _by_part(counts):
                _write_section(file, words, counts)
            name = f"{self._name}-{len(self.files):04d}{_ending(split)}"
            write_whole(os.path.join(self._folder, name), file.getvalue(), flush=False)
            self.files.append(name)
        self._clear()


def _ending(split: str) -> str:
    return f".{split}.counts"


def _by_part(words: Mapping[bytes, int]) -> list[list[bytes]]:
    parts: list[list[bytes]] = [[] for _ in range(PARTS)]
    for word in words:
        parts[zlib.crc32(word) % PARTS].append(word)
    return parts


def _write_section(file: BinaryIO, words: Sequence[bytes], counts: Mapping[bytes, int]) -> None:
    text = b"".join([(b"" if word == LINE_END else word) + _END for word in words])
    np.save(file, np.frombuffer(text, np.uint8))
    np.save(file, np.fromiter(map(counts.__getitem__, words), np.int64, len(words)))


def _read_section(file: BinaryIO) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    text = np.load(file).tobytes()
    counts = np.load(file)
    return [word or LINE_END for word in text.split(_END)[:-1]], counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """Statistics of a split's words, excluding marks.

    Attributes:
      distinct: number of distinct words.
      distinct_unknown: how many of those are not in the vocabulary.
      frequent: the most frequent words and their counts, ties by spelling.
      frequent_unknown: the most frequent ones not in the vocabulary.
      histogram: count -> how many distinct words have this count.
    """

    distinct: int
    distinct_unknown: int
    frequent: list[tuple[bytes, int]]
    frequent_unknown: list[tuple[bytes, int]]
    histogram: dict[int, int]


def build_vocabulary(
    paths: Sequence[str],
    *,
    max_size: int,
    min_count: int,
    words: Sequence[str] | None = None,
    extend: bool = False,
) -> Vocabulary:
    """Builds the vocabulary from the training split's counts.

    Args:
      paths: the files of `WordCounter`s.
      max_size: maximum V.
      min_count: words seen less often are left out.
      words: the given words, if any; without `extend` the other two limits have no effect then.
      extend: keep all `words` and add the most frequent others, as far as there is room.
    """
    given = {word.encode() for word in words or ()}
    chosen: dict[bytes, int] = {}
    others: dict[bytes, int] = {}
    total = 0
    for counts in _merged(paths, "train"):
        total += sum(counts.values())
        chosen |= {word: counts.pop(word) for word in (given | _MARKS) & counts.keys()}
        if words is None or extend:
            others |= counts
            if len(others) > 4 * max_size + _ROOM:
                others = _most_frequent(others, max_size)
    others = _most_frequent(others, max_size)  # avoids ranking all
    if words is None:
        kept = chosen | others
        rest = total - sum(kept.values())
        return Vocabulary.build(kept, max_size=max_size, min_count=min_count, others=rest)
    literal = {word.encode() for word in SPECIAL_WORDS}
    ranked = [word for word, count in others.items() if count >= min_count and word not in literal]
    added = ranked[: max(0, max_size - len(SPECIAL_WORDS) - len(words))]
    kept = chosen | {word: others[word] for word in added}
    return Vocabulary.choose(
        kept, [*words, *(word.decode() for word in added)], others=total - sum(kept.values())
    )


def describe_split(paths: Sequence[str], split: str, vocab: Vocabulary) -> SplitCounts:
    """Counts the words of a split, known and unknown."""
    distinct = unknown = 0
    frequent: dict[bytes, int] = {}
    frequent_unknown: dict[bytes, int] = {}
    histogram: collections.Counter[int] = collections.Counter()
    for counts in _merged(paths, split):
        for mark in _MARKS:
            counts.pop(mark, None)
        distinct += len(counts)
        histogram.update(counts.values())
        others = {word: count for word, count in counts.items() if word not in vocab.ids}
        unknown += len(others)
        frequent = _most_frequent(frequent | counts, LISTED_WORDS)
        frequent_unknown = _most_frequent(frequent_unknown | others, LISTED_WORDS)
    return SplitCounts(
        distinct=distinct,
        distinct_unknown=unknown,
        frequent=list(frequent.items()),
        frequent_unknown=list(frequent_unknown.items()),
        histogram=dict(sorted(histogram.items())),
    )


def _most_frequent(counts: Mapping[bytes, int], number: int) -> dict[bytes, int]:
    """Returns the most frequent words, ties by spelling, in that order."""
    if len(counts) > number:
        values = np.fromiter(counts.values(), np.int64, len(counts))
        least = int(np.partition(values, -number)[-number])
        counts = {word: count for word, count in counts.items() if count >= least}
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return dict(ranked[:number])


def _merged(paths: Sequence[str], split: str) -> Iterator[dict[bytes, int]]:
    """Yields the total counts of each section; holds the words of one section, each once."""
    paths = [path for path in paths if path.endswith(_ending(split))]
    places = [0] * len(paths)
    for _ in range(PARTS):
        sums = _Sums()
        for number, path in enumerate(paths):
            with open(path, "rb") as file:
                file.seek(places[number])
                sums.add(*_read_section(file))
                places[number] = file.tell()
        yield sums.result()


class _Sums:
    """Adds up counts of words, section after section."""

    def __init__(self) -> None:
        self._numbers: collections.defaultdict[bytes, int] = collections.defaultdict(
            itertools.count().__next__
        )
        self._sums = np.zeros(1024, np.int64)

    def add(self, words: Sequence[bytes], counts: npt.NDArray[np.int64]) -> None:
        """Adds the counts of distinct words."""
        place = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        if len(self._numbers) > len(self._sums):
            self._sums = np.pad(self._sums, (0, 2 * len(self._numbers) - len(self._sums)))
        self._sums[place] += counts

    def result(self) -> dict[bytes, int]:
        return dict(zip(self._numbers, self._sums.tolist(), strict=False))
