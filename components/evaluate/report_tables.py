"""Formats key figures and slices of a report for people."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from components.evaluate.report_fields import find_number, look_up
from components.figures import format_count, format_figure, format_or_missing, format_percent

SLICES = {
    "unknown": "unknown word",
    "1-5": "1 to 5 times",
    "6-100": "6 to 100 times",
    ">100": "over 100 times",
}
"""The report's slices of the test words by training frequency, with display names."""


def _format_seconds(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (seconds, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return "\u00a0".join(f"{count:,}\u00a0{unit}" for count, unit in parts[:2])


def ratio(one: float | None, other: float | None) -> float | None:
    """Returns the ratio of two numbers; None if undefined."""
    return one / other if one is not None and other else None


def _remark(text: str, value: float | None, how: Callable[[float], str]) -> str:
    return "" if value is None else text.format(how(value))


def _remark_bits(report: Mapping[str, Any]) -> str:
    """Returns what the figure counts; reports before format 4 have only estimates."""
    if look_up(report, "splits.test.bits_per_character") is None:
        return ""
    remark = "unknown words by their spelling"
    if look_up(report, "splits.test.characters_estimated") is False:
        return remark
    return f"estimated, with a space after each word; {remark}"


def list_figures(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns label, value and remark of the key figures."""
    number = functools.partial(find_number, report)
    test, words = number("splits.test.perplexity"), number("splits.test.words")
    unigram, valid = number("baseline.unigram.perplexity"), number("splits.valid.perplexity")
    bigram = number("baseline.bigram.perplexity")
    unknown = ratio(number("splits.test.unknown_words"), words)
    bits = format_or_missing(number("splits.test.bits_per_character"), lambda value: f"{value:.3f}")
    share = _remark("the model has {} of it", ratio(test, unigram), format_percent)
    valid_words = _remark("on {} words", number("splits.valid.words"), format_count)
    vocabulary = _remark("vocabulary of {}", number("dataset.vocab_size"), format_count)
    evaluation = _remark("evaluation: {}", number("seconds.evaluation"), _format_seconds)
    training = format_or_missing(number("seconds.training"), _format_seconds)
    return [
        ("Test perplexity", format_or_missing(test, format_figure), "lower is better"),
        ("Unigram perplexity", format_or_missing(unigram, format_figure), share),
        (
            "Bigram perplexity",
            format_or_missing(bigram, format_figure),
            "from counts of word pairs",
        ),
        ("Bits per character", bits, _remark_bits(report)),
        ("Validation perplexity", format_or_missing(valid, format_figure), valid_words),
        ("Test words", format_or_missing(words, format_count), _describe_test_words(report)),
        ("Unknown words", format_or_missing(unknown, format_percent), vocabulary),
        ("Parameters", format_or_missing(number("parameters"), format_count), "numbers learnt"),
        (
            "Training steps",
            format_or_missing(number("checkpoint.step"), format_count),
            "of this checkpoint",
        ),
        (
            "Workers",
            format_or_missing(number("curves.workers"), format_count),
            "processes that trained",
        ),
        ("Training time", training, evaluation),
    ]


def _describe_test_words(report: Mapping[str, Any]) -> str:
    """Returns the remark on the test words: how they were scored, and how many were left out."""
    number = functools.partial(find_number, look_up(report, "splits.test.left_out"))
    words, sampled = number("words"), number("sampled_share")
    remark = "scored by the full softmax"
    if words:
        remark += f"; {format_count(words)} more were left out, seen in training"
    if sampled is not None and sampled < 1:
        remark += f" (looked up in a sample of {format_percent(sampled)})"
    return remark


def list_slices(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns name, words, share, and the model's and unigram perplexities of each slice."""
    total = find_number(report, "splits.test.words")
    rows = []
    for key, name in SLICES.items():
        part = look_up(report, f"splits.test.slices.{key}")
        words = find_number(part, "words")
        rows.append(
            {
                "name": name,
                "words": words,
                "share": format_or_missing(ratio(words, total), format_percent),
                "model": find_number(part, "perplexity"),
                "unigram": find_number(part, "unigram_perplexity"),
            }
        )
    return rows


def slice_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Formats the slices as table rows."""
    return [
        [
            row["name"],
            format_or_missing(row["words"], format_count),
            row["share"],
            format_or_missing(row["model"], format_figure),
            format_or_missing(row["unigram"], format_figure),
        ]
        for row in list_slices(report)
    ]
