"""The data card: its figures and drawings."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_components_evaluate_page import Element, parse, read_facts, tables

from components.preprocess.analysis.data_card import (
    SHOWN_CHARACTERS,
    SHOWN_PAIRS,
    SHOWN_WORDS,
    draw_histogram,
    draw_ranks,
    render_card,
    write_card,
)


def one_split(records: int, words: int, unknown: int) -> dict[str, Any]:
    return {
        "records": records,
        "words": words,
        "characters": 5 * words,
        "bytes": 6 * words,
        "unknown_words": unknown,
        "unknown_rate": unknown / words if words else 0.0,
        "length_histogram": {"512": 1, "1024": records - 1} if records else {},
        "shards": [],
    }


INFO: dict[str, Any] = {
    "config": {"tokenizer": "words", "document": "paragraph"},
    "input": {"files": 12, "bytes": 7654321, "fingerprint": "f1" * 32, "stray_bytes": 0},
    "vocab": {"size": 5, "sha256": "50" * 32, "train_words": 100000},
    "splits": {
        "train": one_split(98, 100000, 2500),
        "valid": one_split(5, 5000, 150),
        "test": one_split(4, 4000, 0),
    },
    "rejected": {},
    "rejected_files": [],
    "digest": "d1" * 32,
}

STATISTICS: dict[str, Any] = {
    "max_word_bytes": 24,
    "splits": {
        "train": {
            "distinct_words": 6,
            "distinct_unknown": 4,
            "truncated_words": 3,
        },
        "valid": {
            "distinct_words": 5,
            "distinct_unknown": 3,
            "truncated_words": 0,
        },
        "test": {
            "distinct_words": 2,
            "distinct_unknown": 0,
            "truncated_words": 400,
        },
    },
    "document_length_histogram": {"1": 1, "2048": 4, "4096": 9},
    "count_histogram": [[1, 3], [10, 1], [100, 2]],
    "frequent_words": [["the", 60000], ["a", 37500]],
    "frequent_unknown": [["zyzzyva", 2000], ["syzygy", 500]],
    "near_duplicates": {
        "threshold": 0.5,
        "shingle_words": 5,
        "compared": {"train": 98, "valid": 5, "test": 4},
        "valid": 0,
        "test": 0,
        "same": {"valid": 0, "test": 0},
        "examples": [],
    },
}


def changed(values: dict[str, Any], **paths: Any) -> dict[str, Any]:
    """Returns a copy with other values; `a__b` is the key b of a."""
    values = copy.deepcopy(values)
    for path, value in paths.items():
        *folders, name = path.split("__")
        parent = values
        for folder in folders:
            parent = parent[folder]
        parent[name] = value
    return values


def leaking() -> dict[str, Any]:
    pair = {"split": "valid", "record": 1234, "train_record": 7, "similarity": 0.99999}
    named = {"source": "b/x.txt:12", "train_source": "a/y.txt:0", "similarity": 0.5}
    leaks = {
        **STATISTICS["near_duplicates"],
        "valid": 2,
        "test": 1,
        "same": {"valid": 1, "test": 0},
        "examples": [pair, {**pair, **named}, {**pair, **named, "split": "test"}],
    }
    return changed(STATISTICS, near_duplicates=leaks)


def section(root: Element, heading: str) -> Element:
    return next(
        part for part in root.all("section") if [h.text for h in part.all("h2")] == [heading]
    )


def summary(page: str) -> list[str]:
    box = next(parse(page).all("section"))
    return [part.text for part in box.all("h2", "p", "li")]


def test_the_summary_comes_first_and_says_how_much_is_unknown_and_leaks() -> None:
    assert summary(render_card(INFO, STATISTICS)) == [
        "100,000 words of training text",
        "✓ Nothing stands out.",
        "Unknown words: 2.50\u00a0% of the training words, 3.00\u00a0% of the validation words, "
        "0.00\u00a0% of the test words.",
        "Leakage: none of 9 validation and test records have a near-duplicate in the training split.",
        "Rejected input: none of 12 files.",
    ]
    assert 'class="summary"' in render_card(INFO, STATISTICS)


@pytest.mark.parametrize(
    ("info", "statistics", "said"),
    [
        (
            INFO,
            leaking(),
            "Leakage: 3 of 9 validation and test records have a near-duplicate in the training split.",
        ),
        (
            INFO,
            changed(STATISTICS, near_duplicates__test=1),
            "Leakage: 1 of 9 validation and test records has a near-duplicate in the training split.",
        ),
        (
            INFO,
            {k: v for k, v in STATISTICS.items() if k != "near_duplicates"},
            "Leakage: near-duplicates across splits were not counted.",
        ),
        (
            changed(INFO, rejected={"binary": 2, "empty": 1}),
            STATISTICS,
            "Rejected input: 3 of 12 files.",
        ),
        (
            changed(INFO, input__stray_bytes=1234),
            STATISTICS,
            "Undecodable text: 1,234 places became U+FFFD.",
        ),
    ],
)
def test_what_needs_a_look_is_said(
    info: dict[str, Any], statistics: dict[str, Any], said: str
) -> None:
    page = render_card(info, statistics)
    assert summary(page)[1] == "! Something needs a look."
    assert said in summary(page)
    assert 'class="summary attention"' in page


def test_a_split_without_words_has_no_rate() -> None:
    page = render_card(changed(INFO, splits__test=one_split(0, 0, 0)), STATISTICS)
    assert summary(page)[2] == (
        "Unknown words: 2.50\u00a0% of the training words, 3.00\u00a0% of the validation words."
    )


def test_the_key_figures() -> None:
    assert read_facts(parse(render_card(INFO, STATISTICS))) == {
        "Words": ("109,000", "in all splits"),
        "Input files": ("12", "7,654,321 bytes"),
        "Documents": ("14", "each a paragraph"),
        "Vocabulary": ("5", "3 special ones included"),
        "Distinct words": ("6", "in the training split"),
    }


def test_the_table_of_the_splits() -> None:
    page = render_card(INFO, STATISTICS)
    assert tables(section(parse(page), "Splits"))[0] == [
        ["", "Training", "Validation", "Test"],
        ["Records", "98", "5", "4"],
        ["Words", "100,000", "5,000", "4,000"],
        ["Characters", "500,000", "25,000", "20,000"],
        ["Bytes", "600,000", "30,000", "24,000"],
        ["Distinct words", "6", "5", "2"],
        ["Unknown words", "2,500", "150", "0"],
        ["Unknown words, share", "2.50\u00a0%", "3.00\u00a0%", "0.00\u00a0%"],
        ["Distinct unknown words", "4", "3", "0"],
        ["Truncated words", "3", "0", "400"],
        ["Truncated words, share", "under 0.01\u00a0%", "0.00\u00a0%", "10.00\u00a0%"],
    ]
    assert "one of more than 24 bytes" in page


def test_the_curve_goes_through_the_ends_of_each_count() -> None:
    # Ranks 1 and 2 occur 100 times, rank 3 10 times, ranks 4 to 10 once; both scales end at
    # 10 and 100, so a power of ten is the whole width and half the height.
    plot = draw_ranks([[1, 7], [100, 2], [10, 1]], border=3)
    assert plot is not None
    assert plot.path == "M46 10L150.2 10L211.1 105L254.3 200L392 200"
    assert plot.x_ticks == [(46.0, "1"), (392.0, "10")]
    assert plot.y_ticks == [(200.0, "1"), (105.0, "10"), (10.0, "100")]
    assert plot.border == (211.1, "vocabulary: 3", "start")
    assert plot.label == (
        "Rank-frequency curve, logarithmic: the most frequent of 10 distinct training words "
        "occurs 100 times."
    )


@pytest.mark.parametrize("border", [None, 0, -3, 10, 11])
def test_a_border_is_drawn_only_where_there_is_one(border: int | None) -> None:
    plot = draw_ranks([[1, 10]], border=border)
    assert plot is not None
    assert plot.border is None


def test_a_curve_of_one_word_or_none() -> None:
    plot = draw_ranks([[1, 1]])
    assert plot is not None
    assert plot.path == "M46 200L46 200"  # a point, of which a round line shows the cap
    assert draw_ranks([]) is None
    assert draw_ranks([[0, 5], [3, 0]]) is None


def test_a_long_curve_is_thinned_to_what_can_be_seen() -> None:
    plot = draw_ranks([[10**9 // rank**2 + rank % 7, 1] for rank in range(1, 200_000)])
    assert plot is not None
    points = plot.path[1:].split("L")
    assert 100 < len(points) < 1500
    assert points[-1].startswith("392 ")
    heights = [float(point.split()[1]) for point in points]
    assert heights == sorted(heights)


def test_bars_show_shares_of_each_split() -> None:
    plot = draw_histogram(
        {"train": {"64": 1, "256": 3}, "valid": {64: 2}, "test": {}}, noun="things"
    )
    assert plot is not None
    assert plot.x_ticks == [(103.7, "64"), (219.0, "128"), (334.3, "256")]
    assert plot.y_ticks[:2] == [(200.0, "0\u00a0%"), (152.5, "25\u00a0%")]
    assert plot.y_ticks[-1] == (10.0, "100\u00a0%")
    assert plot.bars == [
        ("train", 75.7, 152.5, 28.0, 47.5),
        ("train", 306.3, 57.5, 28.0, 142.5),
        ("valid", 103.7, 10.0, 28.0, 190.0),
    ]
    assert plot.splits == ["train", "valid"]
    alone = draw_histogram({"all": {"1": 2}}, noun="things")
    assert alone is not None
    assert (alone.bars, alone.splits) == ([("all", 205.0, 10.0, 28.0, 190.0)], [])


@pytest.mark.parametrize(
    ("share", "ticks"),
    [
        (0.015, ["0", "1", "2"]),
        (0.04, ["0", "1", "2", "3", "4"]),
        (0.07, ["0", "2", "4", "6", "8"]),
        (0.2, ["0", "5", "10", "15", "20"]),
        (0.55, ["0", "20", "40", "60"]),
        (1.0, ["0", "25", "50", "75", "100"]),
    ],
)
def test_the_axis_of_shares_suits_the_greatest(share: float, ticks: list[str]) -> None:
    first = round(1000 * share)
    size, more = divmod(1000 - first, 100)  # none of the hundred others is greater
    others = {2 << power: size + (power < more) for power in range(100)}
    plot = draw_histogram({"train": {1: first, **others}}, noun="things")
    assert plot is not None
    assert [text.removesuffix("\u00a0%") for _, text in plot.y_ticks] == ticks
    assert len(plot.x_ticks) <= 10
    assert min(y for _, _, y, _, _ in plot.bars) >= 10


def test_no_lengths_no_bars() -> None:
    assert draw_histogram({"train": {}, "valid": {"4": 0}}, noun="things") is None


def test_words_are_listed_by_frequency_and_not_without_end() -> None:
    root = parse(render_card(INFO, STATISTICS))

    def listed(root: Element, heading: str) -> list[list[str]]:
        rows = section(root, heading).all("li")
        return [[part.text for part in row.all("bdi", "span")] for row in rows]

    assert listed(root, "Most frequent words") == [["the", "60,000"], ["a", "37,500"]]
    assert listed(root, "Most frequent unknown words") == [["zyzzyva", "2,000"], ["syzygy", "500"]]
    many = [["w" * (SHOWN_CHARACTERS + 1), 1], *([["v" * SHOWN_CHARACTERS, 1]] * 99)]
    root = parse(render_card(INFO, changed(STATISTICS, frequent_words=many)))
    shown = listed(root, "Most frequent words")
    assert len(shown) == SHOWN_WORDS
    assert shown[:2] == [["w" * SHOWN_CHARACTERS + "…", "1"], ["v" * SHOWN_CHARACTERS, "1"]]


def test_leaks_are_shown_with_their_records() -> None:
    part = section(parse(render_card(INFO, leaking())), "Leakage")
    assert "at least 50\u00a0% of all runs of 5 words" in part.text
    leaks, pairs = tables(part)
    assert leaks == [
        ["Split", "Records", "With a near-duplicate", "Share", "No change seen"],
        ["Validation", "5", "2", "40.00\u00a0%", "1"],
        ["Test", "4", "1", "25.00\u00a0%", "0"],
    ]
    assert pairs == [
        ["Split", "Record", "Training record", "Alike"],
        ["Validation", "record 1,234", "record 7", "99.9\u00a0%"],
        ["Validation", "b/x.txt:12", "a/y.txt:0", "50.0\u00a0%"],
        ["Test", "b/x.txt:12", "a/y.txt:0", "50.0\u00a0%"],
    ]
    pair = leaking()["near_duplicates"]["examples"][0]
    many = changed(leaking(), near_duplicates__examples=[pair] * (SHOWN_PAIRS + 5))
    part = section(parse(render_card(INFO, many)), "Leakage")
    assert len(tables(part)[1]) == 1 + SHOWN_PAIRS


def test_rejected_input_is_shown_by_reason() -> None:
    files = [{"file": "a/b.bin", "reason": "binary", "offset": 5000}]
    info = changed(INFO, rejected={"binary": 1, "empty": 2}, rejected_files=files)
    reasons, examples = tables(section(parse(render_card(info, STATISTICS)), "Rejected input"))
    assert reasons == [["Reason", "Files"], ["binary", "1"], ["empty", "2"]]
    assert examples == [["File", "Reason", "At byte"], ["a/b.bin", "binary", "5,000"]]
    none = section(parse(render_card(INFO, STATISTICS)), "Rejected input")
    assert "No file was left out." in none.text


def test_a_vocabulary_from_outside_has_no_border() -> None:
    assert "vocabulary: 2" in render_card(INFO, STATISTICS)
    given = changed(INFO, vocab__given_words=2)
    assert "vocabulary: 2" not in render_card(given, STATISTICS)


def test_figures_of_the_splits_may_be_in_either_place() -> None:
    moved = {split: STATISTICS["splits"][split] | INFO["splits"][split] for split in INFO["splits"]}
    page = render_card(changed(INFO, splits=moved), changed(STATISTICS, splits={}))
    assert page == render_card(INFO, STATISTICS)


def test_statistics_that_are_missing_are_done_without() -> None:
    root = parse(render_card(INFO, {}))
    rows = {name: values for name, *values in tables(section(root, "Splits"))[0]}
    assert rows["Distinct words"] == ["not available"] * 3
    assert rows["Words"] == ["100,000", "5,000", "4,000"]
    assert len(list(root.all("svg"))) == 1  # the lengths of the records are in dataset.json
    assert "were not counted" in section(root, "Leakage").text


def test_words_in_the_page_keep_their_direction_to_themselves() -> None:
    words = [["مرحبا", 3], ["ab", 2]]
    root = parse(render_card(INFO, changed(STATISTICS, frequent_words=words)))
    isolated = {element.text for element in root.all("bdi")}
    assert {"مرحبا", "ab", "zyzzyva"} <= isolated


def test_the_same_data_have_the_same_page(tmp_path: Path) -> None:
    info, statistics = INFO, leaking()
    write_card(info, statistics, str(tmp_path / "one.html"))
    assert (tmp_path / "one.html").read_text("utf-8") == render_card(info, statistics)
    values = json.dumps([info, statistics])
    code = (
        "import json, sys; from components.preprocess.analysis.data_card import write_card; "
        "write_card(*json.load(sys.stdin), sys.argv[1])"
    )
    for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"}
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "other.html")],
            input=values,
            text=True,
            env=environment,
            cwd=Path(__file__).resolve().parent.parent,
            check=True,
            stderr=subprocess.DEVNULL,
        )
        assert (tmp_path / "other.html").read_bytes() == (tmp_path / "one.html").read_bytes()
