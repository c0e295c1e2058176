"""Near-duplicate records across splits: text of the training split that is scored as unseen.

The resemblance of two records is the Jaccard index of their sets of shingles, runs of
`SHINGLE_WORDS` words (A. Broder, On the resemblance and containment of documents, 1997). It is
estimated from signatures of fixed size. Of the shingles, those are used whose first word has a hash
divisible by `SAMPLED`, which spares most of the work and is decided alike in a copy. Each of them is
hashed, its hash falls into one of K bins, and of each bin the least hash is kept (P. Li, A. Owen
and C.-H. Zhang, One permutation hashing, 2012), of that the low 16 bits (P. Li and A. C. König,
b-bit minwise hashing, 2010). Of two signatures, the share of equal bins among those that are not
empty in both is the estimate. Its standard error was 0.06 for records of 1,024 words, 0.09 for 250
and 0.15 for 100.

Workers call `make_signatures`; one process calls `count_leaks`, which looks at pairs that
agree in a band of `BAND_BINS` bins (locality-sensitive hashing). Nothing depends on the
process, the platform or on Python's `hash`.

**Which threshold.** Where a share c of the words is changed here and there, a shingle survives
with (1 - c)^5, so the index is s / (2 - s) with s = (1 - c)^5: 0.82 for 2 % of the words, 0.63
for 5 %, 0.42 for 10 %. Hence `SIMILARITY` is 0.5; 0.8 would miss most with over 2 % of the
words changed. Found at 0.5, of copies in which each word changes with a chance of 2, 5 and 7 %: all,
97 and 61 % of records of 1,024 words; 96, 76 and 57 % of records of 100 words, where the number
of changes varies more. Texts that are not copies are near 0.

**Limits.** A record with fewer than `MIN_SHINGLES` shingles that are used, as most of fewer than 30
words, is compared as a whole, and only one of the very same words is its duplicate. A record
that is a small part of another isn't found: they resemble each other little.

Shape letters: L words in a record, R records, K bins, U distinct words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SHINGLE_WORDS = 5
BINS = 128
"""K, a power of two."""
BAND_BINS = 4
"""Bins of 16 bits that make one band, a key of 64 bits."""
SAMPLED = 4
"""One shingle of so many is used, by its first word: that of a copy is used, too."""
MIN_SHINGLES = 8
"""A record with fewer shingles that are used is compared as a whole."""
SIMILARITY = 0.5
"""Records of at least this estimated resemblance are near-duplicates."""

SHOWN_PAIRS = 20
"""That many pairs are named for each split, the most similar first."""
MAX_CANDIDATES = 8
"""Training records of a block that one band offers to a record: bounds the work on boilerplate."""

Hashes = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint16]

_EMPTY = 0  # a bin without a shingle
_NONE = np.iinfo(np.uint64).max
_BIN_SHIFT = np.uint64(64 - (BINS.bit_length() - 1))
_GOLDEN, _ODD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)
_BLOCK = 1 << 16  # records compared at once
_VERIFIED = 1 << 12  # pairs compared at once
_FILTER = 1 << 20


def signature(words: Hashes) -> Signatures:
    """Returns the `[K]` signature of one record of `[L]` words; see `make_signatures`."""
    return make_signatures(words, np.arange(len(words)), np.array([len(words)])).reshape(BINS)


def make_signatures(
    distinct: Hashes, words: npt.NDArray[np.integer[Any]], lengths: npt.NDArray[np.integer[Any]]
) -> Signatures:
    """Returns the signatures of records; many records at once cost less than one by one.

    Args:
      distinct: `[U]` anything of 64 bits that is the same for the same word in all of the corpus,
        such as a fingerprint of its spelling. (Ids of a vocabulary make all unknown words one.)
      words: `[sum(lengths)]` which of these the words of the records are, one record after the
        other, context words not included.
      lengths: `[R]` L of each record.

    Returns:
      `[R, K]`, 2K bytes a record. That of a record without a word is all 0 and resembles none.

    Raises:
      ValueError: the lengths don't add up to the words.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    if len(words) != (ends[-1] if len(ends) else 0):
        raise ValueError(f"the lengths of {len(ends)} records don't add up to {len(words)} words")
    mixed = _mix(np.ascontiguousarray(distinct, np.uint64))
    places = np.flatnonzero((mixed % np.uint64(SAMPLED) == 0)[words])
    owner = np.repeat(np.arange(len(ends)), np.diff(np.searchsorted(places, ends), prepend=0))
    whole = places + SHINGLE_WORDS <= ends[owner]
    places, owner = places[whole], owner[whole]
    short = np.bincount(owner, minlength=len(ends)) < MIN_SHINGLES
    kept = ~short[owner]
    places, owner = places[kept], owner[kept]
    signatures = np.empty([len(ends), BINS], np.uint16)
    signatures[~short] = _sign_long(
        _hash_shingles(mixed, words, places), (np.cumsum(~short) - 1)[owner], int((~short).sum())
    )
    signatures[short] = _sign_short(mixed, words, (ends - lengths)[short], ends[short])
    return signatures


def _sign_long(shingles: Hashes, owner: npt.NDArray[np.intp], count: int) -> Signatures:
    """Returns the signatures of `count` records, which own the shingles."""
    least = np.full(count * BINS, _NONE)
    np.minimum.at(least, owner * BINS + (shingles >> _BIN_SHIFT).astype(np.int64), shingles)
    signatures = np.where(least == _NONE, np.uint16(_EMPTY), _low_bits(least))
    return signatures.reshape(count, BINS)


def _hash_shingles(
    mixed: Hashes, words: npt.NDArray[np.integer[Any]], places: npt.NDArray[np.intp]
) -> Hashes:
    """Returns a hash of each of the runs of `SHINGLE_WORDS` words that begin at some places."""
    hashes = np.zeros(len(places), np.uint64)
    for place in range(SHINGLE_WORDS):
        hashes *= _ODD
        hashes += mixed[words[places + place]]
    return _mix(hashes)


def _sign_short(
    mixed: Hashes,
    words: npt.NDArray[np.integer[Any]],
    begins: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> Signatures:
    """Returns signatures that are equal for equal records, and else agree in no band."""
    lengths = ends - begins
    owner = np.repeat(np.arange(len(ends)), lengths)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    hashes = lengths.astype(np.uint64)
    terms = mixed[words[begins[owner] + place]] + place.astype(np.uint64) * _GOLDEN
    np.add.at(hashes, owner, _mix(terms))
    bands = np.arange(1, 2 * BINS // BAND_BINS, 2, dtype=np.uint64)  # odd: none loses a bit
    signatures = (_mix(hashes)[:, None] * bands).view(np.uint16) | np.uint16(1)
    signatures[lengths == 0] = _EMPTY
    return signatures


def _mix(values: Hashes) -> Hashes:
    """Returns well mixed bits of each value (the finaliser of SplitMix64; Steele et al. 2014)."""
    mixed = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _low_bits(hashes: Hashes) -> Signatures:
    """Returns the low 16 bits of hashes, never `_EMPTY`."""
    return np.maximum(hashes.astype(np.uint16), np.uint16(1))


def estimate_similarity(one: Signatures, other: Signatures) -> npt.NDArray[np.float64]:
    """Returns the estimated Jaccard index of pairs of signatures, `[..., K]` each.

    It is 0 where both are those of records without a word.
    """
    matches = ((one == other) & (one != _EMPTY)).sum(axis=-1)
    used = ((one | other) != _EMPTY).sum(axis=-1)
    similarity: npt.NDArray[np.float64] = matches / np.maximum(used, 1)
    return similarity


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
        whole = _mix(whole + band) * _ODD
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
