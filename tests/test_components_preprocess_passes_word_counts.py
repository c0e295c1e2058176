import collections
import random
import tracemalloc
from pathlib import Path

import pytest

from components.preprocess.passes import word_counts
from components.preprocess.passes.word_counts import WordCounter, build_vocabulary, describe_split
from model.data.records import SPLITS
from model.text.vocab import LINE_END, Vocabulary


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_spilled_counts_are_those_of_a_dictionary(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_counts, "MAX_WORDS", limit)
    chance = random.Random(limit)
    words = [f"w{number}é".encode() for number in range(80)] + [LINE_END, b"</s>", b"<unk>"]
    totals = {split: collections.Counter[bytes]() for split in SPLITS}
    counters = [WordCounter(str(tmp_path), str(number)) for number in range(3)]
    for _ in range(300):
        split = chance.choice(SPLITS)
        some = chance.sample(words, 4)
        numbers = [chance.randrange(1, 9) for _ in some]
        chance.choice(counters).add(split, some, numbers)
        totals[split].update(dict(zip(some, numbers, strict=True)))
    for counter in counters:
        counter.flush()
    paths = [str(tmp_path / name) for counter in counters for name in counter.files]
    assert sorted(paths) == sorted(map(str, tmp_path.iterdir()))
    for size, least in ((8, 1), (30, 2), (1000, 1), (1000, 40)):
        expected = Vocabulary.build(totals["train"], max_size=size, min_count=least)
        vocab = build_vocabulary(paths, max_size=size, min_count=least)
        assert vocab == expected
        for split in SPLITS:
            total = {word: n for word, n in totals[split].items() if word != LINE_END}
            unknown = {word: n for word, n in total.items() if word not in vocab.ids}
            found = describe_split(paths, split, vocab)
            assert (found.distinct, found.distinct_unknown) == (len(total), len(unknown))
            ranked = sorted(total.items(), key=lambda one: (-one[1], one[0]))
            assert found.frequent == ranked[: word_counts.LISTED_WORDS]
            ranked = sorted(unknown.items(), key=lambda one: (-one[1], one[0]))
            assert found.frequent_unknown == ranked[: word_counts.LISTED_WORDS]
            assert found.histogram == collections.Counter(total.values())
    given = ["w3é", "never", "w70é"]
    vocab = build_vocabulary(paths, max_size=8, min_count=1, words=given)
    assert vocab == Vocabulary.choose(totals["train"], given)


def test_nothing_counted_leaves_no_file(tmp_path: Path) -> None:
    counter = WordCounter(str(tmp_path))
    counter.flush()
    assert counter.files == list(tmp_path.iterdir()) == []
    assert len(build_vocabulary([], max_size=8, min_count=1)) == 3


def peak_bytes(paths: list[str]) -> int:
    """Returns the most memory that the vocabulary of some counts took at a time."""
    tracemalloc.start()
    try:
        build_vocabulary(paths, max_size=100, min_count=1)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_depends_on_the_distinct_words_only(tmp_path: Path) -> None:
    words = [f"word{number}".encode() for number in range(2000)]
    names: list[str] = []
    for unit in range(200):
        counter = WordCounter(str(tmp_path), f"{unit:03}")
        counter.add("train", words, [1000] * len(words))
        counter.flush()
        names += counter.files
    paths = [str(tmp_path / name) for name in names]
    build_vocabulary(paths[:1], max_size=100, min_count=1)  # imports
    assert peak_bytes(paths) < 1.2 * peak_bytes(paths[:2])


def test_a_counter_is_bounded_by_the_bytes_of_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_counts, "MAX_BYTES", 100)
    counter = WordCounter(str(tmp_path), "x")
    counter.add("train", [b"a" * 50], [1])
    counter.add("train", [b"a" * 50], [2])  # counted already: takes no more room
    counter.add("valid", [b"a" * 50], [4])
    assert (len(counter), counter.files) == (2, [])
    counter.add("test", [b"b"], [5])
    assert len(counter) == 0
    assert counter.files == [f"x-000{n}.{split}.counts" for n, split in enumerate(SPLITS)]
    counter.add("train", [b"b" * 100], [1])  # counted anew
    assert (len(counter), len(counter.files)) == (1, 3)


@pytest.mark.parametrize("limit", [3, 1000])
def test_a_trial_counts_or_leaves_nothing(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_counts, "MAX_WORDS", limit)
    counter = WordCounter(str(tmp_path), "x")
    counter.add("train", [b"a", b"b"], [1, 2])
    bad = counter.try_out()
    for number in range(20):
        bad.add("train", [b"a", f"bad{number}".encode()], [1, 1])
        assert len(bad) <= limit
    assert len(list(tmp_path.iterdir())) == len(bad.files)
    bad.discard()
    assert (len(bad), bad.files, list(tmp_path.iterdir())) == (0, [], [])
    good, empty = counter.try_out(), counter.try_out()
    for number in range(20):
        good.add("train", [b"a", f"good{number % 10}".encode()], [1, 1])
    counter.merge(good)
    counter.merge(empty)
    counter.flush()
    paths = [str(tmp_path / name) for name in counter.files]
    assert sorted(paths) == sorted(map(str, tmp_path.iterdir()))
    vocab = build_vocabulary(paths, max_size=1000, min_count=1)
    found = dict(zip(vocab.words[3:], vocab.counts[3:], strict=True))
    assert found == {"a": 21, "b": 2, **{f"good{number}": 2 for number in range(10)}}
