"""An index of records by the bands of their signatures (locality-sensitive hashing).

A band is a run of `BAND_BINS` bins, a key of 64 bits; the whole signature is one more key, so that
equal ones always match. Two records are compared only if they agree in a key. The bands come from
A. Broder et al., Syntactic clustering of the Web, 1997, and P. Indyk and R. Motwani, Approximate
nearest neighbors, 1998.

Shape letters: R records, K bins.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from components.preprocess.passes.signatures import ODD, Hashes, Signatures, mix

MAX_CANDIDATES = 8
"""Maximum records of a block that one band proposes for a record: bounds the work on
boilerplate."""

_FILTER_SPREAD = 8  # places of a filter per key: one other record in eight passes by chance

_Numbers = npt.NDArray[np.int64]


class BandIndex:
    """Records, indexed by the keys of each band.

    Takes up to 0.9 KB per record, of which the signatures are 2K bytes.
    """

    def __init__(self, signatures: Signatures) -> None:
        """Indexes `[R, K]` signatures."""
        self.signatures = signatures
        keys = band_keys(signatures)
        # All bins of a record that is compared as a whole are odd: its bands add nothing.
        keys[1:, ((signatures & 1) != 0).all(axis=1)] = 0
        self._bands = [_Band(row) for row in keys]

    def find(self, band: int, keys: Hashes) -> Iterator[tuple[_Numbers, _Numbers]]:
        """Yields pairs of records that agree in a band; each array contains a record only once.

        Args:
          band: number of the band, a row of `band_keys`.
          keys: `[R]` keys of other records; of those with the same key, the first `MAX_CANDIDATES`
            are used.

        Yields:
          Numbers of records of the index, and numbers of the others.
        """
        return self._bands[band].find(keys)


class _Band:
    """The records of an index by one band."""

    def __init__(self, keys: Hashes) -> None:
        order = np.argsort(keys, kind="stable")
        order = order[np.searchsorted(keys[order], np.uint64(1)) :]  # key 0: empty band
        self._order = order.astype(np.int32)
        self._keys, self._begins, self._counts = np.unique(
            keys[order], return_index=True, return_counts=True
        )
        bits = max(10, (_FILTER_SPREAD * len(self._keys)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._seen = np.zeros(1 << bits, bool)
        self._seen[self._fold(self._keys)] = True

    def find(self, keys: Hashes) -> Iterator[tuple[_Numbers, _Numbers]]:
        """See `BandIndex.find`."""
        if not len(self._keys):
            return
        others = np.flatnonzero(self._seen[self._fold(keys)])  # avoids looking up most of them
        own = np.minimum(np.searchsorted(self._keys, keys[others]), len(self._keys) - 1)
        same = self._keys[own] == keys[others]
        others, own = others[same], own[same]
        order = np.argsort(own, kind="stable")
        others, own = others[order], own[order]
        rank = np.arange(len(own)) - np.searchsorted(own, own)  # among those with the same key
        for candidate in range(MAX_CANDIDATES):
            chosen = rank == candidate
            if not chosen.any():
                return
            counts = self._counts[own[chosen]]
            begins = np.repeat(self._begins[own[chosen]] - np.cumsum(counts) + counts, counts)
            records = self._order[begins + np.arange(len(begins))]
            yield records.astype(np.int64), np.repeat(others[chosen], counts)

    def _fold(self, keys: Hashes) -> _Numbers:
        """Returns places in the filter, equal for equal keys."""
        return ((keys * ODD) >> self._shift).astype(np.int64)


def band_keys(signatures: Signatures) -> Hashes:
    """Returns `[1 + bands, R]` keys, 0 where all bins of a band are empty.

    The first is the key of the whole signature, so that equal ones always match.
    """
    bands = np.ascontiguousarray(signatures).view(np.uint64)
    whole = np.zeros(len(bands), np.uint64)
    for band in bands.T:
        whole = mix(whole + band) * ODD
    return np.concatenate([whole[None], bands.T])
