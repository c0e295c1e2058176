"""Hostile words in the data card do nothing, in a real browser too, where it fits its window."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from test_components_evaluate_browser import check_in_a_browser
from test_components_evaluate_page import HOSTILE, parse
from test_components_preprocess_analysis_data_card import INFO, changed, leaking

from components.preprocess.analysis.data_card import SHOWN_CHARACTERS, render_card

RLO, LRI = "\u202e", "\u2066"


def hostile() -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns arguments with whatever a corpus, or its files' names, may hold."""
    words = [HOSTILE, f"{RLO}drow{LRI}", "\0\x1b[31m\x85\u2028", "x" * 10**6, "", "\n"]
    words += ["a" + "\u0301" * 1000, "مرحبا", "﷽" * 30, "W" * SHOWN_CHARACTERS, "\ud800", "{{ 1 }}"]
    rows = [[word, 10**12 - place] for place, word in enumerate(words)]
    statistics = changed(leaking(), frequent_words=rows * 5, frequent_unknown=rows)
    for pair in statistics["near_duplicates"]["examples"]:
        pair |= {"source": f"{HOSTILE}/{'y' * 5000}:0", "train_source": RLO + HOSTILE}
    bad = {"file": HOSTILE + "z" * 5000 + RLO, "reason": "undecodable", "offset": 10**12}
    info = changed(
        INFO,
        rejected={"binary": 1, "undecodable": 3},
        rejected_files=[bad, bad],
        input__stray_bytes=17,
        config__encoding=HOSTILE,
    )
    return info, statistics


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    page = render_card(*hostile())
    root = parse(page)  # every element is closed where it should be
    assert "default-src 'none'" in page
    tags = {element.tag for element in root.all()}
    assert not tags & {"script", "img", "iframe", "object", "form", "a"}
    for element in root.all():
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("href", "src"):
            assert (element.attributes.get(name) or "data:,").startswith("data:,")
    assert "&lt;/bdi&gt;&lt;/td&gt;&lt;script&gt;" in page
    assert "{{ 1 }}" in page
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\0\x1b\x85\ud800]", page)
    assert len(page.encode()) < 60_000


def test_in_a_browser(chromium: str, tmp_path: Path) -> None:
    page = render_card(*hostile()).replace("<details>", "<details open>")
    check_in_a_browser(chromium, page, tmp_path, title="charloom: data card", drawings=3)
