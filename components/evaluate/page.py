"""The report as one HTML page: self-contained, without scripts, small.

Corpus text is untrusted: the template escapes all of it, and the page's content policy forbids
scripts and requests. A missing or non-finite figure is shown as "not available", so that a
rejected report has a page too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from components.charts import Points, describe_curve, draw_bars, draw_curves
from components.evaluate.champion_view import card_address, read_champion_view
from components.evaluate.gate import PASSED, REJECTED
from components.evaluate.report_fields import find_items, find_number, look_up
from components.evaluate.report_tables import list_figures, list_slices
from components.figures import format_count, format_figure, format_or_missing, format_percent
from components.html import LINE_END, NOT_AVAILABLE, load_template, visible
from model.evaluation.sources import source_name
from model.text.vocab import EOS_ID, SPECIAL_WORDS

SHOWN_SOURCES = 5
"""Number of worst and of best sources shown."""
SHOWN_SAMPLES = 20
SHOWN_POINTS = 400
"""Maximum points in a curve; longer ones are thinned out."""


def render_page(report: Mapping[str, Any]) -> str:
    """Returns the page of a report with a verdict.

    Args:
      report: the content of report.json; missing parts are left out. Anything but a clear PASSED
        is shown as REJECTED.
    """
    passed = look_up(report, "verdict.status") == PASSED
    train, valid = _points(report, "curves.train"), _points(report, "curves.valid")
    slices = list_slices(report)
    sources = _source_rows(report)
    return load_template(__file__, "report.html.j2").render(
        missing=NOT_AVAILABLE,
        passed=passed,
        status=PASSED if passed else REJECTED,
        reasons=[visible(reason) for reason in find_items(report, "verdict.reasons")],
        perplexity=format_or_missing(find_number(report, "splits.test.perplexity"), format_figure),
        figures=list_figures(report),
        curves=draw_curves(train, valid),
        curves_note=describe_curve(valid),
        slices=slices,
        bars=draw_bars([(row["name"], row["model"], row["unigram"]) for row in slices]),
        samples=_sample_rows(report),
        view=read_champion_view(report),
        card=card_address(report),
        worst=sources[:SHOWN_SOURCES],
        best=sources[SHOWN_SOURCES:][-SHOWN_SOURCES:],
        sources=len(sources),
        origins=_origins(report),
        config=_config_rows(report),
        figure=lambda value: format_or_missing(value, format_figure),
        count=lambda value: format_or_missing(value, format_count),
    )


def _points(report: Mapping[str, Any], path: str) -> Points:
    """Returns step and perplexity of a curve, thinned out; skips what a log axis can't show."""
    points = []
    for item in find_items(report, path):
        step, perplexity = find_number(item, "step"), find_number(item, "perplexity")
        if step is not None and perplexity is not None and perplexity > 0:
            points.append((step, perplexity))
    stride = math.ceil(len(points) / SHOWN_POINTS) or 1
    return points[::-1][::stride][::-1]  # keeps the last


def _spoken(text: object) -> str:
    """Joins words with spaces for people, with a symbol for line ends."""
    mark = SPECIAL_WORDS[EOS_ID]
    return " ".join(LINE_END if word == mark else word for word in visible(text).split(" "))


def _sample_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for sample in find_items(report, "samples")[:SHOWN_SAMPLES]:
        truth = _spoken(look_up(sample, "truth", missing=NOT_AVAILABLE))
        guesses = [
            {
                "word": word,
                "probability": format_or_missing(find_number(guess, "probability"), format_percent),
                "hit": word == truth,
            }
            for guess in find_items(sample, "next")
            for word in [_spoken(look_up(guess, "word", missing=NOT_AVAILABLE))]
        ]
        context = _spoken(look_up(sample, "context", missing=NOT_AVAILABLE))
        rows.append({"context": context, "truth": truth, "guesses": guesses})
    return rows


def _source_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the test files that have a perplexity, worst first."""
    sums: dict[str, tuple[float, float]] = {}
    for document in find_items(report, "splits.test.documents"):
        words, total = find_number(document, "words"), find_number(document, "log_likelihood")
        if words is None or total is None or words < 1 or not 0 <= -total / words < 700:
            continue
        source = source_name(str(look_up(document, "source", missing=NOT_AVAILABLE)))
        counted, added = sums.get(source, (0.0, 0.0))
        sums[source] = counted + words, added + total
    rows: list[dict[str, Any]] = [
        {"source": visible(source), "words": words, "perplexity": math.exp(-total / words)}
        for source, (words, total) in sums.items()
    ]
    return sorted(rows, key=lambda row: (-row["perplexity"], row["source"]))


def _origins(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "checkpoint.path": "Checkpoint",
        "checkpoint.digest": "Checkpoint digest",
        "dataset.digest": "Records digest",
    }
    rows = [(name, look_up(report, path)) for path, name in names.items()]
    words = format_or_missing(find_number(report, "dataset.train_words"), format_count)
    return [
        *((name, visible(NOT_AVAILABLE if value is None else value)) for name, value in rows),
        ("Training words", words),
    ]


def _config_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns `section.field` and value; the gate's limits are those the verdict applied."""
    config = look_up(report, "config")
    sections = dict(config) if isinstance(config, Mapping) else {}
    if isinstance(look_up(report, "gate"), Mapping):
        sections["gate"] = report["gate"]
    rows = []
    for section, fields in sections.items():
        if isinstance(fields, Mapping):
            rows += [(visible(f"{section}.{name}"), visible(fields[name])) for name in fields]
        else:
            rows.append((visible(section), visible(fields)))
    return rows
