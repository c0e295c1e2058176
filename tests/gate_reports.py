"""Reports for the gate, made of a few figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

SLICES = {"unknown": 0.05, "1-5": 0.15, "6-100": 0.3, ">100": 0.5}
"""What part of the words each has."""

Floats = npt.NDArray[np.float64]


def score(perplexity: float, words: int = 1000) -> dict[str, Any]:
    """Returns the sums of a model or a baseline."""
    total = -words * math.log(perplexity)
    return {"log_likelihood": total, "words": words, "perplexity": math.exp(-total / words)}


def part(log_likelihood: float, words: int, paid: float = 0.0) -> dict[str, Any]:
    """Returns sums with those of spellings."""
    return {
        "log_likelihood": log_likelihood,
        "spelling_log_likelihood": paid,
        "words": words,
        "perplexity": math.exp(-log_likelihood / words),
    }


def make_report(model: float = 100.0, unigram: float = 400.0, words: int = 1000) -> dict[str, Any]:
    """Returns a report without a champion."""
    return {
        "format_version": 3,
        "splits": {"test": {**score(model, words), "left_out": {"words": 0, "unknown": None}}},
        "baseline": {"unigram": score(unigram, words), "bigram": score(unigram, words)},
        "champion": None,
    }


def sums(
    per_word: Floats, words: list[int], *, paid: float = 0.0, name: str = "doc-{}"
) -> dict[str, Any]:
    """Returns a model's sums over documents.

    Args:
      per_word: `[N]` log-likelihood per word of each document.
      words: `[N]`.
      paid: log-likelihood per word of spellings.
      name: of a document, by its number.
    """
    documents = [
        {
            "source": name.format(at),
            "words": count,
            "log_likelihood": float(value) * count,
            "spelling_log_likelihood": paid * count,
        }
        for at, (value, count) in enumerate(zip(per_word, words, strict=True))
    ]
    count, total = sum(words), math.fsum(one["log_likelihood"] for one in documents)
    fields = ("words", "log_likelihood", "spelling_log_likelihood")
    return {
        **part(total, count, paid * count),
        "documents": documents,
        "blocks": {field: [one[field] for one in documents] for field in fields},
        "slices": {
            slice_name: part(total * share, round(count * share), paid * count * share)
            for slice_name, share in SLICES.items()
        },
    }


def with_champion(
    ours: dict[str, Any], theirs: dict[str, Any], *, same_vocabulary: bool = True
) -> dict[str, Any]:
    """Returns a report on a challenger and a champion."""
    words = ours["words"]
    return {
        "format_version": 3,
        "splits": {"test": {**ours, "left_out": {"words": 0, "unknown": None}}},
        "baseline": {"unigram": score(400.0, words), "bigram": score(300.0, words)},
        "champion": {
            "version": 3,
            "path": "registry/lm/3",
            "checkpoint_digest": "c" * 64,
            "vocab_digest": "d" * 64,
            "same_vocabulary": same_vocabulary,
            "refused": None,
            "test": theirs,
            "words": {"better": [], "worse": []},
        },
    }


COUNT, LENGTH = 40, 1_000


def noise(scale: float, *, count: int = COUNT, seed: int = 0) -> Any:
    """Returns noise with a mean of exactly 0."""
    values = np.random.default_rng(seed).standard_normal(count // 2) * scale
    return np.concatenate([values, -values])


def make_pair(
    better: float = 0.0,
    *,
    apart: float = 0.01,
    count: int = COUNT,
    length: int = LENGTH,
    paid: float = 0.0,
    same_vocabulary: bool = True,
    name: str = "doc-{}",
) -> dict[str, Any]:
    """Returns a report of a challenger, better by so much per word and paying for spellings."""
    base = -4.0 + noise(0.3, count=count, seed=1)
    lengths = [length] * count
    ours = sums(base + better + noise(apart, count=count), lengths, paid=paid, name=name)
    theirs = sums(base, lengths, name=name)
    return with_champion(ours, theirs, same_vocabulary=same_vocabulary)


def other_vocabulary() -> dict[str, Any]:
    """A challenger whose perplexity is lower by half since it answers `<unk>`, and pays more."""
    return make_pair(0.7, paid=-0.9, same_vocabulary=False)


def changed_pair(path: str, value: Any, **sizes: Any) -> dict[str, Any]:
    """Returns a good report with one value replaced, or removed for `...`."""
    report = make_pair(**sizes)
    *folders, name = path.split(".")
    parent: Any = report
    for folder in folders:
        parent = parent[int(folder) if folder.isdecimal() else folder]
    if value is ...:
        del parent[name]
    else:
        parent[int(name) if name.isdecimal() else name] = value
    return report


def one_slice_worse(loss: float, name: str = "1-5") -> dict[str, Any]:
    """A challenger that is better, but for one slice of the words."""
    report = make_pair(0.02)
    ours = report["splits"]["test"]["slices"][name]
    theirs = report["champion"]["test"]["slices"][name]
    ours["log_likelihood"] = theirs["log_likelihood"] - math.log1p(loss) * theirs["words"]
    return report


def few_words_of_a_slice() -> dict[str, Any]:
    """A challenger that is better, but for a slice with too few words to tell."""
    report = one_slice_worse(3.0)
    for test in (report["splits"]["test"], report["champion"]["test"]):
        test["slices"]["1-5"]["words"] = 199
    return report
