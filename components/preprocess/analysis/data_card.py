"""The data card: one HTML page that tells people what is in a folder of records.

Self-contained and inert, as the report of an evaluation: all text is escaped, and the page's own
policy forbids scripts and requests. It depends on its two arguments only, so the same data
have the same page, byte for byte. Drawings are SVG that is written here, not by a library.

`info` is the content of dataset.json (docs/data-contract.md). `statistics`, plain JSON values,
is what the stage counted beside it; marks of line ends are in none of its counts. A key that is
missing is shown as "not available", and its drawing, list or section is left out:

  max_word_bytes      bytes of a word that the model sees; of `model.max_word_bytes` that is two
                      less, which are for the marks of its begin and end
  splits.<split>      each of these may be among those of `info` as well
    distinct_words    distinct words
    distinct_unknown  of those, how many are not in the vocabulary
    truncated_words   how many of the split's words have more than `max_word_bytes` bytes
  document_length_histogram
                      a power of two p -> documents of p to 2p - 1 words, whatever the splits of
                      their records
  count_histogram     `[[c, n], ...]`: n distinct training words occur c times
  frequent_words      `[[word, count], ...]`, the most frequent of the training split
  frequent_unknown    the same of those that are not in the vocabulary
  near_duplicates     what `near_duplicates.count_leaks` returns
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.evaluate.report_fields import look_up
from components.html import NOT_AVAILABLE, load_template, visible
from model.data.records import SPLITS
from model.files import write_whole
from model.text.vocab import SPECIAL_WORDS

SPLIT_NAMES = {"train": "Training", "valid": "Validation", "test": "Test"}
SHOWN_WORDS = 50
SHOWN_PAIRS = 10
"""Near-duplicates that are named, of each split."""
SHOWN_CHARACTERS = 32
"""Longer words are cut."""

_WIDTH, _HEIGHT = 400, 240  # of a drawing, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 392, 10, 200  # of its plot area
_NEAR = 0.5  # points of a curve that are nearer than this look like one
_SHOWN_TICKS = 10

Info = Mapping[str, Any]


def write_card(info: Info, statistics: Info, path: str) -> None:
    """Writes the page to `path`; see the module's docstring for the arguments."""
    write_whole(path, render_card(info, statistics))


def render_card(info: Info, statistics: Info) -> str:
    """Returns the page; see the module's docstring for the arguments."""
    leaks = look_up(statistics, "near_duplicates")
    documents = look_up(statistics, "document_length_histogram") or {}
    splits = {
        split: (look_up(statistics, f"splits.{split}") or {}) | info["splits"][split]
        for split in SPLITS
    }
    lengths = {split: splits[split]["length_histogram"] for split in SPLITS}
    border = None if "given_words" in info["vocab"] else info["vocab"]["size"] - len(SPECIAL_WORDS)
    return load_template(__file__, "data_card.html.j2").render(
        missing=NOT_AVAILABLE,
        names=SPLIT_NAMES,
        attention=_needs_attention(info, leaks),
        headline=f"{_count(splits['train']['words'])} words of training text",
        findings=_findings(info, leaks),
        facts=_facts(info, splits, documents),
        rows=_split_rows(splits),
        max_word_bytes=look_up(statistics, "max_word_bytes"),
        ranks=draw_ranks(look_up(statistics, "count_histogram") or [], border=border),
        documents=draw_histogram({"all": documents}, noun="documents"),
        lengths=draw_histogram(lengths, noun="records"),
        frequent=_word_rows(look_up(statistics, "frequent_words")),
        unknown=_word_rows(look_up(statistics, "frequent_unknown")),
        rejected=[(visible(reason), _count(n)) for reason, n in info["rejected"].items()],
        rejected_files=_file_rows(info),
        stray=_count(look_up(info, "input.stray_bytes")),
        leaks=leaks,
        leak_rows=_leak_rows(leaks) if leaks else [],
        pairs=_pair_rows(leaks) if leaks else [],
        config=[(visible(name), visible(value)) for name, value in info["config"].items()],
        digest=visible(info["digest"]),
        fingerprint=visible(look_up(info, "input.fingerprint", missing=NOT_AVAILABLE)),
    )


def _count(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else f"{value:,.0f}"


def _percent(part: float | None, whole: float | None) -> str:
    """Returns a share for people; what is not 0 never looks like 0."""
    if part is None or not whole:
        return NOT_AVAILABLE
    share = 100 * part / whole
    text = f"{share:.2f}" if share >= 0.005 or not part else "under 0.01"
    return f"{text}\u00a0%"


def _clip(word: object) -> str:
    """Returns a word that can be shown, cut where it is too long."""
    text = str(word)
    return visible(text[:SHOWN_CHARACTERS] + ("…" if len(text) > SHOWN_CHARACTERS else ""))


def _leaked(leaks: Info | None) -> int:
    return sum(leaks[split] for split in SPLITS[1:]) if leaks else 0


def _needs_attention(info: Info, leaks: Info | None) -> bool:
    if leaks is None or _leaked(leaks):  # what was not looked at is no good news
        return True
    return any(info["rejected"].values()) or bool(look_up(info, "input.stray_bytes"))


def _findings(info: Info, leaks: Info | None) -> list[str]:
    """Returns what to know first, a sentence each."""
    shares = []
    for split, name in SPLIT_NAMES.items():
        part = info["splits"][split]
        if part["words"]:
            share = _percent(part["unknown_words"], part["words"])
            shares.append(f"{share} of the {name.lower()} words")
    findings = [f"Unknown words: {', '.join(shares) or NOT_AVAILABLE}."]
    if leaks is None:
        findings.append("Leakage: near-duplicates across splits were not counted.")
    else:
        compared = sum(leaks["compared"][split] for split in SPLITS[1:])
        number = _leaked(leaks)
        verb = "has" if number == 1 else "have"
        findings.append(
            f"Leakage: {_count(number) if number else 'none'} of {_count(compared)} validation and "
            f"test records {verb} a near-duplicate in the training split."
        )
    rejected = sum(info["rejected"].values())
    files = info["input"]["files"]
    findings.append(
        f"Rejected input: {_count(rejected) if rejected else 'none'} of {_count(files)} "
        f"file{'' if files == 1 else 's'}."
    )
    stray = look_up(info, "input.stray_bytes")
    if stray:
        findings.append(f"Undecodable text: {_count(stray)} places became U+FFFD.")
    return findings


def _facts(info: Info, splits: Info, documents: Mapping[Any, int]) -> list[tuple[str, str, str]]:
    """Returns label, value and remark of the key figures."""
    words = sum(splits[split]["words"] for split in SPLITS)
    number = sum(documents.values()) if documents else None
    special = f"{len(SPECIAL_WORDS)} special ones included"
    distinct = _count(splits["train"].get("distinct_words"))
    return [
        ("Words", _count(words), "in all splits"),
        ("Input files", _count(info["input"]["files"]), f"{_count(info['input']['bytes'])} bytes"),
        ("Documents", _count(number), f"each a {visible(info['config']['document'])}"),
        ("Vocabulary", _count(info["vocab"]["size"]), special),
        ("Distinct words", distinct, "in the training split"),
    ]


def _split_rows(splits: Info) -> list[tuple[str, list[str]]]:
    """Returns the table of the splits: a label, and a figure of each split."""

    def counts(label: str, name: str) -> tuple[str, list[str]]:
        return label, [_count(splits[split].get(name)) for split in SPLITS]

    def shares(label: str, name: str) -> tuple[str, list[str]]:
        pairs = [(splits[split].get(name), splits[split]["words"]) for split in SPLITS]
        return label, [_percent(part, whole) for part, whole in pairs]

    return [
        counts("Records", "records"),
        counts("Words", "words"),
        counts("Characters", "characters"),
        counts("Bytes", "bytes"),
        counts("Distinct words", "distinct_words"),
        counts("Unknown words", "unknown_words"),
        shares("Unknown words, share", "unknown_words"),
        counts("Distinct unknown words", "distinct_unknown"),
        counts("Truncated words", "truncated_words"),
        shares("Truncated words, share", "truncated_words"),
    ]


def _word_rows(words: Sequence[Sequence[Any]] | None) -> list[tuple[str, str]]:
    return [(_clip(word), _count(count)) for word, count in (words or [])[:SHOWN_WORDS]]


def _file_rows(info: Info) -> list[tuple[str, str, str]]:
    return [
        (visible(row["file"]), visible(row["reason"]), _count(row["offset"]))
        for row in info.get("rejected_files", [])
    ]


def _leak_rows(leaks: Info) -> list[tuple[str, list[str]]]:
    rows = []
    for split in SPLITS[1:]:
        compared, near, same = leaks["compared"][split], leaks[split], leaks["same"][split]
        figures = [_count(compared), _count(near), _percent(near, compared), _count(same)]
        rows.append((SPLIT_NAMES[split], figures))
    return rows


def _pair_rows(leaks: Info) -> list[list[str]]:
    """Returns near-duplicates: the two records, and how much they resemble each other."""
    rows = []
    for split in SPLITS[1:]:
        for pair in [pair for pair in leaks["examples"] if pair["split"] == split][:SHOWN_PAIRS]:
            mine = pair.get("source", f"record {pair['record']:,}")
            theirs = pair.get("train_source", f"record {pair['train_record']:,}")
            share = f"{math.floor(1000 * pair['similarity']) / 10:.1f}\u00a0%"  # 100 is all
            rows.append([SPLIT_NAMES[split], visible(mine), visible(theirs), share])
    return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing, in units of its view box; the template makes it SVG."""

    label: str
    """What a screen reader says."""
    x_label: str
    x_ticks: Sequence[tuple[float, str]]
    """Place and text."""
    y_ticks: Sequence[tuple[float, str]]
    path: str = ""
    """A curve, as the `d` of an SVG path."""
    border: tuple[float, str, str] | None = None
    """Place, text and text anchor of an upright line."""
    bars: Sequence[tuple[str, float, float, float, float]] = ()
    """Split, x, y, width and height."""
    splits: Sequence[str] = ()
    """Splits of the legend."""
    width: int = _WIDTH
    height: int = _HEIGHT
    area: tuple[int, int, int, int] = (_LEFT, _TOP, _RIGHT, _BOTTOM)


def draw_ranks(histogram: Iterable[Sequence[int]], *, border: int | None = None) -> Plot | None:
    """Returns the rank-frequency curve (Zipf 1949), both axes logarithmic.

    Args:
      histogram: `[[c, n], ...]`: n words occur c times.
      border: how many of the first words the vocabulary has; None draws no border.

    Returns:
      The curve through the first and the last rank of each count, so exact at each rank;
      None if there is no word.
    """
    rows = sorted(((c, n) for c, n in histogram if c > 0 and n > 0), reverse=True)
    if not rows:
        return None
    last_rank, highest = sum(n for _, n in rows), rows[0][0]
    x_scale, y_scale = math.log(max(last_rank, 10)), math.log(max(highest, 10))

    def place(rank: int, count: int) -> tuple[float, float]:
        x = _LEFT + (_RIGHT - _LEFT) * math.log(rank) / x_scale
        y = _BOTTOM - (_BOTTOM - _TOP) * math.log(count) / y_scale
        return round(x, 1), round(y, 1)

    points: list[tuple[float, float]] = []
    rank = 0
    for count, number in rows:
        for shown in (rank + 1, rank + number):
            point = place(shown, count)
            if not points or math.dist(point, points[-1]) >= _NEAR or shown == last_rank:
                points.append(point)
        rank += number
    line = None
    if border is not None and 1 <= border < last_rank:
        x = place(border, 1)[0]
        text = f"vocabulary: {border:,}"
        line = (x, text, "end" if x > (_LEFT + _RIGHT) / 2 else "start")
    return Plot(
        label=f"Rank-frequency curve, logarithmic: the most frequent of {last_rank:,} distinct "
        f"training words occurs {highest:,} times.",
        x_label="rank of the word",
        x_ticks=[(place(tick, 1)[0], _short(tick)) for tick in _powers(max(last_rank, 10))],
        y_ticks=[(place(1, tick)[1], _short(tick)) for tick in _powers(max(highest, 10))],
        path="M" + "L".join(f"{x:g} {y:g}" for x, y in points),
        border=line,
    )


def draw_histogram(histograms: Mapping[str, Mapping[Any, int]], *, noun: str) -> Plot | None:
    """Returns bars of lengths: which share of a split's things has how many words.

    Args:
      histograms: split, or `all` -> a power of two p -> things of p to 2p - 1 words.
      noun: what the things are.

    Returns:
      A group of bars for each power from the least to the greatest; None if there is nothing.
    """
    by_power = {
        split: {int(power).bit_length() - 1: n for power, n in histogram.items() if n > 0}
        for split, histogram in histograms.items()
    }
    shown = [split for split in by_power if by_power[split]]
    if not shown:
        return None
    used = {power for split in shown for power in by_power[split]}
    powers = range(min(used), max(used) + 1)
    shares = {
        split: [by_power[split].get(power, 0) / sum(by_power[split].values()) for power in powers]
        for split in shown
    }
    step, top = _percent_steps(max(map(max, shares.values())))
    group = (_RIGHT - _LEFT) / len(powers)
    width = min(0.8 * group / len(shown), 28.0)
    scale = 100 * (_BOTTOM - _TOP) / top
    bars = [
        (
            split,
            round(_LEFT + group * (number + 0.5) + width * (which - len(shown) / 2), 1),
            round(_BOTTOM - scale * share, 1),
            round(width, 1),
            round(scale * share, 1),
        )
        for which, split in enumerate(shown)
        for number, share in enumerate(shares[split])
        if share
    ]
    stride = math.ceil(len(powers) / _SHOWN_TICKS)
    return Plot(
        label=f"Bar chart: share of the {noun} by how many words they have.",
        x_label=f"words; 64 stands for {noun} of 64 to 127",
        x_ticks=[
            (round(_LEFT + group * (number + 0.5), 1), _short(1 << power))
            for number, power in enumerate(powers)
            if number % stride == 0
        ],
        y_ticks=[
            (round(_BOTTOM - scale * tick / 100, 1), f"{tick}\u00a0%")
            for tick in range(0, top + 1, step)
        ],
        bars=bars,
        splits=[] if shown == ["all"] else shown,
    )


def _percent_steps(greatest: float) -> tuple[int, int]:
    """Returns the step of the ticks and the top of an axis, both in percent, for a share."""
    step = next(step for step in (1, 2, 5, 10, 20, 25) if 100 * greatest <= 4 * step)
    return step, step * math.ceil(100 * greatest / step)


def _powers(high: int) -> list[int]:
    """Returns at most seven powers of ten, from 1 to `high`."""
    powers = range(len(str(high)))
    return [10**power for power in powers if power % math.ceil(len(powers) / 7) == 0]


def _short(value: int) -> str:
    """Returns a tick's number in few letters."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.4g}{unit}" if value % size == 0 else f"{value / size:.0f}{unit}"
    return str(value)
