"""Forty days of a dated corpus: no piece of text is ever dealt to another split."""

from __future__ import annotations

import datetime
import itertools
import json
import random
from pathlib import Path

import pytest

from components.preprocess.inputs.find import find_inputs
from components.preprocess.inputs.listing import find_files
from components.preprocess.inputs.listing_file import load_listing
from components.preprocess.passes.segment import cut_block
from components.preprocess.sources.blocks import read_blocks
from components.preprocess.sources.types import InputFile
from model.config import Config, DataConfig, to_json
from model.data.records import SPLITS

DATA = DataConfig(
    tokenizer="whitespace",
    record_words=8,
    min_count=1,
    vocab_size=1000,
    valid_fraction=0.2,
    test_fraction=0.2,
    on_bad_text="skip",
)
DAYS = 40
BEGIN = datetime.date(2026, 11, 24)
"""The forty days cross two ends of a month and the end of the year."""

Pieces = dict[str, tuple[str, bytes]]
"""Source of each piece -> its split and its words."""


Known = dict[tuple[str, str, int], Pieces]
"""Path, name and size of a file -> its pieces."""


def pieces_of(
    files: list[InputFile], config: DataConfig = DATA, known: Known | None = None
) -> Pieces:
    """Returns the pieces of all text, as `prepare` cuts and splits it."""
    found: Pieces = {}
    known = {} if known is None else known
    for file in files:
        key = (file.path, file.name, file.size)
        if key not in known:
            known[key] = pieces_of_file(file, config)
        assert not found.keys() & known[key].keys()
        found |= known[key]
    return found


def pieces_of_file(file: InputFile, config: DataConfig) -> Pieces:
    found: Pieces = {}
    for block in read_blocks(file, config):
        pieces = cut_block(block, file.name, config, split=file.split)
        ends = pieces.ends.tolist()
        for place, source in enumerate(pieces.sources):
            ids = pieces.words[ends[place - 1] if place else 0 : ends[place]].tolist()
            words = b" ".join(pieces.distinct[word] for word in ids)
            assert source not in found
            found[source] = SPLITS[pieces.splits[place]], words
    return found


def write_day(folder: Path, date: datetime.date, rng: random.Random) -> None:
    """Adds the files of a day, and a line to some of the days before; no line comes twice."""
    day = folder / date.strftime("%Y/%m/%d")
    (day / "sub").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        (day / name).write_text("".join(f"{date} {name} {n} x y z u v\n" for n in range(6)))
    for back in rng.sample(range(1, DAYS), 3):
        earlier = folder / (date - datetime.timedelta(days=back)).strftime("%Y/%m/%d")
        if earlier.is_dir():
            with (earlier / "a.txt").open("a") as file:
                file.write(f"{earlier.name} grown on {date} by x y z\n")
            (earlier / f"late-{date}.txt").write_text(f"{earlier} late {date} 1 2 3 4 5 6 7\n")


@pytest.mark.parametrize("pattern", ["{date:%Y/%m/%d}", "*/{date:%m/%d}/**/*.txt"])
def test_no_piece_of_forty_days_changes_its_split(tmp_path: Path, pattern: str) -> None:
    rng, config = random.Random(0), to_json(Config(data=DATA))
    splits: dict[tuple[str, bytes], str] = {}
    of_source: dict[str, str] = {}
    known: Known = {}
    sizes: dict[int, int] = dict.fromkeys((1, 7, 30), 0)
    for number in range(DAYS):
        write_day(tmp_path, BEGIN + datetime.timedelta(days=number), rng)
        run = BEGIN + datetime.timedelta(days=number + 1)
        for days in sizes:
            find_inputs(
                json.dumps([f"{tmp_path}/{pattern}"]),
                preset=config,
                window_days=days,
                times=[f"{run}T02:00:00Z"],
                listing=str(tmp_path / "listing"),
            )
            pieces = pieces_of(load_listing(f"{tmp_path}/listing"), known=known)
            sizes[days] = len(pieces)
            for source, (split, words) in pieces.items():
                assert of_source.setdefault(source, split) == split
                assert splits.setdefault((source, words), split) == split
    by_words: dict[bytes, set[str]] = {}
    for (_, words), split in splits.items():
        by_words.setdefault(words, set()).add(split)
    assert all(len(found) == 1 for found in by_words.values())
    assert set(of_source.values()) == set(SPLITS)
    assert {source.split("/")[0] for source in of_source} == {"2026", "2027"}
    assert 0 < sizes[1] < sizes[7] < sizes[30] < len(of_source)


def test_a_changed_fraction_moves_only_the_pieces_between_the_bounds(tmp_path: Path) -> None:
    for number in range(40):
        lines = (f"{number} {line} x y z u v w\n" for line in range(10))
        (tmp_path / f"{number:02}.txt").write_text("".join(lines))

    def deal(valid: float, test: float) -> dict[str, str]:
        config = DataConfig(
            tokenizer="whitespace", record_words=8, valid_fraction=valid, test_fraction=test
        )
        found = pieces_of(find_files([str(tmp_path)]), config)
        return {source: split for source, (split, _) in found.items()}

    def moves(before: dict[str, str], after: dict[str, str]) -> set[tuple[str, str]]:
        assert before.keys() == after.keys()
        changed = {(before[source], after[source]) for source in before}
        return {(old, new) for old, new in changed if old != new}

    base = deal(0.2, 0.2)
    assert moves(base, deal(0.3, 0.2)) == {("train", "valid")}
    assert moves(base, deal(0.1, 0.2)) == {("valid", "train")}
    # The bound of valid moves with that of test: text may come to test from valid alone.
    assert moves(base, deal(0.2, 0.3)) == {("valid", "test"), ("train", "valid")}
    assert moves(base, deal(0.2, 0.1)) == {("test", "valid"), ("valid", "train")}
    assert moves(base, deal(0.1, 0.3)) == {("valid", "test")}  # the sum is as it was
    # Only a step that is larger than the other fraction passes over it.
    assert ("test", "train") in moves(base, deal(0.02, 0.02))
    for old, new in itertools.pairwise([(0.2, 0.2), (0.2, 0.35), (0.2, 0.16), (0.1, 0.2)]):
        assert not moves(deal(*old), deal(*new)) & {("test", "train"), ("train", "test")}
