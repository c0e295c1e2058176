import collections
import random
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
