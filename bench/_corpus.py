"""Text of any size for the benchmarks: seeded, and with a vocabulary that never stops growing.

Words are drawn by the Zipf-Mandelbrot law, p(k) proportional to (k + q)^-a for the word of rank
k = 0, 1, 2 ... With a = 1 / `HEAPS` the number of distinct words among n grows like n^`HEAPS`
(Heaps' law; D. van Leijenhorst and T. van der Weide, A formal derivation of Heaps' law, 2005), and
q = `FLAT_RANKS` keeps the first word from being half of the text. That makes 50,000 distinct
words among 2 million (12 MB), and a million among 280 million (1.6 GB). A line is a sentence: letters
only, single spaces, `LINE_WORDS` words on average, never empty.

Text is made in chunks of whole lines, each from the seed and its own number. Hence a smaller
corpus is the beginning of a larger one, and memory does not grow with the size.

Shape letters: N words, U distinct words.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from model.errors import InputError

HEAPS = 0.6
"""Exponent with which distinct words grow; `draw_ranks` is written for this one."""
FLAT_RANKS = 50.0
"""q: about so many of the first words are nearly as frequent as the very first."""
LINE_WORDS = 20
"""Words of a line, on average; lengths are geometric."""
LEAST_CHANCE = 2.0**-17
"""This share of the text, the rarest words, is left out; two billion words are left."""
CHUNK_WORDS = 1 << 18
SYLLABLES = ["ta", "re", "no", "li", "su", "me", "ka", "ve", "do", "si", "pa", "ru"]
"""The digits that spell a word's rank, most frequent words shortest."""
MAX_SYLLABLES = 9
WIDTH = 2 * MAX_SYLLABLES + 1
"""Bytes of the longest word and what follows it."""
TABLE_WORDS = 1 << 16
"""The spellings of so many words are kept."""
COUNTED_RANKS = 1 << 22
"""Of so many words one flag each says whether they occurred."""

IntArray = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text that was written.

    Attributes:
      path: the file.
      bytes: its size.
      words: N.
      lines: all have words and end with a line feed.
      distinct: U.
    """

    path: str
    bytes: int
    words: int
    lines: int
    distinct: int


def write_corpus(path: str, *, size: int, seed: int = 1) -> Corpus:
    """Writes a text of the largest number of whole lines that `size` bytes hold.

    Args:
      path: the file.
      size: bytes.
      seed: texts of other seeds have the same words in another order.

    Raises:
      InputError: not even the first line has room.
    """
    table = spell_words(np.arange(TABLE_WORDS))
    seen = _Seen()
    written = words = lines = number = 0
    with open(path, "wb") as file:
        whole = True
        while whole:
            ranks, ends = _draw_chunk(seed, number)
            rows = _spell_with(table, ranks)
            kept = _words_within(rows, ends, size - written)
            whole = kept == len(ranks)
            rows[:, -1] = np.where(ends, ord("\n"), ord(" "))
            written += file.write(rows[:kept].tobytes().translate(None, b"\0"))
            words += kept
            lines += int(np.count_nonzero(ends[:kept]))
            seen.add(ranks[:kept])
            number += 1
    if not words:
        raise InputError(f"a text of {size} bytes has no room for a line; make it larger")
    return Corpus(path=path, bytes=written, words=words, lines=lines, distinct=seen.count())


def spell_words(ranks: IntArray) -> Bytes:
    """Spells words; each rank has its own spelling, and a lower rank none that is longer.

    Args:
      ranks: `[N]`, as `draw_ranks` gives them.

    Returns:
      `[N, WIDTH]` letters from the left, then zeros.
    """
    rows = np.zeros((len(ranks), WIDTH), np.uint8)
    letters = np.array([list(syllable.encode()) for syllable in SYLLABLES], np.uint8)
    base = len(SYLLABLES)
    first = 0  # rank of the first word of so many syllables
    for syllables in range(1, MAX_SYLLABLES + 1):
        chosen = np.flatnonzero((ranks >= first) & (ranks < first + base**syllables))
        rest = ranks[chosen] - first
        for place in reversed(range(syllables)):
            rest, digit = np.divmod(rest, base)
            rows[chosen, 2 * place : 2 * place + 2] = letters[digit]
        first += base**syllables
    return rows


def draw_ranks(generator: np.random.Generator, count: int) -> IntArray:
    """Returns `[count]` ranks, by the inverse of the distribution function.

    For a continuous rank, P(rank > x) = (1 + x / q)^(1 - a), and 1 - a is -2/3. Products and
    roots only: a power may differ in its last bit on another processor.
    """
    chance = 1.0 - generator.random(count) * (1.0 - LEAST_CHANCE)
    ranks: IntArray = (FLAT_RANKS * (1.0 / (chance * np.sqrt(chance)) - 1.0)).astype(np.int64)
    return ranks


def _draw_chunk(seed: int, number: int) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Returns the words of a chunk, and whether each is the last of its line."""
    generator = np.random.default_rng([seed, number])
    ranks = draw_ranks(generator, CHUNK_WORDS)
    ends = generator.random(CHUNK_WORDS) < 1.0 / LINE_WORDS
    ends[-1] = True
    return ranks, ends


def _spell_with(table: Bytes, ranks: IntArray) -> Bytes:
    """Spells words, frequent ones by the table."""
    rows: Bytes = table[np.minimum(ranks, TABLE_WORDS - 1)]
    rare = np.flatnonzero(ranks >= TABLE_WORDS)
    rows[rare] = spell_words(ranks[rare])
    return rows


def _words_within(rows: Bytes, ends: npt.NDArray[np.bool_], room: int) -> int:
    """Returns how many words of a chunk make whole lines of at most `room` bytes."""
    if rows.size <= room:
        return len(rows)
    sizes = np.cumsum(np.count_nonzero(rows, axis=1) + 1)
    lines = np.flatnonzero(ends)
    fitting = int(np.searchsorted(sizes[lines], room, side="right"))
    return int(lines[fitting - 1]) + 1 if fitting else 0


class _Seen:
    """Counts distinct words; flags for frequent ones, a list of the few others."""

    def __init__(self) -> None:
        self._frequent = np.zeros(COUNTED_RANKS, np.bool_)
        self._rare: list[IntArray] = []

    def add(self, ranks: IntArray) -> None:
        """Takes the words of a chunk."""
        rare = ranks >= COUNTED_RANKS
        self._frequent[ranks[~rare]] = True
        self._rare.append(np.unique(ranks[rare]))

    def count(self) -> int:
        """Returns how many distinct words were added."""
        rare = np.unique(np.concatenate(self._rare))
        return int(np.count_nonzero(self._frequent)) + len(rare)
