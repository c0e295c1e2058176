from __future__ import annotations

from typing import Any

import pytest

from components.evaluate.markdown import render_markdown
from components.evaluate.report_tables import list_figures
from components.html import NOT_AVAILABLE

REMARK = "unknown words by their spelling"
ESTIMATED = f"estimated, with a space after each word; {REMARK}"


@pytest.mark.parametrize(
    ("test", "value", "remark"),
    [
        ({"bits_per_character": 7.6246, "characters_estimated": False}, "7.625", REMARK),
        ({"bits_per_character": 3.81, "characters_estimated": True}, "3.810", ESTIMATED),
        ({"bits_per_character": 3.81}, "3.810", ESTIMATED),  # a report of before format 4
        ({}, NOT_AVAILABLE, ""),
    ],
)
def test_bits_per_estimated_character_are_marked(
    test: dict[str, Any], value: str, remark: str
) -> None:
    report = {"splits": {"test": test}}
    assert ("Bits per character", value, remark) in list_figures(report)
    assert ("estimated" in render_markdown(report)) == (remark == ESTIMATED)
