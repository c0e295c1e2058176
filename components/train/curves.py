"""The learning curves of a training as one HTML page: self-contained, without scripts.

KFP's own pages show numbers and HTML, but no charts. As in the report, all text is escaped and the
page's content policy forbids scripts and requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from components.charts import Points, draw_curves
from components.evaluate.page import SHOWN_POINTS
from components.figures import format_figure
from components.html import NOT_AVAILABLE, load_template, visible
from model.files import write_whole
from model.metrics import perplexity, read_metrics

SHOWN_VALIDATIONS = 50
"""Maximum rows of the table; more validation passes are thinned out."""

Rows = Sequence[Mapping[str, Any]]


def write_curves(workdir: str, path: str) -> None:
    """Writes the page of a training's metrics.jsonl to `path`."""
    write_whole(path, render_curves(read_metrics(workdir), workdir=workdir))


def render_curves(rows: Rows, *, workdir: str) -> str:
    """Returns the page.

    Args:
      rows: lines of metrics.jsonl; missing values are left out.
      workdir: the training's folder, shown on the page.
    """
    train = [(row["step"], perplexity(-row["loss"], 1)) for row in rows if _has(row, "loss")]
    valid = [
        (row["step"], perplexity(row["valid_log_likelihood"], row["valid_words"]))
        for row in rows
        if _has(row, "valid_log_likelihood") and row.get("valid_words")
    ]
    passes = _shown(valid)
    return load_template(__file__, "curves.html.j2").render(
        missing=NOT_AVAILABLE,
        workdir=visible(workdir),
        facts=_facts(rows, valid=passes),
        curves=draw_curves(_thin(_shown(train), SHOWN_POINTS), _thin(passes, SHOWN_POINTS)),
        validations=[
            (f"{step:,.0f}", format_figure(value))
            for step, value in _thin(passes, SHOWN_VALIDATIONS)
        ],
    )


def _has(row: Mapping[str, Any], name: str) -> bool:
    return all(isinstance(row.get(key), int | float) for key in ("step", name))


def _shown(points: Points) -> Points:
    """Drops what a logarithmic axis can't show."""
    return [point for point in points if math.isfinite(point[1]) and point[1] > 0]


def _thin(points: Points, most: int) -> Points:
    stride = math.ceil(len(points) / most) or 1
    return points[::-1][::stride][::-1]  # keeps the last


def _facts(rows: Rows, *, valid: Points) -> list[tuple[str, str]]:
    newest: dict[str, float] = {}
    for row in rows:
        newest |= {name: row[name] for name in row if _has(row, name) and math.isfinite(row[name])}

    def figure(name: str, form: str) -> str:
        return form.format(newest[name]) if name in newest else NOT_AVAILABLE

    best = min(valid, key=lambda point: point[1]) if valid else None
    done = figure("step", "{:,.0f}")
    return [
        ("Steps", f"{done} of {figure('steps', '{:,.0f}')}" if "steps" in newest else done),
        ("Lowest validation perplexity", format_figure(best[1]) if best else NOT_AVAILABLE),
        ("reached at step", f"{best[0]:,.0f}" if best else NOT_AVAILABLE),
        ("Loss, nats per word", figure("loss", "{:.4f}")),
        ("Words per second", figure("words_per_second", "{:,.0f}")),
        ("Learning rate", figure("learning_rate", "{:.3g}")),
        ("Seconds", figure("seconds", "{:,.0f}")),
    ]
