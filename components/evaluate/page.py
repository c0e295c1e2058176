"""The report as one HTML page for people: self-contained, inert, light.

Corpus text is hostile: the template escapes all of it, and the page's own policy
forbids scripts and requests. A figure that is missing or not finite is shown as
"not available", so that a rejected report has a page too.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
from markupsafe import Markup
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from components.evaluate.champion_view import card_address, read_champion_view
from components.evaluate.gate import PASSED, REJECTED
from components.evaluate.report_fields import find_items, find_number, format_figure, look_up
from components.evaluate.report_tables import (
    format_count,
    format_or_missing,
    format_percent,
    list_figures,
    list_slices,
)
from components.html import LINE_END, NOT_AVAILABLE, load_template, visible
from model.evaluation.sources import source_name
from model.text.vocab import EOS_ID, SPECIAL_WORDS

SHOWN_SOURCES = 5
"""That many of the worst and of the best sources are shown."""
SHOWN_SAMPLES = 20
SHOWN_POINTS = 400
"""Points of a curve; more of them are thinned out."""

_MODEL_COLOUR, _OTHER_COLOUR, _INK = "#1a5fb4", "#9a9fa8", "#4a5361"
_STYLE = {
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), "#c3c8d0"),
    **dict.fromkeys(("axes.labelcolor", "text.color"), _INK),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), _INK),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9.5,
    "grid.color": "#e6e8ec",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
    "svg.hashsalt": "charloom",  # ids depend on the content only
}

Points = list[tuple[float, float]]


def render_page(report: Mapping[str, Any]) -> str:
    """Returns the page of a report that has its verdict.

    Args:
      report: as in report.json; whatever it lacks, the page does without. What is not
        clearly PASSED is shown as REJECTED.
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
        curves_note=_curves_note(valid),
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
    """Returns step and perplexity of a curve, thinned; without what a log axis can't show."""
    points = []
    for item in find_items(report, path):
        step, perplexity = find_number(item, "step"), find_number(item, "perplexity")
        if step is not None and perplexity is not None and perplexity > 0:
            points.append((step, perplexity))
    stride = math.ceil(len(points) / SHOWN_POINTS) or 1
    return points[::-1][::stride][::-1]  # keeps the last


def _curves_note(valid: Points) -> str:
    if not valid:
        return ""
    step, best = min(valid, key=lambda point: point[1])
    return (
        f"Validation perplexity is {format_figure(valid[-1][1])} at step "
        f"{format_count(valid[-1][0])}; the lowest is {format_figure(best)} at step "
        f"{format_count(step)}."
    )


def _spoken(text: object) -> str:
    """Returns words parted by spaces for people, with a sign for the mark of a line end."""
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
    """Returns the files of the test text that have a perplexity, the worst first."""
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
    """Returns what the report was made from."""
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
    """Returns `section.field` and value; the gate's limits are the ones that the verdict applied."""
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


def draw_curves(train: Points, valid: Points) -> Markup | None:
    """Returns perplexity by step as SVG, or None if there are no points."""
    if not train and not valid:
        return None
    with matplotlib.style.context(_STYLE, after_reset=True):
        figure = Figure(figsize=(5.4, 3.1), layout="constrained")
        axes = figure.subplots()
        for points, name, colour, width in (
            (train, "training", _OTHER_COLOUR, 1.2),
            (valid, "validation", _MODEL_COLOUR, 2.0),
        ):
            if points:
                marker = "o" if len(points) <= 40 else ""
                steps, values = zip(*points, strict=True)
                axes.plot(
                    steps, values, color=colour, label=name, lw=width, marker=marker, ms=width * 2
                )
        axes.set_xlabel("step")
        axes.set_ylabel("perplexity")
        axes.set_yscale("log")
        values = tuple(value for _, value in train + valid)
        _set_log_ticks(axes.yaxis, max(values) / min(values))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y")
        axes.legend()
        label = f"Line chart of perplexity by training step, logarithmic. {_curves_note(valid)}"
        return _to_svg(figure, name="curves", label=label.strip())


def draw_bars(rows: Sequence[tuple[str, float | None, float | None]]) -> Markup | None:
    """Returns bars of model and unigram perplexity by slice as SVG, or None without figures.

    Args:
      rows: name of the slice, the model's perplexity, the unigram baseline's.
    """
    values = [
        value for row in rows for value in (row[1], row[2]) if value is not None and value >= 1
    ]
    if not values:
        return None
    with matplotlib.style.context(_STYLE, after_reset=True):
        figure = Figure(figsize=(5.4, 3.1), layout="constrained")
        axes = figure.subplots()
        for shift, name, colour, bars in (
            (-0.19, "model", _MODEL_COLOUR, [row[1] for row in rows]),
            (0.19, "unigram", _OTHER_COLOUR, [row[2] for row in rows]),
        ):
            ends = [max(value or 1.0, 1.0) for value in bars]
            places = [place + shift for place in range(len(rows))]
            lengths = [end - 1.0 for end in ends]
            axes.barh(places, lengths, height=0.34, left=1.0, color=colour, label=name)
            for place, end, value in zip(places, ends, bars, strict=True):
                axes.text(
                    end,
                    place,
                    "\u00a0" + format_or_missing(value, format_count),
                    va="center",
                    fontsize=8,
                )
        axes.set_xlabel("perplexity")
        axes.set_xscale("log")
        axes.set_xlim(1.0, max(values) ** 1.25 * 1.2)  # room for the figures
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        _set_log_ticks(axes.xaxis, math.inf)
        figure.legend(loc="outside upper right", ncols=2)
        label = "Bar chart of perplexity, model and unigram baseline; the figures are in the table."
        return _to_svg(figure, name="bars", label=label)


def _set_log_ticks(axis: Axis, ratio: float) -> None:
    """Sets ticks that suit the ratio of the highest to the lowest value."""
    subs = (1.0, 2.0, 5.0) if ratio < 100 else (1.0,)
    wide = LogLocator(subs=subs, numticks=6)
    axis.set_major_locator(MaxNLocator(5) if ratio < 4 else wide)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if 100 <= value < 1e7 else f"{value:.4g}")
    )


def _to_svg(figure: Figure, *, name: str, label: str) -> Markup:
    """Returns a figure for use inside a page: no prolog, no fonts, ids that begin with `name`."""
    buffer = io.StringIO()
    no_date = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=no_date, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # would hold for the whole page
    text = re.sub(r"font-family: [^;\"]*(; )?", "", text)
    text = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    viewed = re.search(r'viewBox="[^"]*"', text)
    assert viewed
    start = f'<svg role="img" aria-label="{html.escape(label)}" {viewed.group()}'
    return Markup(start + text[text.index(">") :])
