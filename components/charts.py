"""Draws charts with Matplotlib, returned as SVG to be inlined in an HTML page.

An SVG makes no requests, runs nothing and uses the page's font. It depends only on its data: the
same data give the same bytes.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from components.figures import format_count, format_figure, format_or_missing

_MAIN_COLOUR, _OTHER_COLOUR = "#1a5fb4", "#9a9fa8"
_INK = "#6b7480"  # legible on white, and on black in dark mode
_GROUP_COLOURS = (_MAIN_COLOUR, "#c25a00", "#7d8590")
_STYLE = {
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), "#c3c8d0"),
    **dict.fromkeys(("axes.labelcolor", "text.color"), _INK),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), _INK),
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9.5,
    "grid.color": "#e6e8ec",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
    "svg.hashsalt": "charloom",  # ids depend on the content only
}
_WIDE, _SMALL = (5.4, 3.1), (4.4, 2.7)
"""Sizes in inches: a chart on its own, and one of several side by side."""
_SHOWN_TICKS = 10

Points = list[tuple[float, float]]


def describe_curve(valid: Points) -> str:
    """Describes last and lowest validation perplexity in a sentence; empty without points."""
    if not valid:
        return ""
    step, best = min(valid, key=lambda point: point[1])
    return (
        f"Validation perplexity is {format_figure(valid[-1][1])} at step "
        f"{format_count(valid[-1][0])}; the lowest is {format_figure(best)} at step "
        f"{format_count(step)}."
    )


def draw_curves(train: Points, valid: Points) -> Markup | None:
    """Returns perplexity by step as SVG; None without points."""
    if not train and not valid:
        return None
    with matplotlib.style.context(_STYLE, after_reset=True):
        figure, axes = _new_figure(_WIDE)
        for points, name, colour, width in (
            (train, "training", _OTHER_COLOUR, 1.2),
            (valid, "validation", _MAIN_COLOUR, 2.0),
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
        label = f"Line chart of perplexity by training step, logarithmic. {describe_curve(valid)}"
        return _to_svg(figure, name="curves", label=label.strip())


def draw_bars(rows: Sequence[tuple[str, float | None, float | None]]) -> Markup | None:
    """Returns bars of model and unigram perplexity by slice as SVG; None without figures.

    Args:
      rows: name of the slice, the model's perplexity, the unigram baseline's perplexity.
    """
    values = [
        value for row in rows for value in (row[1], row[2]) if value is not None and value >= 1
    ]
    if not values:
        return None
    with matplotlib.style.context(_STYLE, after_reset=True):
        figure, axes = _new_figure(_WIDE)
        for shift, name, colour, bars in (
            (-0.19, "model", _MAIN_COLOUR, [row[1] for row in rows]),
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
        axes.set_xlim(1.0, max(values) ** 1.25 * 1.2)  # leaves room for the figures
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        _set_log_ticks(axes.xaxis, math.inf)
        figure.legend(loc="outside upper right", ncols=2)
        label = "Bar chart of perplexity, model and unigram baseline; the figures are in the table."
        return _to_svg(figure, name="bars", label=label)


def find_ranks(histogram: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    """Returns rank and count of the first and last word of each count, by rank.

    Args:
      histogram: `[[c, n], ...]`: n words occur c times.
    """
    points: dict[tuple[int, int], None] = {}
    rank = 0
    for count, number in sorted(((c, n) for c, n in histogram if c > 0 and n > 0), reverse=True):
        points |= {(rank + 1, count): None, (rank + number, count): None}
        rank += number
    return list(points)


def draw_ranks(histogram: Iterable[Sequence[int]], *, border: int | None = None) -> Markup | None:
    """Returns the rank-frequency curve (Zipf 1949) as SVG, both axes logarithmic.

    Args:
      histogram: as `find_ranks` takes it.
      border: size of the vocabulary, marked in the chart; None: not marked.

    Returns:
      The curve, exact at each rank; None without words.
    """
    points = find_ranks(histogram)
    if not points:
        return None
    ranks, counts = zip(*points, strict=True)
    last, highest = ranks[-1], counts[0]
    with matplotlib.style.context(_STYLE, after_reset=True):
        figure, axes = _new_figure(_SMALL)
        marker = "o" if len(points) == 1 else ""
        axes.plot(ranks, counts, color=_MAIN_COLOUR, lw=1.8, marker=marker, gid="curve")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(1, max(last, 10))
        axes.set_ylim(1, max(highest, 10))
        axes.set_xlabel("rank of the word")
        for axis, end in ((axes.xaxis, last), (axes.yaxis, highest)):
            ticks = _powers(max(end, 10))
            axis.set_minor_locator(NullLocator())
            axis.set_ticks(ticks, [_short(tick) for tick in ticks])
        axes.grid(axis="y")
        if border is not None and 1 <= border < last:
            axes.axvline(border, color=_INK, lw=0.8, ls=":")
            left = 2 * math.log(border) > math.log(max(last, 10))
            axes.annotate(
                f"\u00a0vocabulary: {border:,}\u00a0",
                (border, 1),
                xycoords=("data", "axes fraction"),
                ha="right" if left else "left",
                va="top",
            )
        label = (
            f"Rank-frequency curve, logarithmic: the most frequent of {last:,} distinct "
            f"training words occurs {highest:,} times."
        )
        return _to_svg(figure, name="ranks", label=label)


def find_shares(
    histograms: Mapping[str, Mapping[Any, int]],
) -> tuple[range, dict[str, list[float]]]:
    """Returns the share of each group's items by length.

    Args:
      histograms: group -> a power of two p -> number of items of p to 2p - 1 words.

    Returns:
      The exponents from smallest to largest, and for each non-empty group its shares, one per
      exponent.
    """
    counts = {
        name: {int(power).bit_length() - 1: n for power, n in histogram.items() if n > 0}
        for name, histogram in histograms.items()
    }
    counts = {name: group for name, group in counts.items() if group}
    used = {power for group in counts.values() for power in group}
    powers = range(min(used), max(used) + 1) if used else range(0)
    shares = {
        name: [group.get(power, 0) / sum(group.values()) for power in powers]
        for name, group in counts.items()
    }
    return powers, shares


def draw_lengths(
    histograms: Mapping[str, Mapping[Any, int]], *, name: str, noun: str
) -> Markup | None:
    """Returns bars of lengths as SVG: the share of a group's items by number of words.

    Args:
      histograms: as for `find_shares`, at most three; groups are named if there are several.
      name: of the drawing, used in ids.
      noun: what the items are called.

    Returns:
      A group of bars for each power from smallest to largest; None without items.
    """
    powers, shares = find_shares(histograms)
    if not shares:
        return None
    colours = dict(zip(histograms, _GROUP_COLOURS, strict=False))
    width = min(0.8 / len(shares), 0.3)
    with matplotlib.style.context(_STYLE, after_reset=True):
        figure, axes = _new_figure(_SMALL)
        for number, (group, values) in enumerate(shares.items()):
            shift = width * (number - (len(shares) - 1) / 2)
            places = [power + shift for power, value in zip(powers, values, strict=True) if value]
            heights = [100 * value for value in values if value]
            axes.bar(places, heights, width=width, color=colours[group], label=group)
        axes.set_xlim(powers[0] - 0.5, powers[-1] + 0.5)
        shown = powers[:: math.ceil(len(powers) / _SHOWN_TICKS)]
        axes.set_xticks(shown, [_short(1 << power) for power in shown])
        ticks = find_percent_ticks(max(map(max, shares.values())))
        axes.set_ylim(0, ticks[-1])
        axes.set_yticks(ticks, [f"{tick}\u00a0%" for tick in ticks])
        axes.grid(axis="y")
        axes.set_xlabel(f"words; 64 stands for {noun} of 64 to 127")
        if len(histograms) > 1:
            figure.legend(loc="outside upper left", ncols=3)
        label = f"Bar chart: share of the {noun} by number of words."
        return _to_svg(figure, name=name, label=label)


def find_percent_ticks(greatest: float) -> list[int]:
    """Returns the ticks of a percentage axis for shares up to `greatest`, which is at most 1."""
    step = next(step for step in (1, 2, 5, 10, 20, 25) if 100 * greatest <= 4 * step)
    return list(range(0, step * math.ceil(100 * greatest / step) + 1, step))


def _powers(high: int) -> list[int]:
    """Returns at most seven powers of ten, from 1 to `high`."""
    powers = range(len(str(high)))
    return [10**power for power in powers if power % math.ceil(len(powers) / 7) == 0]


def _short(value: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.4g}{unit}" if value % size == 0 else f"{value / size:.0f}{unit}"
    return str(value)


def _set_log_ticks(axis: Axis, ratio: float) -> None:
    """Sets ticks that suit the ratio of the highest to the lowest value."""
    subs = (1.0, 2.0, 5.0) if ratio < 100 else (1.0,)
    wide = LogLocator(subs=subs, numticks=6)
    axis.set_major_locator(MaxNLocator(5) if ratio < 4 else wide)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if 100 <= value < 1e7 else f"{value:.4g}")
    )


def _new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _to_svg(figure: Figure, *, name: str, label: str) -> Markup:
    """Returns a figure to be inlined in a page: no prolog, no fonts, ids that start with `name`."""
    buffer = io.StringIO()
    no_date = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=no_date, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # would apply to the whole page
    text = re.sub(r"font-family: [^;\"]*(; )?", "", text)
    text = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    width, height = 72 * figure.get_size_inches()  # an SVG's points
    start = f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width:g} {height:g}"'
    return Markup(start + text[text.index(">") :])
