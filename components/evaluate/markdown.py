"""The report in Markdown: verdict, reasons and figures. Corpus text is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.evaluate.champion_view import ViewRow, card_address, read_champion_view
from components.evaluate.gate import PASSED, REJECTED
from components.evaluate.report_fields import find_items, look_up
from components.evaluate.report_tables import list_figures, slice_rows
from components.html import visible
from model.text.display import markdown, table


def render_markdown(report: Mapping[str, Any]) -> str:
    """Returns a report as Markdown.

    Args:
      report: as for `render_page`; anything but a clear PASSED is shown as REJECTED.
    """
    passed = look_up(report, "verdict.status") == PASSED
    parts = [
        f"# {PASSED if passed else REJECTED}",
        "\n".join(
            f"- {markdown(visible(reason))}" for reason in find_items(report, "verdict.reasons")
        ),
        "## Figures",
        table(["", "", ""], [list(figure) for figure in list_figures(report)]),
        "## Slices of the test words",
        table(["in training", "words", "share", "model", "unigram"], slice_rows(report)),
        *_compare(report),
    ]
    card = card_address(report)
    if card:
        parts += ["## Data", f"Data card: {markdown(card[0])}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _compare(report: Mapping[str, Any]) -> list[str]:
    view = read_champion_view(report)
    if view is None:
        return []
    parts = ["## Against the champion", markdown(view.summary), markdown(view.reference)]
    for title, last, rows in (
        ("slice", "perplexity", {"": view.slices}),
        ("source", "perplexity", view.sources),
        ("word", "total bits", view.words),
    ):
        for way, found in rows.items():
            if found:
                name = f"{title}, {way}" if way else title
                parts.append(_table(name, last, found))
    return parts


def _table(name: str, last: str, rows: list[ViewRow]) -> str:
    return table([name, "count", last], [list(row) for row in rows])
