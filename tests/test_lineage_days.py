"""Days of a dated corpus: no text that any model of the lineage trained on is tested on.

Each day goes through find_inputs, prepare and the set of a training that was warm-started from
the day before. An oracle that knows plain words, and neither hashes nor units, checks the rest.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path

import numpy as np
import pytest

from components.preprocess.inputs.find import find_inputs
from components.preprocess.main import run
from model.checkpointing.seen_records import (
    CHALLENGER,
    find_left_out,
    read_training,
    save_training,
    save_version,
)
from model.config import DataConfig, from_dict
from model.data.records import Dataset

FIRST = datetime.date(2025, 12, 1)
DAYS = 40
RUN = 31
"""Words in a row of which no two texts have the same by chance, and a unit is in them."""


class Corpus:
    """Files by date, `<year>/<month>/<day>/<name>.txt`, whose lines are all different."""

    def __init__(self, root: Path, *, size: int):
        self.root = root
        self._size = size  # lines of a new file
        self._random = np.random.default_rng(17)
        self._words = [f"w{number}" for number in range(400)]

    def lines(self, count: int) -> str:
        """Returns new lines, one in twenty of them of some hundred words."""
        sizes = np.where(
            self._random.random(count) < 0.05,
            self._random.integers(60, 200, count),
            self._random.integers(7, 15, count),
        )
        drawn = (self._random.choice(self._words, size) for size in sizes.tolist())
        return "".join(" ".join(words) + "\n" for words in drawn)

    def path(self, day: int, name: str) -> Path:
        """Returns where a file of a day is."""
        date = FIRST + datetime.timedelta(days=day)
        return self.root / date.strftime("%Y/%m/%d") / f"{name}.txt"

    def write(self, day: int) -> None:
        """Writes the files of a day, and changes those of days before."""
        self.path(day, "a").parent.mkdir(parents=True)
        for name in ("a", "b"):
            self.path(day, name).write_text(self.lines(self._size))
        if day >= 2:
            grown = self.path(day - 1, "a")
            grown.write_text(grown.read_text() + self.lines(7))
        if day >= 3 and day % 2:
            grown = self.path(day - 2, "b")
            grown.write_text(self.lines(3) + grown.read_text())
        if day >= 5 and day % 3 == 0:
            self.path(day - 4, f"late-{day}").write_text(self.lines(20))


class Oracle:
    """Knows all lines that were trained on, and all runs of `RUN` words."""

    def __init__(self) -> None:
        self._texts: set[tuple[bytes, ...]] = set()

    def _parts(self, words: list[bytes]) -> set[tuple[bytes, ...]]:
        parts, line = set(), list[bytes]()
        for word in [*words, b"\n"]:
            if word != b"\n":
                line.append(word)
                continue
            if len(line) >= RUN:
                parts |= {tuple(line[at : at + RUN]) for at in range(len(line) - RUN + 1)}
            elif len(line) >= 7:  # what is shorter is the rest of a long line
                parts.add(tuple(line))
            line = []
        return parts

    def train(self, words: list[bytes]) -> None:
        """Adds the words of a record."""
        self._texts |= self._parts(words)

    def knows(self, words: list[bytes]) -> bool:
        """Returns whether any line or run of a record was trained on."""
        return bool(self._texts & self._parts(words))


def _words(dataset: Dataset, split: str) -> list[list[bytes]]:
    count = len(dataset.lengths(split))
    return [dataset.read(split, index).spelled_words()[1:] for index in range(count)]


def _prepare(corpus: Corpus, day: int, window: int, folder: Path) -> str:
    """Makes the records of the window that ends with a day."""
    test = {0: 0.1, 1: 0.2, 2: 0.05}[day // 15]
    config = DataConfig(
        record_words=64, document="file", min_count=1, valid_fraction=0.1, test_fraction=test
    )
    end = datetime.datetime.combine(FIRST + datetime.timedelta(days=day + 1), datetime.time(2))
    found = find_inputs(
        f"{corpus.root}/{{date:%Y/%m/%d}}/*",
        preset="tiny",
        window_days=window,
        times=[end.isoformat()],
        listing=str(folder / "listing"),
    )
    records = str(folder / f"records-{day}")
    given = json.loads(found.data)["data"]
    data = dataclasses.replace(from_dict(DataConfig, given, source="found"), **_fields(config))
    run(listing=str(folder / "listing"), records=records, config=data, beam_workers=1)
    return records


def _fields(config: DataConfig) -> dict[str, object]:
    names = ("record_words", "document", "min_count", "valid_fraction", "test_fraction")
    return {name: getattr(config, name) for name in names}


def _check_days(folder: Path, *, window: int, days: int) -> None:
    # A single day must be enough for a record in each split.
    corpus, oracle = Corpus(folder / "text", size=30 if window > 1 else 300), Oracle()
    base, caught, kept_words = "", 0, list[float]()
    for day in range(days):
        corpus.write(day)
        records = _prepare(corpus, day, window, folder)
        workdir, version = folder / f"work-{day}", folder / f"version-{day}"
        workdir.mkdir()
        version.mkdir()
        with Dataset.open(records) as dataset:
            assert not save_training(str(workdir), dataset, base=base, is_new=True)
            save_version(str(version), str(workdir), {}, dataset)
            seen = read_training(str(workdir), {}, dataset)
            for words in _words(dataset, "train"):
                oracle.train(words)
            left_out = find_left_out(dataset, "test", {CHALLENGER: seen})
            known = np.asarray([oracle.knows(words) for words in _words(dataset, "test")])
            lengths = dataset.lengths("test")
        assert not (known & ~left_out.mask).any(), (day, window)
        assert left_out.sampled_share == 1.0
        caught += int(known.sum())
        kept_words.append(float(lengths[~left_out.mask].sum() / lengths.sum()))
        base = str(version)
    if window > 1:
        assert caught > 0, "the oracle has nothing to find"
    assert min(kept_words) > 0.2
    assert np.mean(kept_words) > 0.6


@pytest.mark.slow
def test_what_a_lineage_trained_on_is_never_tested(tmp_path: Path) -> None:
    _check_days(tmp_path, window=7, days=17)


@pytest.mark.extra
@pytest.mark.parametrize("window", [1, 7, 30])
def test_forty_days(window: int, tmp_path: Path) -> None:
    _check_days(tmp_path, window=window, days=DAYS)
