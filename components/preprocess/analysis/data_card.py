"""The data card: one HTML page that shows what is in a records folder.

Self-contained and without scripts, like the evaluation report: all text is escaped, and the page's
content policy forbids scripts and requests. It depends only on its two arguments: the same data
give the same page, byte for byte.

`info` is the content of dataset.json (docs/data-contract.md). `statistics`, plain JSON values,
contains the stage's other counts; none include line-end marks. A missing key is shown as
"not available", and its chart, list or section is left out:

  max_word_bytes      bytes of a word that the model sees: `model.max_word_bytes` minus two
                      for the begin and end marks
  splits.<split>      each of these may also be among those of `info`
    distinct_words    distinct words
    distinct_unknown  how many of those are not in the vocabulary
    truncated_words   words of the split that have more than `max_word_bytes` bytes
  document_length_histogram
                      a power of two p -> documents of p to 2p - 1 words, over all splits
  count_histogram     `[[c, n], ...]`: n distinct training words occur c times
  frequent_words      `[[word, count], ...]`, the most frequent words of the training split
  frequent_unknown    likewise, those that are not in the vocabulary
  near_duplicates     result of `near_duplicates.count_leaks`
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from components.charts import draw_lengths, draw_ranks
from components.evaluate.report_fields import look_up
from components.html import NOT_AVAILABLE, load_template, visible
from model.data.records import SPLITS
from model.files import write_whole
from model.text.vocab import SPECIAL_WORDS

SPLIT_NAMES = {"train": "Training", "valid": "Validation", "test": "Test"}
SHOWN_WORDS = 50
SHOWN_PAIRS = 10
"""Near-duplicates listed per split."""
SHOWN_CHARACTERS = 32
"""Longer words are truncated."""

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
    lengths = {name: splits[split]["length_histogram"] for split, name in SPLIT_NAMES.items()}
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
        documents=draw_lengths({"all": documents}, name="documents", noun="documents"),
        lengths=draw_lengths(lengths, name="lengths", noun="records"),
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
    """Formats a share for people; a nonzero one never looks like 0."""
    if part is None or not whole:
        return NOT_AVAILABLE
    share = 100 * part / whole
    text = f"{share:.2f}" if share >= 0.005 or not part else "under 0.01"
    return f"{text}\u00a0%"


def _clip(word: object) -> str:
    text = str(word)
    return visible(text[:SHOWN_CHARACTERS] + ("…" if len(text) > SHOWN_CHARACTERS else ""))


def _leaked(leaks: Info | None) -> int:
    return sum(leaks[split] for split in SPLITS[1:]) if leaks else 0


def _needs_attention(info: Info, leaks: Info | None) -> bool:
    if leaks is None or _leaked(leaks):  # unchecked counts as bad
        return True
    return any(info["rejected"].values()) or bool(look_up(info, "input.stray_bytes"))


def _findings(info: Info, leaks: Info | None) -> list[str]:
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
            f"test records {verb} a near-duplicate in the training split{_left_out(leaks)}."
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


def _left_out(leaks: Info) -> str:
    """Says how many validation and test records were not compared, if any."""
    whole = leaks.get("out_of", leaks["compared"])
    number = sum(whole[split] - leaks["compared"][split] for split in SPLITS[1:])
    return f"; the other {_count(number)} were not compared" if number else ""


def _facts(info: Info, splits: Info, documents: Mapping[Any, int]) -> list[tuple[str, str, str]]:
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
        whole = leaks.get("out_of", leaks["compared"])[split]
        of = "" if whole == compared else f" of {_count(whole)}"
        figures = [_count(compared) + of, _count(near), _percent(near, compared), _count(same)]
        rows.append((SPLIT_NAMES[split], figures))
    return rows


def _pair_rows(leaks: Info) -> list[list[str]]:
    rows = []
    for split in SPLITS[1:]:
        for pair in [pair for pair in leaks["examples"] if pair["split"] == split][:SHOWN_PAIRS]:
            mine = pair.get("source", f"record {pair['record']:,}")
            theirs = pair.get("train_source", f"record {pair['train_record']:,}")
            share = f"{math.floor(1000 * pair['similarity']) / 10:.1f}\u00a0%"  # 100 is all
            rows.append([SPLIT_NAMES[split], visible(mine), visible(theirs), share])
    return rows
