"""The challenger against the champion, on the same raw text, with a confidence interval.

Everything is read from the report, where both models have their sums over the same words.
If their vocabularies differ, unknown words also pay for their spelling on both sides
(docs/decisions/0015), so neither gains by knowing less.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.evaluate.bootstrap import bootstrap, effective_units
from components.evaluate.reading import AGREEMENT, MISSING, look_up, read_number, read_words
from model.gate_config import GateConfig

BETTER, NOT_WORSE, WORSE, UNCLEAR = "better", "not worse", "worse", "unclear"
MIN_SLICE_WORDS = 200
"""A slice with fewer words says nothing."""
SHOWN_DOCUMENTS = 10

Floats = npt.NDArray[np.float64]
_OURS, _THEIRS = "splits.test", "champion.test"


class _Row(NamedTuple):
    """Sums over a document, a block or a slice."""

    source: str
    words: int
    log_likelihood: float
    spelling: float


_Rows = list[_Row]


class Change(NamedTuple):
    """How the perplexity of some words changed: 0.01 is one per cent more."""

    name: str
    words: int
    change: float | None
    """None where there are too few words."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the challenger does beside the champion."""

    unit: str
    """What was drawn by the bootstrap: `file`, `document` or `block`."""
    units: int
    words: int
    difference: float
    """Log-likelihood per word, challenger less champion: above 0, the challenger is better."""
    low: float
    high: float
    confidence: float
    relation: str
    """`BETTER`, `NOT_WORSE` (by no more than the tolerance), `WORSE` or `UNCLEAR`."""
    slices: tuple[Change, ...]
    documents: Mapping[str, list[dict[str, Any]]]
    """Those that gained and lost most: `better` and `worse`."""

    @property
    def perplexity_change(self) -> float:
        """How the perplexity changed; -0.02 is two per cent less."""
        return math.expm1(-self.difference)

    @property
    def perplexity_change_low(self) -> float:
        """The interval's lower end, the better one."""
        return math.expm1(-self.high)

    @property
    def perplexity_change_high(self) -> float:
        """The interval's upper end."""
        return math.expm1(-self.low)

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **values,
            "perplexity_change": self.perplexity_change,
            "perplexity_change_low": self.perplexity_change_low,
            "perplexity_change_high": self.perplexity_change_high,
            "slices": [change._asdict() for change in self.slices],
            "documents": {name: list(rows) for name, rows in self.documents.items()},
        }


def compare(report: object, limits: GateConfig, problems: list[str]) -> Comparison | None:
    """Compares the two models of a report; says in `problems` what keeps it from doing so."""
    found: list[str] = []
    same = look_up(report, "champion.same_vocabulary", missing=MISSING)
    if type(same) is not bool:
        found.append("champion.same_vocabulary is not true or false")
    ours, theirs = (_read_documents(report, path, found) for path in (_OURS, _THEIRS))
    blocks = [_read_blocks(report, path, found) for path in (_OURS, _THEIRS)]
    if not found and ours and theirs:
        if [(row.source, row.words) for row in ours] != [(row.source, row.words) for row in theirs]:
            found.append(f"{_OURS}.documents and {_THEIRS}.documents are of other documents")
        elif [row.words for row in blocks[0]] != [row.words for row in blocks[1]]:
            found.append(f"{_OURS}.blocks and {_THEIRS}.blocks are of other blocks")
    slices = _read_slices(report, bool(same), found) if not found else ()
    problems += found
    if found:
        return None
    with_spellings = not same
    words, differences = _pair(ours, theirs, with_spellings)
    unit, words, differences = _choose_unit(
        [row.source for row in ours],
        (words, differences),
        _pair(blocks[0], blocks[1], with_spellings),
        limits.min_units,
    )
    if not unit:
        even = effective_units(words)
        problems.append(
            f"too few documents to compare with the champion: {len(ours):,}, and "
            f"{len(words):,} blocks of 1,000 words, which say as much as {even:.1f} of equal "
            f"length; {limits.min_units} are needed (gate.min_units), so take more test text"
        )
        return None
    mean, low, high = bootstrap(differences, words, confidence=limits.confidence)
    return Comparison(
        unit=unit,
        units=len(words),
        words=int(words.sum()),
        difference=mean,
        low=low,
        high=high,
        confidence=limits.confidence,
        relation=_relation(low, high, limits.tolerance),
        slices=slices,
        documents=_extremes(ours, theirs, with_spellings),
    )


def _relation(low: float, high: float, tolerance: float) -> str:
    if low > 0:
        return BETTER
    if math.expm1(-low) <= tolerance:
        return NOT_WORSE
    return WORSE if high < 0 else UNCLEAR


def _pair(ours: _Rows, theirs: _Rows, with_spellings: bool) -> tuple[Floats, Floats]:
    """Returns words and differences of log-likelihood."""
    mine, other = (
        np.asarray([row.log_likelihood + with_spellings * row.spelling for row in rows])
        for rows in (ours, theirs)
    )
    return np.asarray([row.words for row in ours], np.float64), mine - other


def _choose_unit(
    sources: list[str],
    documents: tuple[Floats, Floats],
    blocks: tuple[Floats, Floats],
    least: int,
) -> tuple[str, Floats, Floats]:
    """Returns the largest unit of which there are enough, its words and differences.

    Neighbours are alike, so a larger unit is the safer one. Without enough of any, the
    name is empty and the numbers are those of the blocks.
    """
    none: Floats = np.zeros(0)
    files = none, none
    names = [source.rpartition(":")[0] for source in sources]
    firsts = dict.fromkeys(names)
    if all(names) and len(firsts) < len(names):
        numbers = {name: at for at, name in enumerate(firsts)}
        where = [numbers[name] for name in names]
        files = _sum_by(where, documents[0]), _sum_by(where, documents[1])
    for unit, (words, differences) in (("file", files), ("document", documents), ("block", blocks)):
        if effective_units(words) >= least:
            return unit, words, differences
    return "", *blocks


def _sum_by(where: list[int], values: Floats) -> Floats:
    return np.bincount(where, values).astype(np.float64)


def _extremes(ours: _Rows, theirs: _Rows, with_spellings: bool) -> dict[str, list[dict[str, Any]]]:
    """Returns the documents with the largest differences per word, both ways."""
    _, differences = _pair(ours, theirs, with_spellings)
    rows: list[dict[str, Any]] = [
        {"source": row.source, "words": row.words, "difference": float(difference) / row.words}
        for row, difference in zip(ours, differences, strict=True)
    ]
    rows.sort(key=lambda row: (row["difference"], row["source"]))
    worse = [row for row in rows[:SHOWN_DOCUMENTS] if row["difference"] < 0]
    better = [row for row in rows[::-1][:SHOWN_DOCUMENTS] if row["difference"] > 0]
    return {"better": better, "worse": worse}


def _read_documents(report: object, path: str, problems: list[str]) -> _Rows:
    """Reads the documents of a split, which have to add up to its sums; empty ones are left out."""
    documents = look_up(report, f"{path}.documents", missing=MISSING)
    if not isinstance(documents, list) or not documents:
        problems.append(
            f"{path}.documents is {_lacking(documents)}; it must be a list of documents"
        )
        return []
    rows, found = list[_Row](), list[str]()
    for at, document in enumerate(documents):
        source = look_up(document, "source")
        read = _read_row(document, found, source if isinstance(source, str) else "")
        if found:
            problems.append(f"{path}.documents[{at}]: {found[0]}")
            return []
        rows += [read] if read.words else []
    return _checked_sums(report, path, "documents", rows, problems)


def _read_row(values: object, problems: list[str], source: str) -> _Row:
    words = read_words(values, "words", problems, least=0)
    total = read_number(values, "log_likelihood", problems)
    paid = read_number(values, "spelling_log_likelihood", problems)
    for field, value in (("log_likelihood", total), ("spelling_log_likelihood", paid)):
        if value is not None and value > 0:
            problems.append(f"{field} is {value:g}; it must not be above 0")
    return _Row(source, words or 0, total or 0.0, paid or 0.0)


def _read_blocks(report: object, path: str, problems: list[str]) -> _Rows:
    """Reads the blocks of a split, which are columns."""
    fields = ("words", "log_likelihood", "spelling_log_likelihood")
    columns = [look_up(report, f"{path}.blocks.{field}", missing=MISSING) for field in fields]
    for field, column in zip(fields, columns, strict=True):
        if not isinstance(column, list) or not column:
            problems.append(f"{path}.blocks.{field} is {_lacking(column)}; it must be a list")
            return []
    if len({len(column) for column in columns}) > 1:
        problems.append(f"{path}.blocks has columns of different lengths")
        return []
    rows, found = list[_Row](), list[str]()
    for at, values in enumerate(zip(*columns, strict=True)):
        rows.append(_read_row(dict(zip(fields, values, strict=True)), found, ""))
        if found:
            problems.append(f"{path}.blocks, number {at}: {found[0]}")
            return []
    return _checked_sums(report, path, "blocks", rows, problems)


def _checked_sums(report: object, path: str, name: str, rows: _Rows, problems: list[str]) -> _Rows:
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
            found.append(f"{path}.{name} has {counted:,} words, not {words:,}")
        sums = (row.log_likelihood for row in rows), (row.spelling for row in rows)
        for values, total in zip(sums, totals, strict=True):
            added = math.fsum(values)
            if not math.isclose(added, total or 0.0, rel_tol=AGREEMENT, abs_tol=AGREEMENT):
                found.append(f"{path}.{name} adds up to {added:.9g}, not {total:.9g}")
    problems += [one for one in found if one not in problems]
    return [] if found else rows


def _read_slices(report: object, same: bool, problems: list[str]) -> tuple[Change, ...]:
    """Returns the change of each slice of words by their frequency in training."""
    slices = look_up(report, f"{_OURS}.slices", missing=MISSING)
    others = look_up(report, f"{_THEIRS}.slices", missing=MISSING)
    if not isinstance(slices, Mapping) or not isinstance(others, Mapping) or not slices:
        problems.append("champion and challenger must have slices of the test words")
        return ()
    if set(slices) != set(others):
        problems.append("champion and challenger have different slices of the test words")
        return ()
    changes = []
    for name in slices:
        found: list[str] = []
        ours, theirs = (_read_row(values[name], found, name) for values in (slices, others))
        if not found and ours.words != theirs.words:
            found.append(f"it has {ours.words:,} words, and {theirs.words:,} of the champion")
        if found:
            problems.append(f"slice {name}: {found[0]}")
            continue
        _, differences = _pair([ours], [theirs], not same)
        change = None
        if ours.words >= MIN_SLICE_WORDS:
            change = math.expm1(min(-float(differences[0]) / ours.words, 700.0))
        changes.append(Change(name, ours.words, change))
    return tuple(changes)


def _lacking(value: object) -> str:
    if value is MISSING:
        return "missing"
    return "empty" if isinstance(value, list) else f"a {type(value).__name__}"
