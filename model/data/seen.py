"""The training text that a model has seen: a compact set of hashes, and look-ups of records in it.

Text is hashed in units that don't depend on record or file boundaries, on names or on a
vocabulary:
* a whole line of at most `LONG_LINE` words;
* for a longer line, part of one, or text without line marks, runs of `RUN_WORDS` words, keeping
those with the smallest hash among `RUN_WORDS` neighbours (winnowing: Schleimer, Wilkerson and
Aiken, 2003). Two texts that share `2 * RUN_WORDS - 1` consecutive words share a unit.

A set of more than `MAX_HASHES` hashes keeps only those below a bound, a power of two, so unions
don't depend on the order. Reasons and figures: docs/decisions/0021. No TensorFlow here.

Shape letters: N words, R records, U units.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from model.errors import InputError
from model.files import write_whole
from model.text.vocab import DOCUMENT_START, LINE_END

SEEN_FILE = "seen.npy"
MAX_HASHES = 7_900_000
"""8 bytes each, so that a file stays under 64 MB."""
LONG_LINE = 32
RUN_WORDS = 16
TELLING_WORDS = 6
"""A record with a seen unit of at least this many words counts as seen."""
SEEN_SHARE = 0.5
"""So does a record with this share of its words, among those that can be looked up, in seen
units."""

FORMAT = 1
_SLICE = 1 << 18
"""Hashes of a set that are merged at a time."""
_HEADER = 3
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
_NONE = np.uint64(np.iinfo(np.uint64).max)
_ODD = np.uint64(0xD1342543DE82EF95)

Hashes = npt.NDArray[np.uint64]
IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_POWERS = np.multiply.accumulate(np.full(LONG_LINE, _ODD))


def hash_words(words: Sequence[bytes]) -> Hashes:
    """Returns a hash of the spelling of each word of a stream."""
    digests = (hashlib.blake2b(word, digest_size=8).digest() for word in words)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


_LINE_END, _DOCUMENT_START = hash_words([LINE_END, DOCUMENT_START])


class Units(NamedTuple):
    """The units of some records."""

    hashes: Hashes
    """`[U]`."""
    starts: IntArray
    """`[U]` first word of each, among all N."""
    lengths: IntArray
    """`[U]` words in each, excluding line marks."""


class SeenMasks(NamedTuple):
    """Results of a look-up."""

    seen: Mask
    """`[R]`."""
    unclear: Mask
    """`[R]` records without a unit that could be looked up, since the set is a sample."""


def cut_units(words: Hashes, lengths: IntArray, before: Hashes, *, every_run: bool) -> Units:
    """Cuts records into units.

    Args:
      words: `[N]` hashes of the words of the records, one record after the other.
      lengths: `[R]` words of each record.
      before: `[R]` hash of the context word of each record.
      every_run: keep all runs, for a look-up, instead of winnowing.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    inside = ends[lengths > 0] - 1
    marks = np.flatnonzero(words == _LINE_END)
    stops = np.union1d(marks, inside) + 1  # after a mark, or at the end of a record
    starts = np.concatenate([np.zeros(0, np.int64), [0], stops])[:-1][: len(stops)]
    is_marked = words[stops - 1] == _LINE_END
    sizes = stops - starts - is_marked
    context = np.full(len(words), _LINE_END)
    context[(ends - lengths)[lengths > 0]] = before[lengths > 0]
    context = context[starts]
    is_line = is_marked & ((context == _LINE_END) | (context == _DOCUMENT_START))
    is_whole = (sizes > 0) & np.where(is_line, sizes <= LONG_LINE, sizes < RUN_WORDS)
    is_cut = (sizes > 0) & ~is_whole & (sizes >= RUN_WORDS)
    whole = _hash_whole(words, starts[is_whole], sizes[is_whole])
    at = _choose_runs(words, starts[is_cut], sizes[is_cut], every_run=every_run)
    return Units(
        np.concatenate([whole, _hash_runs(words, at)]),
        np.concatenate([starts[is_whole], at]),
        np.concatenate([sizes[is_whole], np.full(len(at), RUN_WORDS, np.int64)]),
    )


def _hash_whole(words: Hashes, starts: IntArray, sizes: IntArray) -> Hashes:
    if not len(starts):
        return np.zeros(0, np.uint64)
    firsts = np.cumsum(sizes) - sizes
    place = np.arange(int(sizes.sum())) - np.repeat(firsts, sizes)
    return _mix(np.add.reduceat(words[np.repeat(starts, sizes) + place] * _POWERS[place], firsts))


def _hash_runs(words: Hashes, starts: IntArray) -> Hashes:
    """Hashes the runs of `RUN_WORDS` words that start at the given positions."""
    hashes = np.zeros(len(starts), np.uint64)
    for place in range(RUN_WORDS):
        hashes += words[starts + place] * _POWERS[place]
    return _mix(hashes)


def _choose_runs(words: Hashes, starts: IntArray, sizes: IntArray, *, every_run: bool) -> IntArray:
    """Returns where the kept runs of some stretches start."""
    counts = sizes - RUN_WORDS + 1
    places = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    at: IntArray = np.repeat(starts, counts) + places
    if every_run or not len(at):
        return at
    # `RUN_WORDS - 1` positions without a run separate two stretches, so no window spans both.
    hashes = np.full(len(words), _NONE)
    hashes[at] = _hash_runs(words, at)
    padding = np.full(RUN_WORDS - 1, _NONE)
    windows = np.lib.stride_tricks.sliding_window_view
    least = windows(np.concatenate([padding, hashes, padding]), RUN_WORDS).min(axis=1)
    is_least = windows(least, RUN_WORDS).max(axis=1) == hashes
    chosen: IntArray = at[is_least[at]]
    return chosen


def _mix(hashes: Hashes) -> Hashes:
    """Spreads hashes evenly over 64 bits (the finaliser of splitmix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


class SeenText:
    """Hashes of the units of some training text.

    Attributes:
      hashes: sorted, each once, all below `2**64 >> halvings`.
      halvings: how often the set was halved to stay within `MAX_HASHES`.
    """

    def __init__(self, hashes: Hashes | None = None, *, halvings: int = 0):
        """Makes a set.

        Args:
          hashes: in any order; None for an empty set.
          halvings: hashes above the resulting bound are left out.
        """
        given = hashes if hashes is not None else np.zeros(0, np.uint64)
        self.hashes, self.halvings = _limit(_distinct(given), halvings)

    @property
    def share(self) -> float:
        """Share of the units that the set can hold: 1 if it is not a sample."""
        return float(2.0**-self.halvings)

    def union(self, other: SeenText) -> SeenText:
        """Returns the union of two sets; independent of order and grouping."""
        united = SeenText()
        united.hashes, united.halvings = _limit(
            _merge(self.hashes, other.hashes), max(self.halvings, other.halvings)
        )
        return united

    def find(self, words: Hashes, lengths: IntArray, before: Hashes) -> SeenMasks:
        """Looks records up; arguments as for `cut_units`.

        A record counts as seen if a unit of at least `TELLING_WORDS` words is in the set, or if
        `SEEN_SHARE` of the words that could be looked up are in units of the set.
        """
        units = cut_units(words, lengths, before, every_run=True)
        is_sampled = units.hashes <= _NONE >> np.uint64(self.halvings)
        first, stop = (np.searchsorted(self.hashes, units.hashes, side) for side in _SIDES)
        is_seen: Mask = stop > first
        ends = np.cumsum(lengths, dtype=np.int64)
        owner = np.searchsorted(ends, units.starts, side="right")
        records = len(lengths)
        telling = np.bincount(owner[is_seen & (units.lengths >= TELLING_WORDS)], minlength=records)
        found, known = (_covered(units, which, ends, len(words)) for which in (is_seen, is_sampled))
        seen = (telling > 0) | ((found > 0) & (found >= SEEN_SHARE * known))
        return SeenMasks(seen, ~seen & (known == 0) & (lengths > 0))

    def to_bytes(self) -> bytes:
        """Returns the content of a file: format, halvings, checksum, then the hashes."""
        check = self.hashes.sum(dtype=np.uint64)
        header = np.asarray([FORMAT, self.halvings, check], "<u8")
        file = io.BytesIO()
        content = np.concatenate([header, self.hashes]).astype("<u8")
        np.lib.format.write_array(file, content, version=(1, 0), allow_pickle=False)
        return file.getvalue()

    def save(self, path: str) -> dict[str, str]:
        """Writes a file atomically; returns its SHA-256 as `{"sha256": ...}`."""
        data = self.to_bytes()
        write_whole(path, data)
        return {"sha256": hashlib.sha256(data).hexdigest()}

    @classmethod
    def load(cls, path: str, *, sha256: str = "") -> SeenText:
        """Reads what `save` wrote.

        Args:
          path: the file.
          sha256: of its content, if known.

        Raises:
          InputError: it is missing, damaged, of another format, or does not match `sha256`.
        """
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise InputError(
                f"{path} can't be read ({error.strerror}); make its folder again"
            ) from None
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise InputError(f"{path} was truncated or changed; make its folder again")
        try:
            content = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
            if content.dtype != np.uint64 or content.ndim != 1 or len(content) < _HEADER:
                raise ValueError
            version, halvings, check = content[:_HEADER].tolist()
            hashes = content[_HEADER:]
            if version != FORMAT or halvings > 63 or int(hashes.sum(dtype=np.uint64)) != check:
                raise ValueError
        except (ValueError, EOFError, SyntaxError):
            raise InputError(
                f"{path} is damaged or of another format; make its folder again"
            ) from None
        return cls(hashes, halvings=halvings)


def _distinct(hashes: Hashes) -> Hashes:
    """Returns hashes sorted, each once."""
    # np.unique makes a hash table, which takes seconds and hundreds of megabytes at this size.
    ordered = np.sort(hashes)
    is_first = np.ones(len(ordered), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]


def _merge(one: Hashes, other: Hashes) -> Hashes:
    """Returns the union of two sorted sets, or more than `MAX_HASHES` of its least hashes."""
    if len(one) < len(other):
        one, other = other, one
    edges = one[_SLICE::_SLICE]
    parts: list[Hashes] = []
    slices = (np.split(side, np.searchsorted(side, edges)) for side in (one, other))
    for pair in zip(*slices, strict=True):
        parts.append(_distinct(np.concatenate(pair)))
        if sum(map(len, parts)) > MAX_HASHES:
            break
    return np.concatenate(parts)


def _limit(distinct: Hashes, halvings: int) -> tuple[Hashes, int]:
    """Returns those below the bound of so many halvings or more, and how many it takes."""
    while (count := _count_below(distinct, halvings)) > MAX_HASHES:
        halvings += 1
    return distinct[:count].copy(), halvings


def _count_below(hashes: Hashes, halvings: int) -> int:
    return int(np.searchsorted(hashes, _NONE >> np.uint64(halvings), side="right"))


def _covered(units: Units, which: Mask, ends: IntArray, words: int) -> IntArray:
    """Returns how many words of each record the selected units cover."""
    edges = np.zeros(words + 1, np.int64)
    np.add.at(edges, units.starts[which], 1)
    np.add.at(edges, (units.starts + units.lengths)[which], -1)
    inside = np.concatenate([[0], np.cumsum(np.cumsum(edges[:-1]) > 0)])
    return np.diff(inside[ends], prepend=0)


def unite(sets: Iterable[SeenText]) -> SeenText:
    """Returns the union of sets."""
    united = SeenText()
    for one in sets:
        united = united.union(one)
    return united
