"""Near-duplicate records across splits: text of the training split that is scored as unseen.

Workers make a signature of each record (`components.preprocess.passes.signatures`); one process
calls `count_leaks`, which looks at pairs that agree in a band of `BAND_BINS` bins
(locality-sensitive hashing). Nothing depends on the process, the platform or on Python's `hash`.

**Which threshold.** Where a share c of the words is changed here and there, a shingle survives
with (1 - c)^5, so the index is s / (2 - s) with s = (1 - c)^5: 0.82 for 2 % of the words, 0.63
for 5 %, 0.42 for 10 %. Hence `SIMILARITY` is 0.5; 0.8 would miss most with over 2 % of the
words changed. Found at 0.5, of copies in which each word changes with a chance of 2, 5 and 7 %: all,
97 and 61 % of records of 1,024 words; 96, 76 and 57 % of records of 100 words, where the number
of changes varies more. Texts that are not copies are near 0.

**Limits.** A record with fewer than `MIN_SHINGLES` shingles that are used, as most of fewer than 30
words, is compared as a whole, and only one of the very same words is its duplicate. A record
that is a small part of another isn't found: they resemble each other little.

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
"""Records of at least this estimated resemblance are near-duplicates."""

SHOWN_PAIRS = 20
"""That many pairs are named for each split, the most similar first."""
MAX_CANDIDATES = 8
"""Training records of a block that one band offers to a record: bounds the work on boilerplate."""

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

    Memory doesn't grow with the records if the parts are memory maps; time grows with the
    training records times the blocks of 65,536 records of the other splits.

    Args:
      signatures: split -> parts of `[R, K]` signatures in reading order; `train`, `valid`, `test`.
      threshold: least estimated resemblance of a near-duplicate.
      source_of: gives the source of a record by split and number, for the pairs that are named.

    Returns:
      As plain JSON values: `threshold`, `shingle_words`; `compared`, records of each split;
      `valid` and `test`, how many have a near-duplicate; `same`, split -> how many of
      those have one in which no difference is seen; `examples`, up to `SHOWN_PAIRS` of each split
      as `split`, `record` and `train_record` (numbers in reading order), `similarity` and, with
      `source_of`, `source` and `train_source`.
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
    """Finds a most similar training record of each record, among those that share a band with it.

    Args:
      records: parts of `[R, K]` signatures.
      train: the same of the training split.

    Returns:
      `[R]` estimated resemblances and `[R]` numbers of the training records; 0 and -1 where
      no band is shared.
    """
    found = [_search(_Index(block), train) for _, block in _blocks(records)]
    return (
        np.concatenate([np.zeros(0), *(similarity for similarity, _ in found)]),
        np.concatenate([np.zeros(0, np.int64), *(partner for _, partner in found)]),
    )


def _search(
    index: _Index, train: Sequence[Signatures]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Does the work of `find_most_similar` for one block of records."""
    similarity = np.zeros(len(index.signatures))
    partner = np.full(len(index.signatures), -1, np.int64)
    for start, block in _blocks(train):
        for band, keys in enumerate(_band_keys(block)):
            for records, others in index.find(band, keys):
                open_ = similarity[records] < 1
                records, others = records[open_], others[open_]
                for begin in range(0, len(records), _VERIFIED):
                    mine = records[begin : begin + _VERIFIED]  # each of them once
                    theirs = others[begin : begin + _VERIFIED]
                    found = estimate_similarity(index.signatures[mine], block[theirs])
                    better = found > similarity[mine]
                    similarity[mine[better]] = found[better]
                    partner[mine[better]] = start + theirs[better]
    return similarity, partner


class _Index:
    """A block of records, by the keys of each band."""

    def __init__(self, signatures: Signatures) -> None:
        self.signatures = signatures
        self._bands = []
        for keys in _band_keys(signatures):
            order = np.argsort(keys, kind="stable")
            order = order[np.searchsorted(keys[order], np.uint64(1)) :]  # key 0: nothing in it
            seen = np.zeros(_FILTER, bool)
            seen[_fold(keys[order])] = True
            self._bands.append((order, *np.unique(keys[order], return_counts=True), seen))

    def find(
        self, band: int, keys: Hashes
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yields pairs of records that agree in a band, in each array of pairs a record once.

        Args:
          band: its number.
          keys: `[R]` keys of other records; of those with the same key, the first
            `MAX_CANDIDATES` are taken.
        """
        order, own_keys, counts, seen = self._bands[band]
        place = np.flatnonzero(seen[_fold(keys)])  # spares sorting most of them
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

    The first is of the whole signature, so that equal ones always meet.
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
    """Yields the number of its first record, and a block of records that spans parts."""
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
