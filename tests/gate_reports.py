"""Reports for the gate, made of a few figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

SHARES = {
    "known to neither": 0.05,
    "challenger only": 0.0,
    "champion only": 0.0,
    "1-5": 0.15,
    "6-100": 0.3,
}
"""What part of the words each slice has; the others are in `>100`."""

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
        "format_version": 4,
        "splits": {
            "test": {
                **score(model, words),
                "unknown_words": 0,
                "left_out": {"words": 0, "unknown": None},
            }
        },
        "baseline": {"unigram": score(unigram, words), "bigram": score(unigram, words)},
        "champion": None,
        "reference": None,
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
    return {**part(total, count, paid * count), "documents": documents}


def slices_of(
    ours: dict[str, Any], theirs: dict[str, Any], *, spelled: bool
) -> dict[str, dict[str, list[Any]]]:
    """Returns the slices of a comparison, all alike, by the file of each document."""
    names: dict[str, list[float]] = {}
    for one, two in zip(ours["documents"], theirs["documents"], strict=True):
        row = names.setdefault(one["source"].rpartition(":")[0] or one["source"], [0, 0.0])
        row[0] += one["words"]
        row[1] += one["log_likelihood"] - two["log_likelihood"]
        row[1] += spelled * (one["spelling_log_likelihood"] - two["spelling_log_likelihood"])
    slices: dict[str, dict[str, list[Any]]] = {
        name: {"words": [], "difference": []} for name in (*SHARES, ">100")
    }
    for words, difference in names.values():
        left = int(words)
        for name, one in slices.items():
            count = left if name == ">100" else int(words * SHARES[name])
            left -= count
            one["words"].append(count)
            one["difference"].append(difference * count / words if words else 0.0)
    return slices


def with_champion(
    ours: dict[str, Any], theirs: dict[str, Any], *, same_vocabulary: bool = True
) -> dict[str, Any]:
    """Returns a report on a challenger and a champion."""
    words = ours["words"]
    return {
        "format_version": 4,
        "splits": {"test": {**ours, "unknown_words": 0, "left_out": {"words": 0, "unknown": None}}},
        "baseline": {"unigram": score(400.0, words), "bigram": score(300.0, words)},
        "champion": {
            "version": 3,
            "path": "registry/lm/3",
            "checkpoint_digest": "c" * 64,
            "vocab_digest": "d" * 64,
            "same_vocabulary": same_vocabulary,
            "refused": None,
            "test": theirs,
            "slices": slices_of(ours, theirs, spelled=not same_vocabulary) if theirs else {},
            "words": {"better": [], "worse": []},
        },
        "reference": None,
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


def one_slice_worse(
    loss: float, name: str = "1-5", *, apart: float = 0.0, words: int | None = None
) -> dict[str, Any]:
    """A challenger that is better, but for one slice of the words.

    Args:
      loss: by what part the perplexity of the slice is above the champion's.
      name: of the slice.
      apart: deviation of the difference per word of the slice between the sources.
      words: of the slice in each source.
    """
    report = make_pair(0.02)
    slices = report["champion"]["slices"]
    one, rest = slices[name], slices[">100"]
    moved = noise(apart, seed=5) if apart else [0.0] * COUNT
    for at in range(COUNT):
        count = one["words"][at] if words is None else words
        rest["words"][at] += one["words"][at] - count
        one["words"][at] = count
        difference = (-math.log1p(loss) + float(moved[at])) * count
        rest["difference"][at] += one["difference"][at] - difference
        one["difference"][at] = difference
    return report


def with_reference(
    report: dict[str, Any], better: float = 0.0, *, apart: float = 0.001
) -> dict[str, Any]:
    """Adds a reference, better than the champion by so much per word, to a report."""
    champion = report["champion"]
    documents = champion["test"]["documents"]
    gaps = better + noise(apart, count=len(documents), seed=9)
    per_word = [
        one["log_likelihood"] / one["words"] + gap for one, gap in zip(documents, gaps, strict=True)
    ]
    test = sums(np.asarray(per_word), [one["words"] for one in documents])
    for one, two in zip(test["documents"], documents, strict=True):
        one["source"] = two["source"]
    other = {"version": 1, "path": "registry/lm/1", "test": test, "is_champion": False}
    return {**report, "reference": {**champion, **other, "slices": None, "words": None}}
