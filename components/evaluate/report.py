"""Reads report.json for the gate: every figure is checked, nothing is taken on trust.

A part that is missing, has a wrong type, or contradicts its own sums becomes a `Problems` in its
place, so that the gate can list every reason to reject a model. Perplexities are computed from the
sums; the ratios in the report only have to agree with them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from components.evaluate.report_fields import look_up
from components.evaluate.sums import DocumentSums, Floats, Pair, pair_documents
from components.figures import format_apart
from model.config import BASELINES
from model.evaluation.slices import SLICES

REPORT_FORMAT = 4
"""The report `format_version` that the gate reads."""
AGREEMENT = 1e-6
"""Maximum relative difference between a figure in the report and its sums."""
ROUNDED = 1e-3
"""Maximum difference in nats between a source's difference and the sum over its slices."""
_MISSING: Any = object()
_MAX_WORDS = (1 << 63) - 1
_TEST = "splits.test"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Problems:
    """Replaces a part of a report that can't be used."""

    texts: tuple[str, ...]
    """The reasons."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A checked sum over some words."""

    log_likelihood: float
    words: int
    perplexity: float


class SliceSums(NamedTuple):
    """The difference between two models by slice, K of `SLICES`, and group of sources, G."""

    words: Floats
    """`[K, G]`."""
    differences: Floats
    """`[K, G]` log-likelihood, challenger minus other, in nats."""


@dataclasses.dataclass(frozen=True)
class ComparedVersion:
    """Another version, scored on the challenger's test words."""

    path: str
    """Its folder."""
    refused: str
    """Why it can't be compared; empty if it can."""
    pair: Pair | Problems
    """The challenger and this version, by source."""
    slices: SliceSums | Problems
    """The same by slice; read only for a champion."""


@dataclasses.dataclass(frozen=True)
class Report:
    """The part of a report that the gate uses."""

    known_format: bool
    """Whether its format is `REPORT_FORMAT`."""
    test: Score | Problems
    """The model's score on the test split."""
    unknown_words: int | Problems
    """Its words that are not in the model's vocabulary."""
    left_out: int | Problems
    """Test words left out because a model has seen them."""
    seen_unknown: str
    """Why the test text the model has seen is unknown; empty if it is known."""
    baselines: Mapping[str, Score | Problems]
    """By name."""
    champion: ComparedVersion | Problems | None
    reference: ComparedVersion | Problems | None
    """The best version so far. If it is the champion, its pair is the champion's."""

    @classmethod
    def from_dict(cls, report: object) -> Report:
        """Checks a report.

        Args:
          report: what `evaluate_checkpoint` returns, without JSON's nulls for non-finite numbers;
            anything else results in problems.
        """
        version = look_up(report, "format_version")
        left_out = _Part(report, f"{_TEST}.left_out")
        ours = _read_documents(report, _TEST)
        champion = _read_version(report, "champion", ours)
        return cls(
            known_format=type(version) is int and version == REPORT_FORMAT,
            test=_read_score(report, _TEST),
            unknown_words=_read_unknown(report),
            left_out=left_out.result(left_out.words("words", least=0)),
            seen_unknown=_read_reason(left_out.values, "unknown", "left_out.unknown"),
            baselines={name: _read_score(report, f"baseline.{name}") for name in BASELINES},
            champion=champion,
            reference=_read_reference(report, champion, ours),
        )


class _Part:
    """Reads the fields of a part of a report and collects their problems."""

    def __init__(self, report: object, path: str = ""):
        self.values = look_up(report, path) if path else report
        self.problems: list[str] = []
        self._prefix = f"{path}." if path else ""

    def refuse(self, problem: str) -> None:
        """Records a problem; its text starts with the name of a field."""
        self.problems.append(self._prefix + problem)

    def result(self, value: T) -> T | Problems:
        """Returns a value built from the fields, or their problems."""
        return Problems(tuple(self.problems)) if self.problems else value

    def words(self, name: str, *, least: int = 1) -> int:
        """Returns a number of words; an arbitrary one if the field has a problem."""
        value = self._read(name, int, "whole number")
        if value is None:
            return 0
        if abs(value) > _MAX_WORDS:
            self.refuse(f"{name} is too large")
        elif value < least:
            self.refuse(f"{name} is {value:,}; it must be at least {least}")
        return int(value)

    def number(self, name: str) -> float:
        """Returns a finite number; NaN if the field has a problem."""
        value = self._read(name, int | float, "number")
        try:
            number = math.nan if value is None else float(value)
        except OverflowError:
            number = math.inf
        if value is not None and not math.isfinite(number):
            self.refuse(f"{name} is {number}; it must be finite")
            return math.nan
        return number

    def _read(self, name: str, types: Any, kind: str) -> Any:
        value = look_up(self.values, name, missing=_MISSING)
        if isinstance(value, types) and not isinstance(value, bool):
            return value
        wrong = "" if value is _MISSING else f"; it must be a {kind}"
        self.refuse(f"{name} is {_lacking(value)}{wrong}")
        return None


def _read_reason(values: object, name: str, path: str) -> str:
    """Returns a string field, empty for null."""
    reason = look_up(values, name, missing=_MISSING)
    if reason is None:
        return ""
    return reason if isinstance(reason, str) and reason else f"{path} is not a string"


def _read_score(report: object, path: str) -> Score | Problems:
    part, perplexity = _Part(report, path), math.nan
    words, total = part.words("words"), part.number("log_likelihood")
    stated = part.number("perplexity")
    if total >= 0:
        # An empty sum is also 0; a softmax never gives every word of a text probability 1.
        part.refuse(f"log_likelihood is {total:g}; it must be below 0")
    if not part.problems:
        try:
            perplexity = math.exp(-total / words)
        except OverflowError:
            part.refuse(f"log_likelihood is {total:g} over {words:,} words, too large")
        else:
            if not math.isclose(stated, perplexity, rel_tol=AGREEMENT):
                said, computed = format_apart(stated, perplexity)
                part.refuse(f"perplexity is {said}, but its sums give {computed}")
    return part.result(Score(total, words, perplexity))


def _read_unknown(report: object) -> int | Problems:
    part = _Part(report, _TEST)
    return part.result(part.words("unknown_words", least=0))


def _read_version(
    report: object, name: str, ours: list[DocumentSums] | Problems
) -> ComparedVersion | Problems | None:
    version = look_up(report, name, missing=_MISSING)
    if version is None:
        return None
    if not isinstance(version, Mapping):
        return Problems((f"{name} is {_lacking(version)}; it must be a {name} or null",))
    pair = _read_pair(report, name, ours)
    return ComparedVersion(
        path=str(version.get("path")),
        refused=_read_reason(version, "refused", f"{name}.refused"),
        pair=pair,
        slices=pair if isinstance(pair, Problems) else _read_slices(report, name, pair),
    )


def _read_reference(
    report: object,
    champion: ComparedVersion | Problems | None,
    ours: list[DocumentSums] | Problems,
) -> ComparedVersion | Problems | None:
    reference = _read_version(report, "reference", ours)
    is_champion = look_up(report, "reference.is_champion")
    if not isinstance(reference, ComparedVersion) or is_champion is False:
        return reference
    pair: Pair | Problems
    if is_champion is not True:
        pair = Problems(("reference.is_champion is not true or false",))
    elif isinstance(champion, ComparedVersion) and champion.path == reference.path:
        pair = champion.pair
    else:
        problem = "reference.is_champion is true, but the champion is another version"
        pair = Problems((problem,))
    return dataclasses.replace(reference, pair=pair)


def _read_pair(report: object, name: str, ours: list[DocumentSums] | Problems) -> Pair | Problems:
    part, theirs = _Part(report, name), _read_documents(report, f"{name}.test")
    same = look_up(part.values, "same_vocabulary")
    if type(same) is not bool:
        part.refuse("same_vocabulary is not true or false")
    for documents in (ours, theirs):
        part.problems += documents.texts if isinstance(documents, Problems) else ()
    if part.problems or isinstance(ours, Problems) or isinstance(theirs, Problems):
        return Problems(tuple(part.problems))
    if [row[:2] for row in ours] != [row[:2] for row in theirs]:
        return Problems((f"{_TEST}.documents and {name}.test.documents list different documents",))
    return pair_documents(ours, theirs, spelled=not same)


def _read_documents(report: object, path: str) -> list[DocumentSums] | Problems:
    """Reads the documents of a split, which must add up to its sums."""
    documents = look_up(report, f"{path}.documents", missing=_MISSING)
    if not isinstance(documents, list) or not documents:
        lacking = "empty" if documents == [] else _lacking(documents)
        return Problems((f"{path}.documents is {lacking}; it must be a list of documents",))
    rows = list[DocumentSums]()
    for at, document in enumerate(documents):
        row = _read_document(document)
        if isinstance(row, Problems):
            return Problems((f"{path}.documents[{at}]: {row.texts[0]}",))
        rows.append(row)
    part = _Part(report, path)
    words, counted = part.words("words"), sum(row.words for row in rows)
    totals = part.number("log_likelihood"), part.number("spelling_log_likelihood")
    if part.problems:
        return part.result(rows)
    if counted != words:
        part.refuse(f"documents has {counted:,} words, not {words:,}")
    sums = (row.log_likelihood for row in rows), (row.spelling for row in rows)
    for values, total in zip(sums, totals, strict=True):
        added = math.fsum(values)
        if not math.isclose(added, total, rel_tol=AGREEMENT, abs_tol=AGREEMENT):
            part.refuse(f"documents adds up to {added:.9g}, not {total:.9g}")
    return part.result(rows)


def _read_document(values: object) -> DocumentSums | Problems:
    part, source = _Part(values), look_up(values, "source")
    if not isinstance(source, str) or not source:
        part.refuse("source is missing; it must name the file of the document")
    words = part.words("words", least=0)
    total, paid = part.number("log_likelihood"), part.number("spelling_log_likelihood")
    for field, value in (("log_likelihood", total), ("spelling_log_likelihood", paid)):
        if value > 0:
            part.refuse(f"{field} is {value:g}; it must not be above 0")
    return part.result(DocumentSums(source, words, total, paid))


def _read_slices(report: object, name: str, pair: Pair) -> SliceSums | Problems:
    """Reads the slices of a comparison, which must add up to its sources."""
    path, (words, differences) = f"{name}.slices", pair.in_groups()
    slices = look_up(report, path)
    if not isinstance(slices, Mapping) or set(slices) != set(SLICES):
        return Problems((f"{path} must be the slices {', '.join(SLICES)}",))
    read = []
    for field in ("words", "difference"):
        columns = [_read_column(slices, one, field, len(words)) for one in SLICES]
        for one, column in zip(SLICES, columns, strict=True):
            if column is None:
                problem = f"{path}.{one}.{field} must be {len(words):,} finite numbers"
                return Problems((problem,))
        read.append(np.asarray(columns))
    counts, gaps = read
    if (counts < 0).any() or (counts.sum(0) != words).any():
        return Problems((f"{path} don't have the words of the sources",))
    if not np.allclose(gaps.sum(0), differences, rtol=AGREEMENT, atol=ROUNDED):
        return Problems((f"{path} don't add up to the differences of the sources",))
    if gaps[counts == 0].any():
        return Problems((f"{path} have differences without words",))
    return SliceSums(counts, gaps)


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
    return "missing" if value is _MISSING else f"a {type(value).__name__}"
