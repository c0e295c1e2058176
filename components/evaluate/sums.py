"""Reads the sums over documents and slices of a report; what is wrong with them is a problem."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.report_fields import AGREEMENT, MISSING, look_up, read_number, read_words
from model.evaluation.sources import group_numbers, number_sources

Floats = npt.NDArray[np.float64]
ROUNDED = 1e-3
"""By how much the differences of the slices of a source may miss its difference, in nats."""


class DocumentSums(NamedTuple):
    """Sums over a document, which is a record of the test split."""

    source: str
    words: int
    log_likelihood: float
    spelling: float


class Pair(NamedTuple):
    """Two models on the same sources, S of them."""

    names: tuple[str, ...]
    words: Floats
    """`[S]`."""
    differences: Floats
    """`[S]` log-likelihood of the challenger less that of the other, in nats."""

    def in_groups(self) -> tuple[Floats, Floats]:
        """Returns `[G]` words and differences of groups of neighbouring sources."""
        groups = group_numbers(len(self.names))
        words, differences = (np.bincount(groups, one) for one in (self.words, self.differences))
        return words.astype(np.float64), differences.astype(np.float64)


def read_pair(ours: list[DocumentSums], theirs: list[DocumentSums], *, spelled: bool) -> Pair:
    """Adds two models' documents up by source.

    Args:
      ours: of the challenger.
      theirs: of the other model, the same documents.
      spelled: whether unknown words pay for their spelling.
    """
    names, where = number_sources([row.source for row in ours])
    gaps = np.asarray(
        [
            one.log_likelihood - two.log_likelihood + spelled * (one.spelling - two.spelling)
            for one, two in zip(ours, theirs, strict=True)
        ]
    )
    words = np.asarray([row.words for row in ours], np.float64)
    sums = (np.bincount(where, one).astype(np.float64) for one in (words, gaps))
    return Pair(names, *sums)


def read_documents(report: object, path: str, problems: list[str]) -> list[DocumentSums]:
    """Reads the documents of a split, which have to add up to its sums."""
    documents = look_up(report, f"{path}.documents", missing=MISSING)
    if not isinstance(documents, list) or not documents:
        problems.append(
            f"{path}.documents is {_lacking(documents)}; it must be a list of documents"
        )
        return []
    rows, found = list[DocumentSums](), list[str]()
    for at, document in enumerate(documents):
        rows.append(_read_row(document, found))
        if found:
            problems.append(f"{path}.documents[{at}]: {found[0]}")
            return []
    return _checked_sums(report, path, rows, problems)


def _read_row(values: object, problems: list[str]) -> DocumentSums:
    source = look_up(values, "source")
    if not isinstance(source, str) or not source:
        problems.append("source is missing; it must name the file of the document")
        source = ""
    words = read_words(values, "words", problems, least=0)
    total = read_number(values, "log_likelihood", problems)
    paid = read_number(values, "spelling_log_likelihood", problems)
    for field, value in (("log_likelihood", total), ("spelling_log_likelihood", paid)):
        if value is not None and value > 0:
            problems.append(f"{field} is {value:g}; it must not be above 0")
    return DocumentSums(source, words or 0, total or 0.0, paid or 0.0)


def _checked_sums(
    report: object, path: str, rows: list[DocumentSums], problems: list[str]
) -> list[DocumentSums]:
    """Returns the rows if they add up to the sums of the split."""
    found: list[str] = []
    words = read_words(report, f"{path}.words", found)
    totals = [
        read_number(report, f"{path}.{field}", found)
        for field in ("log_likelihood", "spelling_log_likelihood")
    ]
    if not found:
        counted = sum(row.words for row in rows)
        if counted != words:
            found.append(f"{path}.documents has {counted:,} words, not {words:,}")
        sums = (row.log_likelihood for row in rows), (row.spelling for row in rows)
        for values, total in zip(sums, totals, strict=True):
            added = math.fsum(values)
            if not math.isclose(added, total or 0.0, rel_tol=AGREEMENT, abs_tol=AGREEMENT):
                found.append(f"{path}.documents adds up to {added:.9g}, not {total:.9g}")
    problems += [one for one in found if one not in problems]
    return [] if found else rows


def read_slices(
    report: object, path: str, pair: Pair, names: tuple[str, ...], problems: list[str]
) -> tuple[Floats, Floats] | None:
    """Reads the slices of a comparison, which have to add up to its sources.

    Args:
      report: a report.
      path: dotted, of the slices.
      pair: the sources.
      names: of the slices, K of them.
      problems: gets what is wrong.

    Returns:
      `[K, G]` words and differences by group of sources.
    """
    slices = look_up(report, path, missing=MISSING)
    if not isinstance(slices, Mapping) or set(slices) != set(names):
        problems.append(f"{path} must be the slices {', '.join(names)}")
        return None
    words, differences = pair.in_groups()
    read = []
    for field in ("words", "difference"):
        columns = [_read_column(slices, name, field, len(words)) for name in names]
        for name, column in zip(names, columns, strict=True):
            if column is None:
                problems.append(f"{path}.{name}.{field} must be {len(words):,} finite numbers")
                return None
        read.append(np.asarray(columns))
    counts, gaps = read
    if (counts < 0).any() or (counts.sum(0) != words).any():
        problems.append(f"{path} have other words than the sources")
    elif not np.allclose(gaps.sum(0), differences, rtol=AGREEMENT, atol=ROUNDED):
        problems.append(f"{path} don't add up to the differences of the sources")
    elif gaps[counts == 0].any():
        problems.append(f"{path} have differences without words")
    else:
        return counts, gaps
    return None


def _read_column(slices: Mapping[str, Any], name: str, field: str, size: int) -> Floats | None:
    values = look_up(slices[name], field)
    if not isinstance(values, list) or len(values) != size:
        return None
    if not all(type(one) in (int, float) for one in values):
        return None
    try:
        column = np.asarray(values, np.float64)
    except OverflowError:
        return None
    return column if np.isfinite(column).all() else None


def _lacking(value: object) -> str:
    if value is MISSING:
        return "missing"
    return "empty" if isinstance(value, list) else f"a {type(value).__name__}"
