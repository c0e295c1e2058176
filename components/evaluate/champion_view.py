"""Formats the comparison with the champion, for a report's page and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from components.evaluate.judging import BETTER, NOT_WORSE, ONE, UNCLEAR, WORSE
from components.evaluate.report_fields import find_items, find_number, look_up
from components.figures import format_count, format_or_missing
from components.html import NOT_AVAILABLE, visible
from model.evaluation.slices import CHALLENGER_ONLY, CHAMPION_ONLY, NEITHER

SHOWN_ROWS = 5
"""Sources and words shown per direction."""
_WAYS = ("better", "worse")
MINUS = "\u2212"
RELATIONS = {
    BETTER: "significantly better",
    NOT_WORSE: "not worse by more than is allowed",
    WORSE: "significantly worse",
    UNCLEAR: "neither better nor worse can be ruled out",
}
SLICES = {
    NEITHER: "known to neither model",
    ONE: "known to one model only",
    CHALLENGER_ONLY: "\u2013 only to this one",
    CHAMPION_ONLY: "\u2013 only to the champion",
    "1-5": "known to both, seen up to 5 times",
    "6-100": "known to both, seen 6 to 100 times",
    ">100": "known to both, seen over 100 times",
}
"""Slices of a comparison, with their display names."""


class ViewRow(NamedTuple):
    """A slice, source or word, and the difference between the models."""

    name: str
    times: str
    change: str


class ChampionView(NamedTuple):
    """The comparison, formatted."""

    champion: str
    """The champion's version."""
    summary: str
    """One sentence."""
    reference: str
    """One sentence on the best version so far; empty if there is none."""
    slices: list[ViewRow]
    sources: dict[str, list[ViewRow]]
    """`better` and `worse`."""
    words: dict[str, list[ViewRow]]


def read_champion_view(report: Mapping[str, Any]) -> ChampionView | None:
    """Returns a report's comparison with the champion; None if there was no champion.

    Args:
      report: a report; missing parts are left out.
    """
    champion = look_up(report, "champion")
    if not isinstance(champion, Mapping):
        return None
    version = find_number(champion, "version")
    named = f"version {version:.0f}" if version is not None else _name(champion, "path")
    compared = look_up(report, "verdict.comparison")
    return ChampionView(
        champion=named,
        summary=_summary(champion, compared, named),
        reference=_reference(report),
        slices=_slices(compared),
        sources={
            way: _rows(compared, f"sources.{way}", ("source", "words", "difference"), _perplexity)[
                :SHOWN_ROWS
            ]
            for way in _WAYS
        },
        words={
            way: _rows(champion, f"words.{way}", ("word", "count", "difference"), _bits)[
                :SHOWN_ROWS
            ]
            for way in _WAYS
        },
    )


def _rows(
    values: object, path: str, names: tuple[str, str, str], how: Callable[[float | None], str]
) -> list[ViewRow]:
    """Formats the entries of a list.

    Args:
      values: contains the list, at `path`.
      path: dotted path.
      names: keys of an entry's name, count and change.
      how: formats the change.
    """
    name, count, change = names
    return [
        ViewRow(
            _name(row, name),
            format_or_missing(find_number(row, count), format_count),
            how(find_number(row, change)),
        )
        for row in find_items(values, path)
    ]


def _slices(compared: object) -> list[ViewRow]:
    rows = _rows(compared, "slices", ("name", "words", "change"), _percent)
    shown = []
    for row, values in zip(rows, find_items(compared, "slices"), strict=True):
        low, high = find_number(values, "low"), find_number(values, "high")
        between = "" if low is None or high is None else f" ({_percent(low)} to {_percent(high)})"
        name = SLICES.get(row.name, row.name)
        shown.append(ViewRow(name, row.times, row.change + between))
    return shown


def _name(values: object, path: str) -> str:
    return visible(look_up(values, path) or NOT_AVAILABLE)


def _summary(champion: Mapping[str, Any], compared: object, named: str) -> str:
    refused = champion.get("refused")
    if refused:
        return f"It could not be compared with the champion, {named}: {visible(refused)}"
    if not isinstance(compared, Mapping):
        return f"It could not be compared with the champion, {named}; the reasons are above."
    same = look_up(champion, "same_vocabulary")
    paid = "" if same is True else "; as their vocabularies differ, unknown words pay for spelling"
    return f"{_difference(compared, f'the champion, {named}', paid)}."


def _reference(report: Mapping[str, Any]) -> str:
    reference = look_up(report, "reference")
    if not isinstance(reference, Mapping):
        return ""
    version = find_number(reference, "version")
    number = f"version {version:.0f}" if version is not None else _name(reference, "path")
    named = f"the best version so far, {number}"
    compared = look_up(report, "verdict.reference")
    if isinstance(compared, Mapping):
        return f"{_difference(compared, named, '')}."
    refused = look_up(reference, "refused")
    why = f": {visible(refused)}" if refused else "; the reasons are above."
    return f"It could not be compared with {named}{why}"


def _difference(compared: Mapping[str, Any], named: str, remark: str) -> str:
    change, low, high = (
        _percent(find_number(compared, f"perplexity_change{end}")) for end in ("", "_low", "_high")
    )
    level, units = find_number(compared, "confidence"), find_number(compared, "units")
    relation = RELATIONS.get(str(compared.get("relation")), NOT_AVAILABLE)
    share = NOT_AVAILABLE if level is None else f"{100 * level:.4g}\u00a0%"
    files = "file" if units == 1 else "files"
    return (
        f"Perplexity {change} against {named} ({share} interval {low} to {high}, over "
        f"{format_or_missing(units, format_count)} {files}{remark}): {relation}"
    )


def card_address(report: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns path and address of the records' data card, if the report has their location."""
    path = look_up(report, "dataset.path")
    if not isinstance(path, str) or not path.startswith("/"):
        return None
    card = f"{path}/data_card.html"
    try:
        return visible(card), PurePosixPath(card).as_uri()
    except ValueError:  # unpaired surrogate
        return None


def _signed(value: float, text: str) -> str:
    return f"{MINUS if value < 0 else '+'}{text}"


def _percent(value: float | None) -> str:
    if value is None:
        return NOT_AVAILABLE
    return _signed(value, f"{100 * abs(value):.2f}\u00a0%")


def _perplexity(difference: float | None) -> str:
    """Formats a log-likelihood difference per word (nats) as a relative perplexity change."""
    if difference is None or abs(difference) > 700:
        return NOT_AVAILABLE
    return _percent(math.expm1(-difference))


def _bits(difference: float | None) -> str:
    """Formats a log-likelihood difference (nats) as bits saved (-) or spent (+)."""
    if difference is None:
        return NOT_AVAILABLE
    return _signed(-difference, f"{abs(difference) / math.log(2):,.1f}")
