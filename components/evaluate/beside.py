"""What a report says of the model beside the champion, for its page and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from components.evaluate.comparison import BETTER, NOT_WORSE, UNCLEAR, WORSE
from components.evaluate.reading import look_up
from components.templates import NOT_AVAILABLE, visible

SHOWN_ROWS = 5
"""Documents and words each way."""
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


def read_number(values: object, path: str) -> float | None:
    """Returns the finite number at a dotted path, or None."""
    value = look_up(values, path)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def read_beside(report: Mapping[str, Any], slice_names: Mapping[str, str]) -> Beside | None:
    """Returns what a report says of the champion; None if it was compared with none.

    Args:
      report: a report; what it lacks is left out.
      slice_names: of slices, for people.
    """
    champion = look_up(report, "champion")
    if not isinstance(champion, Mapping):
        return None
    version = read_number(champion, "version")
    path = visible(look_up(champion, "path") or NOT_AVAILABLE)
    named = f"version {version:.0f}" if version is not None else path
    compared = look_up(report, "verdict.comparison")
    return Beside(
        champion=named,
        summary=_summary(champion, compared, named),
        slices=[
            Row(
                slice_names.get(name, name),
                _count(read_number(row, "words")),
                _percent(read_number(row, "change")),
            )
            for row in _items(compared, "slices")
            for name in [visible(look_up(row, "name") or NOT_AVAILABLE)]
        ],
        documents={
            way: [
                Row(
                    visible(look_up(row, "source") or NOT_AVAILABLE),
                    _count(read_number(row, "words")),
                    _perplexity(read_number(row, "difference")),
                )
                for row in _items(compared, f"documents.{way}")[:SHOWN_ROWS]
            ]
            for way in ("better", "worse")
        },
        words={
            way: [
                Row(
                    visible(look_up(row, "word") or NOT_AVAILABLE),
                    _count(read_number(row, "count")),
                    _bits(read_number(row, "difference")),
                )
                for row in _items(champion, f"words.{way}")[:SHOWN_ROWS]
            ]
            for way in ("better", "worse")
        },
    )


def _summary(champion: Mapping[str, Any], compared: object, named: str) -> str:
    refused = champion.get("refused")
    if refused:
        return f"It could not be compared with the champion, {named}: {visible(refused)}"
    if not isinstance(compared, Mapping):
        return f"It could not be compared with the champion, {named}; the reasons are above."
    change, low, high = (
        _percent(read_number(compared, f"perplexity_change{end}")) for end in ("", "_low", "_high")
    )
    level, units = read_number(compared, "confidence"), read_number(compared, "units")
    unit = UNITS.get(str(compared.get("unit")), "units")
    relation = RELATIONS.get(str(compared.get("relation")), NOT_AVAILABLE)
    share = NOT_AVAILABLE if level is None else f"{100 * level:g}\u00a0%"
    same = look_up(champion, "same_vocabulary")
    paid = "" if same is True else "; as their vocabularies differ, unknown words pay for spelling"
    return (
        f"Perplexity {change} beside the champion, {named} ({share} interval {low} to {high}, over "
        f"{_count(units)} {unit}{paid}): {relation}."
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


def _items(values: object, path: str) -> Sequence[Any]:
    value = look_up(values, path)
    return value if isinstance(value, list | tuple) else []


def _count(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else f"{value:,.0f}"


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
