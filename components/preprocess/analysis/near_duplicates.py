"""Near-duplicate records across splits: training text that would be scored as unseen.

Workers compute a signature of each record (`components.preprocess.passes.signatures`); one process
calls `count_leaks`, which examines pairs that agree in a band of `BAND_BINS` bins
(locality-sensitive hashing). Nothing depends on the process, the platform or Python's `hash`.

**Threshold.** If a share c of the words is changed at random, a shingle survives with probability s
= (1 - c)^5, so the index is s / (2 - s): 0.82 for 2 % of the words, 0.63 for 5 %, 0.42 for 10 %.
Hence `SIMILARITY` is 0.5; 0.8 would miss most copies with over 2 % of the words changed. At 0.5, of
copies in which each word is changed with probability 2, 5 and 7 %, it finds all, 97 and 61 % of
records of 1,024 words; 96, 76 and 57 % of records of 100 words, where the number of changes varies
more. Unrelated texts are near 0.

**Limits.** A record with fewer than `MIN_SHINGLES` used shingles, like most of fewer than 30 words,
is compared as a whole and matches only identical records. A record that is a small part of another
is not found, as their resemblance is low.

Shape letters: R records, K bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components.preprocess.passes.signatures import (
    ODD,
    SHINGLE_WORDS,
    Hashes,
    Signatures,
    estimate_similarity,
    mix,
)

SIMILARITY = 0.5
"""Records with at least this estimated resemblance are near-duplicates."""

SHOWN_PAIRS = 20
"""Pairs listed per split, most similar first."""
MAX_CANDIDATES = 8
"""Maximum training records of a block that one band proposes for a record: bounds the work on
boilerplate."""

_BLOCK = 1 << 16  # records compared at once
_VERIFIED = 1 << 12  # pairs compared at once
_FILTER = 1 << 20


def count_leaks(
    signatures: Mapping[str, Sequence[Signatures]],
    *,
    threshold: float = SIMILARITY,
    source_of: Callable[[str, int], str] | None = None,
) -> dict[str, Any]:
    """Counts the validation and test records that have a near-duplicate in the training split.

    Memory does not grow with the records if the parts are memory maps; time grows with the number
    of training records times the number of blocks of 65,536 records of the other splits.

    Args:
      signatures: split -> parts of `[R, K]` signatures in reading order; `train`, `valid`, `test`.
      threshold: minimum estimated resemblance of a near-duplicate.
      source_of: returns a record's source by split and number, for the listed pairs.

    Returns:
      JSON values: `threshold`, `shingle_words`; `compared`, records of each split; `valid` and
      `test`, how many have a near-duplicate; `same`, split -> how many of those have one without
      any visible difference; `examples`, up to `SHOWN_PAIRS` of each split with `split`, `record`
      and `train_record` (numbers in reading order), `similarity` and, with `source_of`, `source`
      and `train_source`.
    """
    result: dict[str, Any] = {
        "threshold": threshold,
        "shingle_words": SHINGLE_WORDS,
        "compared": {split: sum(map(len, parts)) for split, parts in signatures.items()},
        "same": {},
        "examples": [],
    }
    for split in ("valid", "test"):
        similarity, partner = find_most_similar(signatures[split], signatures["train"])
        result[split] = int((similarity >= threshold).sum())
        result["same"][split] = int((similarity == 1).sum())
        ranked = np.argsort(-similarity, kind="stable")[: min(SHOWN_PAIRS, result[split])]
        result["examples"] += [
            _describe_pair(split, int(record), int(partner[record]), source_of)
            | {"similarity": round(float(similarity[record]), 4)}
            for record in ranked
        ]
    return result


def _describe_pair(
    split: str, record: int, train_record: int, source_of: Callable[[str, int], str] | None
) -> dict[str, Any]:
    pair: dict[str, Any] = {"split": split, "record": record, "train_record": train_record}
    if source_of:
        pair["source"] = source_of(split, record)
        pair["train_source"] = source_of("train", train_record)
    return pair


def find_most_similar(
    records: Sequence[Signatures], train: Sequence[Signatures]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Finds a most similar training record for each record, among those that share a band.

    Args:
      records: parts of `[R, K]` signatures.
      train: likewise for the training split.

    Returns:
      `[R]` estimated resemblances and `[R]` numbers of the training records; 0 and -1 if no band
      is shared.
    """
    found = [_search(_Index(block), train) for _, block in _blocks(records)]
    return (
        np.concatenate([np.zeros(0), *(similarity for similarity, _ in found)]),
        np.concatenate([np.zeros(0, np.int64), *(partner for _, partner in found)]),
    )


def _search(
    index: _Index, train: Sequence[Signatures]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Searches for one block of records; see `find_most_similar`."""
    similarity = np.zeros(len(index.signatures))
    partner = np.full(len(index.signatures), -1, np.int64)
    for start, block in _blocks(train):
        for band, keys in enumerate(_band_keys(block)):
            for records, others in index.find(band, keys):
                open_ = similarity[records] < 1
                records, others = records[open_], others[open_]
                for begin in range(0, len(records), _VERIFIED):
                    mine = records[begin : begin + _VERIFIED]  # each occurs once
                    theirs = others[begin : begin + _VERIFIED]
                    found = estimate_similarity(index.signatures[mine], block[theirs])
                    better = found > similarity[mine]
                    similarity[mine[better]] = found[better]
                    partner[mine[better]] = start + theirs[better]
    return similarity, partner


class _Index:
    """A block of records, indexed by the keys of each band."""

    def __init__(self, signatures: Signatures) -> None:
        self.signatures = signatures
        self._bands = []
        for keys in _band_keys(signatures):
            order = np.argsort(keys, kind="stable")
            order = order[np.searchsorted(keys[order], np.uint64(1)) :]  # key 0: empty band
            seen = np.zeros(_FILTER, bool)
            seen[_fold(keys[order])] = True
            self._bands.append((order, *np.unique(keys[order], return_counts=True), seen))

    def find(
        self, band: int, keys: Hashes
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yields pairs of records that agree in a band; each array contains a record only once.

        Args:
          band: number of the band.
          keys: `[R]` keys of other records; of those with the same key, the first `MAX_CANDIDATES`
            are used.
        """
        order, own_keys, counts, seen = self._bands[band]
        place = np.flatnonzero(seen[_fold(keys)])  # avoids sorting most of them
        place = place[np.argsort(keys[place], kind="stable")]
        ordered = keys[place]
        begins = np.searchsorted(ordered, own_keys, side="left")
        ends = np.searchsorted(ordered, own_keys, side="right")
        for candidate in range(MAX_CANDIDATES):
            hit = begins + candidate < ends
            if not hit.any():
                return
            others = np.repeat(place[begins[hit] + candidate], counts[hit])
            yield order[np.repeat(hit, counts)], others


def _band_keys(signatures: Signatures) -> Hashes:
    """Returns `[1 + bands, R]` keys, 0 where all bins of a band are empty.

    The first is the key of the whole signature, so that equal ones always match.
    """
    bands = np.ascontiguousarray(signatures).view(np.uint64)
    whole = np.zeros(len(bands), np.uint64)
    for band in bands.T:
        whole = mix(whole + band) * ODD
    return np.concatenate([whole[None], bands.T])


def _fold(keys: Hashes) -> npt.NDArray[np.int64]:
    """Returns numbers below `_FILTER`, equal for equal keys."""
    return (keys & np.uint64(_FILTER - 1)).astype(np.int64)


def _blocks(parts: Sequence[Signatures]) -> Iterator[tuple[int, Signatures]]:
    """Yields blocks of records, across parts, with the number of their first record."""
    start = size = 0
    held: list[Signatures] = []
    for part in parts:
        for begin in range(0, len(part), _BLOCK):
            held.append(np.asarray(part[begin : begin + _BLOCK]))
            size += len(held[-1])
            if size >= _BLOCK:
                yield start, np.concatenate(held)
                start, size, held = start + size, 0, []
    if held:
        yield start, np.concatenate(held)
