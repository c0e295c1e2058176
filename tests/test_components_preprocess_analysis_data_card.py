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
        "✓ Nothing unusual.",
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
    assert summary(page)[1] == "! Needs attention."
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
    assert "those of more than 24 bytes" in page


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
    assert "at least 50\u00a0% of the runs of 5 words" in part.text
    leaks, pairs = tables(part)
    assert leaks == [
        ["Split", "Records", "With a near-duplicate", "Share", "No visible change"],
        ["Validation", "5", "2", "40.00\u00a0%", "1"],
        ["Test", "4", "1", "25.00\u00a0%", "0"],
    ]
    assert pairs == [
        ["Split", "Record", "Training record", "Similarity"],
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
