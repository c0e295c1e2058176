"""docs/parameters.md is what the code says."""

from __future__ import annotations

from pathlib import Path

from components.run_settings import setting_names
from pipelines.parameter_docs import render

PAGE = Path(__file__).resolve().parent.parent / "docs" / "parameters.md"


def test_the_page_is_generated() -> None:
    advice = "run: python -m pipelines.parameter_docs > docs/parameters.md"
    assert PAGE.read_text(encoding="utf-8") == render(), advice


def test_the_page_has_a_row_for_each_setting() -> None:
    rows = [line.split("`")[1] for line in render().splitlines() if line.startswith("| `")]
    assert [name for name in rows if "." in name] == setting_names()
    assert "| `run.steps_share` | `0.5` | With a warm start, " in render()
    assert "| `corpus_window_days` | `1` | Days " in render()
