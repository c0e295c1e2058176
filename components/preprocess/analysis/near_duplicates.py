"""Near-duplicate records across splits: training text that would be scored as unseen.

Workers compute a signature of each record (`components.preprocess.passes.signatures`); one process
calls `count_leaks`, which indexes validation and test records by bands of their signatures
(`components.preprocess.analysis.band_index`) and looks every training record up. A shared band
makes a pair a candidate; the resemblance estimated from both signatures decides. Nothing depends on
the process, the platform, the number of threads or Python's `hash`.

**Threshold.** If a share c of the words is changed at random, a shingle survives with probability s
= (1 - c)^5, so the index is s / (2 - s): 0.82 for 2 % of the words, 0.63 for 5 %, 0.42 for 10 %.
Hence `SIMILARITY` is 0.5; 0.8 would miss most copies with over 2 % of the words changed. At 0.5, of
copies in which each word is changed with probability 2, 5 and 7 %, it finds all, 97 and 61 % of
records of 1,024 words; 96, 76 and 57 % of records of 100 words, where the number of changes varies
more. Unrelated texts are near 0.

**Limits.** A record with fewer than `MIN_SHINGLES` used shingles, like most of fewer than 30 words,
is compared as a whole and matches only identical records. A record that is a small part of another
is not found, as their resemblance is low. Two records without empty bins agree in one of
the 32 bands of 4 bins with probability 1 - (1 - s^4)^32 if a share s of the bins is equal: 0.873 for
s = 0.5, 0.988 for 0.6, 0.9998 for 0.7. Equal signatures always match.

Shape letters: R records, K bins.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from components.preprocess.analysis.band_index import BandIndex, band_keys
from components.preprocess.passes.signatures import (
    BINS,
    SHINGLE_WORDS,
    Signatures,
    estimate_similarity,
)

SIMILARITY = 0.5
"""Records with at least this estimated resemblance are near-duplicates."""

SHOWN_PAIRS = 20
"""Pairs listed per split, most similar first."""

_BLOCK = 1 << 16  # training records looked up at once
_INDEXED = 1 << 18  # records of an index
_VERIFIED = 1 << 12  # pairs compared at once
_AHEAD = 2  # blocks per thread that are under way or wait to be added


class Part(Protocol):
    """`[R, K]` signatures, in memory or in a file; a slice is an array."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: slice, /) -> Signatures: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """How much is compared, and how."""

    records: int | None = None
    """Maximum number of records compared per split, evenly spaced; None: all."""
    threads: int = 1
    """Threads that look training records up."""
    progress: Callable[[float], None] | None = None
    """Called with the share of the work that is done, from 0 to 1."""


ALL = Search()


def count_leaks(
    signatures: Mapping[str, Sequence[Part]],
    *,
    threshold: float = SIMILARITY,
    source_of: Callable[[str, int], str] | None = None,
    search: Search = ALL,
) -> dict[str, Any]:
    """Counts the validation and test records that have a near-duplicate in the training split.

    Time grows with the training records times the number of blocks of 262,144 records of the other
    splits, so with the training records alone for up to 131,072 records per split. Memory does not
    grow with the records if the parts are in files: 0.9 KB per record of a block and about 60 MB
    per thread.

    Args:
      signatures: split -> parts of `[R, K]` signatures in reading order; `train`, `valid`, `test`.
      threshold: minimum estimated resemblance of a near-duplicate.
      source_of: returns a record's source by split and number, for the listed pairs.
      search: how much is compared.

    Returns:
      JSON values: `threshold`, `shingle_words`; `compared`, number of compared records of each
      split; `out_of`, likewise of all records, only if fewer were compared; `valid` and `test`, how
      many have a near-duplicate; `same`, split -> how many of those have one without any visible
      difference; `examples`, up to `SHOWN_PAIRS` of each split with `split`, `record` and
      `train_record` (numbers in reading order), `similarity` and, with `source_of`, `source` and
      `train_source`.
    """
    records = {split: sum(map(len, parts)) for split, parts in signatures.items()}
    chosen = {split: choose_records(records[split], search.records) for split in ("valid", "test")}
    compared = {"train": records["train"]} | {split: len(own) for split, own in chosen.items()}
    similarity, partner = find_most_similar(
        [Picked(signatures[split], own) for split, own in chosen.items()],
        signatures["train"],
        search=search,
    )
    result: dict[str, Any] = {
        "threshold": threshold,
        "shingle_words": SHINGLE_WORDS,
        "compared": {split: compared[split] for split in signatures},
        **({"out_of": records} if compared != records else {}),
        "same": {},
        "examples": [],
    }
    begin = 0
    for split, own in chosen.items():
        likeness = similarity[begin : begin + len(own)]
        others = partner[begin : begin + len(own)]
        begin += len(own)
        result[split] = int((likeness >= threshold).sum())
        result["same"][split] = int((likeness == 1).sum())
        ranked = np.argsort(-likeness, kind="stable")[: min(SHOWN_PAIRS, result[split])]
        result["examples"] += [
            _describe_pair(split, int(own[place]), int(others[place]), source_of)
            | {"similarity": round(float(likeness[place]), 4)}
            for place in ranked
        ]
    return result


def choose_records(count: int, limit: int | None) -> npt.NDArray[np.int64]:
    """Returns the numbers of at most `limit` of `count` records, evenly spaced."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.arange(limit) * count // max(limit, 1)


def _describe_pair(
    split: str, record: int, train_record: int, source_of: Callable[[str, int], str] | None
) -> dict[str, Any]:
    pair: dict[str, Any] = {"split": split, "record": record, "train_record": train_record}
    if source_of:
        pair["source"] = source_of(split, record)
        pair["train_source"] = source_of("train", train_record)
    return pair


def find_most_similar(
    records: Sequence[Part], train: Sequence[Part], *, search: Search = ALL
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Finds a most similar training record for each record, among those that share a band.

    Args:
      records: parts of `[R, K]` signatures.
      train: likewise for the training split.
      search: threads and progress.

    Returns:
      `[R]` estimated resemblances and `[R]` numbers of the training records; 0 and -1 if no band
      is shared.
    """
    own, others = Parts(records), Parts(train)
    similarity, partner = np.zeros(len(own)), np.full(len(own), -1, np.int64)
    rounds = range(0, len(own), _INDEXED)
    blocks = range(0, len(others), _BLOCK)
    for number, begin in enumerate(rounds):
        index = BandIndex(own.read(begin, begin + _INDEXED))
        mine = slice(begin, begin + len(index.signatures))

        def look_up(start: int, index: BandIndex = index, mine: slice = mine) -> _Found:
            block = others.read(start, start + _BLOCK)
            return _compare(index, block, start, done=similarity[mine] == 1)

        for done, found in enumerate(_in_order(look_up, blocks, threads=search.threads), 1):
            better = found.similarity > similarity[mine]
            similarity[mine][better] = found.similarity[better]
            partner[mine][better] = found.partner[better]
            if search.progress:
                search.progress((number + done / len(blocks)) / len(rounds))
    return similarity, partner


@dataclasses.dataclass(frozen=True)
class _Found:
    """The most similar training records of a block, as of `find_most_similar`."""

    similarity: npt.NDArray[np.float64]
    partner: npt.NDArray[np.int64]


def _compare(
    index: BandIndex, block: Signatures, start: int, *, done: npt.NDArray[np.bool_]
) -> _Found:
    """Compares the records of an index with a block of training records.

    Args:
      index: the records.
      block: `[R, K]` signatures of the training records.
      start: number of the first of these.
      done: records for which an equal training record is known.
    """
    found = _Found(done.astype(np.float64), np.full(len(done), -1, np.int64))
    for band, keys in enumerate(band_keys(block)):
        for records, others in index.find(band, keys):
            open_ = found.similarity[records] < 1
            records, others = records[open_], others[open_]
            for begin in range(0, len(records), _VERIFIED):
                mine = records[begin : begin + _VERIFIED]  # each occurs once
                theirs = others[begin : begin + _VERIFIED]
                likeness = estimate_similarity(index.signatures[mine], block[theirs])
                better = likeness > found.similarity[mine]
                found.similarity[mine[better]] = likeness[better]
                found.partner[mine[better]] = start + theirs[better]
    return found


def _in_order(
    act: Callable[[int], _Found], starts: Sequence[int], *, threads: int
) -> Iterator[_Found]:
    """Yields what `act` returns, in order, a few results ahead of the caller at most.

    NumPy releases the interpreter lock in everything that takes time here.
    """
    left = iter(starts)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting = [pool.submit(act, start) for start in itertools.islice(left, _AHEAD * threads)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(act, start) for start in itertools.islice(left, 1)]
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption waits for the blocks under way only


class Parts:
    """Signatures in several parts, read as one array."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Takes the parts in order."""
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        """Returns R of all parts."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, begin: int, end: int) -> Signatures:
        """Returns the signatures of records `begin` to `end` (exclusive), or to the last one."""
        held = []
        first = int(np.searchsorted(self._ends, begin, side="right"))
        for part, last in zip(self._parts[first:], self._ends[first:], strict=True):
            offset = int(last) - len(part)
            held.append(part[max(begin - offset, 0) : end - offset])
            if last >= end:
                break
        return np.concatenate(held)


class Picked:
    """Some records of several parts, as one part."""

    def __init__(self, parts: Sequence[Part], numbers: npt.NDArray[np.int64]) -> None:
        """Takes the numbers of the records, ascending."""
        self._parts = Parts(parts)
        self._numbers = numbers

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self._numbers)

    def __getitem__(self, place: slice) -> Signatures:
        """Returns the signatures of a slice of them, without reading more than a block at once."""
        numbers = self._numbers[place]
        held = []
        while len(numbers):
            begin = int(numbers[0])
            count = int(np.searchsorted(numbers, begin + _BLOCK))
            block = self._parts.read(begin, int(numbers[count - 1]) + 1)
            held.append(block[numbers[:count] - begin])
            numbers = numbers[count:]
        return np.concatenate([np.zeros([0, BINS], np.uint16), *held])
