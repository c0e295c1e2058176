"""What a report says of the model beside the champion, for its page and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from components.evaluate.comparison import BETTER, NOT_WORSE, UNCLEAR, WORSE
from components.evaluate.facts import SLICES, format_count, format_or_missing
from components.evaluate.reading import find_items, find_number, look_up
from components.templates import NOT_AVAILABLE, visible

SHOWN_ROWS = 5
"""Documents and words each way."""
_WAYS = ("better", "worse")
MINUS = "\u2212"
RELATIONS = {
    BETTER: "surely better",
    NOT_WORSE: "surely not worse by more than is allowed",
    WORSE: "surely worse",
    UNCLEAR: "perhaps better, perhaps worse",
}
UNITS = {"file": "files", "document": "documents", "block": "blocks of 1,000 words"}


class Row(NamedTuple):
    """A slice, a document or a word, and how the models differ there."""

    name: str
    times: str
    change: str


class Beside(NamedTuple):
    """The comparison, as texts."""

    champion: str
    """Which version it is."""
    summary: str
    """One sentence."""
    slices: list[Row]
    documents: dict[str, list[Row]]
    """`better` and `worse`."""
    words: dict[str, list[Row]]


def read_beside(report: Mapping[str, Any]) -> Beside | None:
    """Returns what a report says of the champion; None if it was compared with none.

    Args:
      report: a report; what it lacks is left out.
    """
    champion = look_up(report, "champion")
    if not isinstance(champion, Mapping):
        return None
    version = find_number(champion, "version")
    named = f"version {version:.0f}" if version is not None else _name(champion, "path")
    compared = look_up(report, "verdict.comparison")
    return Beside(
        champion=named,
        summary=_summary(champion, compared, named),
        slices=[
            row._replace(name=SLICES.get(row.name, row.name))
            for row in _rows(compared, "slices", ("name", "words", "change"), _percent)
        ],
        documents={
            way: _rows(
                compared, f"documents.{way}", ("source", "words", "difference"), _perplexity
            )[:SHOWN_ROWS]
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
) -> list[Row]:
    """Returns the entries of a list as texts.

    Args:
      values: what holds the list, at `path`.
      path: dotted.
      names: of an entry's name, count and change.
      how: writes the change.
    """
    name, count, change = names
    return [
        Row(
            _name(row, name),
            format_or_missing(find_number(row, count), format_count),
            how(find_number(row, change)),
        )
        for row in find_items(values, path)
    ]


def _name(values: object, path: str) -> str:
    return visible(look_up(values, path) or NOT_AVAILABLE)


def _summary(champion: Mapping[str, Any], compared: object, named: str) -> str:
    refused = champion.get("refused")
    if refused:
        return f"It could not be compared with the champion, {named}: {visible(refused)}"
    if not isinstance(compared, Mapping):
        return f"It could not be compared with the champion, {named}; the reasons are above."
    change, low, high = (
        _percent(find_number(compared, f"perplexity_change{end}")) for end in ("", "_low", "_high")
    )
    level, units = find_number(compared, "confidence"), find_number(compared, "units")
    unit = UNITS.get(str(compared.get("unit")), "units")
    relation = RELATIONS.get(str(compared.get("relation")), NOT_AVAILABLE)
    share = NOT_AVAILABLE if level is None else f"{100 * level:g}\u00a0%"
    same = look_up(champion, "same_vocabulary")
    paid = "" if same is True else "; as their vocabularies differ, unknown words pay for spelling"
    return (
        f"Perplexity {change} beside the champion, {named} ({share} interval {low} to {high}, over "
        f"{format_or_missing(units, format_count)} {unit}{paid}): {relation}."
    )


def card_address(report: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns path and address of the records' data card, if the report says where they are."""
    path = look_up(report, "dataset.path")
    if not isinstance(path, str) or not path.startswith("/"):
        return None
    card = f"{path}/data_card.html"
    try:
        return visible(card), PurePosixPath(card).as_uri()
    except ValueError:  # half of a surrogate pair
        return None


def _signed(value: float, text: str) -> str:
    return f"{MINUS if value < 0 else '+'}{text}"


def _percent(value: float | None) -> str:
    if value is None:
        return NOT_AVAILABLE
    return _signed(value, f"{100 * abs(value):.2f}\u00a0%")


def _perplexity(difference: float | None) -> str:
    """Of a difference of log-likelihood per word in nats, how the perplexity changed."""
    if difference is None or abs(difference) > 700:
        return NOT_AVAILABLE
    return _percent(math.expm1(-difference))


def _bits(difference: float | None) -> str:
    """Of a sum of log-likelihoods in nats, the bits that are saved (-) or spent (+)."""
    if difference is None:
        return NOT_AVAILABLE
    return _signed(-difference, f"{abs(difference) / math.log(2):,.1f}")
