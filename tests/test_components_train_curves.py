"""The page of the learning curves: what it shows, and that it is inert."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from components.train.curves import SHOWN_VALIDATIONS, render_curves, write_curves
from model.metrics import METRICS_FILE

HOSTILE = "<script>alert(1)</script>\u202e&\"'"


def train_row(step: int, loss: float, **more: Any) -> dict[str, Any]:
    speed = {"words_per_second": 1234.6, "learning_rate": 0.002, "seconds": 9.0 + step}
    return {"step": step, "steps": 40, "loss": loss, **speed, **more}


def valid_row(step: int, perplexity: float) -> dict[str, Any]:
    total = -100 * math.log(perplexity)
    return {"step": step, "valid_log_likelihood": total, "valid_words": 100, "seconds": 9.0 + step}


def facts(page: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", page))


def test_the_page_shows_curves_and_figures() -> None:
    rows = [train_row(10, 5.0), valid_row(20, 80.0), train_row(20, 4.5), valid_row(30, 90.0)]
    page = render_curves(rows, workdir="/mnt/charloom/runs/r/work")
    assert facts(page) == {
        "Steps": "30 of 40",
        "Lowest validation perplexity": "80.00",
        "reached at step": "20",
        "Loss, nats per word": "4.5000",
        "Words per second": "1,235",
        "Learning rate": "0.002",
        "Seconds": "39",
    }
    assert page.count("<svg") == 1
    assert "training" in page
    assert '<bdi translate="no">/mnt/charloom/runs/r/work</bdi>' in page
    table = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td></tr>', page)
    assert table == [("20", "80.00"), ("30", "90.00")]


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    page = render_curves([train_row(10, 5.0)], workdir=HOSTILE)
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\ufffd&amp;&#34;&#39;" in page
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", page) == []


def test_a_training_without_metrics_has_a_page() -> None:
    page = render_curves([], workdir="w")
    assert set(facts(page).values()) == {"not available"}
    assert "<svg" not in page
    assert "Training curves are not available." in page
    assert "<table" not in page


def test_what_cannot_be_shown_is_left_out() -> None:
    rows = [
        train_row(10, math.nan),
        train_row(20, 1e9),  # its perplexity is infinite
        train_row(30, 2.0, words_per_second=math.inf),
        {"step": 40, "valid_log_likelihood": -1.0, "valid_words": 0},
        {"loss": 1.0},
    ]
    shown = facts(render_curves(rows, workdir="w"))
    assert shown["Loss, nats per word"] == "2.0000"
    assert shown["Words per second"] == "1,235"  # the newest that is finite
    assert shown["Lowest validation perplexity"] == "not available"


def test_many_points_are_thinned_and_the_last_is_kept() -> None:
    rows = [valid_row(step, 1000.0 - step) for step in range(1, 501)]
    page = render_curves(rows, workdir="w")
    steps = [int(step) for step in re.findall(r'<tr><th scope="row">(\d+)</th>', page)]
    assert len(steps) == SHOWN_VALIDATIONS
    assert steps[-1] == 500
    assert len(page) < 100_000


def test_the_page_is_written_from_the_workdir(tmp_path: Path) -> None:
    rows = [train_row(10, 5.0), valid_row(10, 80.0)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / METRICS_FILE).write_text(text + '{"step": 2')  # cut short
    write_curves(str(tmp_path), str(tmp_path / "curves"))
    assert (tmp_path / "curves").read_text() == render_curves(rows, workdir=str(tmp_path))
