"""The report in Markdown: the verdict, why, and the figures. Texts of the corpus are escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.evaluate.champion_view import Row, card_address, read_beside
from components.evaluate.gate import PASSED, REJECTED
from components.evaluate.report_fields import find_items, look_up
from components.evaluate.report_tables import list_facts, slice_rows
from components.html import visible
from model.text.display import markdown, table


def render_markdown(report: Mapping[str, Any]) -> str:
    """Returns a report as Markdown.

    Args:
      report: as `render_page` takes it; what is not clearly PASSED is shown as REJECTED.
    """
    passed = look_up(report, "verdict.status") == PASSED
    parts = [
        f"# {PASSED if passed else REJECTED}",
        "\n".join(
            f"- {markdown(visible(reason))}" for reason in find_items(report, "verdict.reasons")
        ),
        "## Figures",
        table(["", "", ""], [list(fact) for fact in list_facts(report)]),
        "## Slices of the test words",
        table(["in training", "words", "share", "model", "unigram"], slice_rows(report)),
        *_beside(report),
    ]
    card = card_address(report)
    if card:
        parts += ["## Data", f"Data card: {markdown(card[0])}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _beside(report: Mapping[str, Any]) -> list[str]:
    beside = read_beside(report)
    if beside is None:
        return []
    parts = ["## Against the champion", markdown(beside.summary), markdown(beside.reference)]
    for title, last, rows in (
        ("slice", "perplexity", {"": beside.slices}),
        ("source", "perplexity", beside.sources),
        ("word", "bits in all", beside.words),
    ):
        for way, found in rows.items():
            if found:
                name = f"{title}, {way}" if way else title
                parts.append(_table(name, last, found))
    return parts


def _table(name: str, last: str, rows: list[Row]) -> str:
    return table([name, "count", last], [list(row) for row in rows])
