"""Text of any size for the benchmarks: seeded, with a vocabulary that keeps growing.

Words follow the Zipf-Mandelbrot law, p(k) proportional to (k + q)^-a for the word of rank k = 0, 1,
2 ... With a = 1 / `HEAPS` the number of distinct words among n grows like n^`HEAPS` (Heaps' law; D.
van Leijenhorst and T. van der Weide, A formal derivation of Heaps' law, 2005), and q = `FLAT_RANKS`
keeps the first word from being half of the text. This gives 50,000 distinct words among 2 million
(12 MB), and a million among 280 million (1.6 GB). A line is a sentence: only letters and single
spaces, `LINE_WORDS` words on average, never empty.

Text is generated in chunks of whole lines, each from the seed and its number. So a smaller corpus
is a prefix of a larger one, and memory does not grow with the size.

Shape letters: N words, U distinct words.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from model.errors import InputError

HEAPS = 0.6
"""Exponent of the growth of distinct words; `draw_ranks` assumes this value."""
FLAT_RANKS = 50.0
"""q: about this many of the first words are nearly as frequent as the very first."""
LINE_WORDS = 20
"""Average words per line; lengths are geometric."""
LEAST_CHANCE = 2.0**-17
"""Share of the text, of its rarest words, that is left out; two billion words remain."""
CHUNK_WORDS = 1 << 18
SYLLABLES = ["ta", "re", "no", "li", "su", "me", "ka", "ve", "do", "si", "pa", "ru"]
"""The digits that spell a word's rank, most frequent words shortest."""
MAX_SYLLABLES = 9
WIDTH = 2 * MAX_SYLLABLES + 1
"""Bytes of the longest word and its separator."""
TABLE_WORDS = 1 << 16
"""Number of words whose spellings are cached."""
COUNTED_RANKS = 1 << 22
"""Number of words that have a flag for having occurred."""

IntArray = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """A generated text.

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
    """Writes the largest number of whole lines that fit in `size` bytes.

    Args:
      path: the file.
      size: bytes.
      seed: other seeds give the same words in another order.

    Raises:
      InputError: not even the first line fits.
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
    """Spells words; each rank has its own spelling, and lower ranks never have longer ones.

    Args:
      ranks: `[N]` result of `draw_ranks`.

    Returns:
      `[N, WIDTH]` letters from the left, then zeros.
    """
    rows = np.zeros((len(ranks), WIDTH), np.uint8)
    letters = np.array([list(syllable.encode()) for syllable in SYLLABLES], np.uint8)
    base = len(SYLLABLES)
    first = 0  # rank of the first word with this many syllables
    for syllables in range(1, MAX_SYLLABLES + 1):
        chosen = np.flatnonzero((ranks >= first) & (ranks < first + base**syllables))
        rest = ranks[chosen] - first
        for place in reversed(range(syllables)):
            rest, digit = np.divmod(rest, base)
            rows[chosen, 2 * place : 2 * place + 2] = letters[digit]
        first += base**syllables
    return rows


def draw_ranks(generator: np.random.Generator, count: int) -> IntArray:
    """Returns `[count]` ranks, by inverting the distribution function.

    For a continuous rank, P(rank > x) = (1 + x / q)^(1 - a), and 1 - a is -2/3. Uses only products
    and roots: powers may differ in the last bit between processors.
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
    """Spells words, frequent ones from the table."""
    rows: Bytes = table[np.minimum(ranks, TABLE_WORDS - 1)]
    rare = np.flatnonzero(ranks >= TABLE_WORDS)
    rows[rare] = spell_words(ranks[rare])
    return rows


def _words_within(rows: Bytes, ends: npt.NDArray[np.bool_], room: int) -> int:
    """Returns how many words of a chunk fit in whole lines of at most `room` bytes."""
    if rows.size <= room:
        return len(rows)
    sizes = np.cumsum(np.count_nonzero(rows, axis=1) + 1)
    lines = np.flatnonzero(ends)
    fitting = int(np.searchsorted(sizes[lines], room, side="right"))
    return int(lines[fitting - 1]) + 1 if fitting else 0


class _Seen:
    """Counts distinct words: flags for frequent ones, a list for the few others."""

    def __init__(self) -> None:
        self._frequent = np.zeros(COUNTED_RANKS, np.bool_)
        self._rare: list[IntArray] = []

    def add(self, ranks: IntArray) -> None:
        """Adds the words of a chunk."""
        rare = ranks >= COUNTED_RANKS
        self._frequent[ranks[~rare]] = True
        self._rare.append(np.unique(ranks[rare]))

    def count(self) -> int:
        """Returns how many distinct words were added."""
        rare = np.unique(np.concatenate(self._rare))
        return int(np.count_nonzero(self._frequent)) + len(rare)
