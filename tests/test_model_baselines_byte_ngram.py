from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from model.baselines import byte_ngram
from model.baselines.byte_ngram import LENGTHS_KEY, ORDER, WORDS_KEY, SpellingModel, learn_spellings
from model.config import with_overrides
from model.data.records import Dataset
from model.presets import tiny
from model.text.vocab import SPECIAL_WORDS

BEGIN, END = "<", ">"
WORDS = [b"walk", b"walks", b"walked", b"talk", "größe".encode(), b"a", b"\x00\xff", b"a" * 10]
Text = list[int | str]


def conditional(words: Sequence[bytes], context: Text, symbol: int | str) -> Fraction:
    """The probability of a symbol, by the formula and without any table."""
    below = conditional(words, context[1:], symbol) if context else Fraction(1, 257)
    seen: collections.Counter[int | str] = collections.Counter()
    for word in set(words):
        text: Text = [BEGIN, *word, END]
        for at in range(max(1, len(context)), len(text)):
            if text[at - len(context) : at] == context:
                seen[text[at]] += 1
    if not seen:
        return below
    return (seen[symbol] + len(seen) * below) / (seen.total() + len(seen))


def by_hand(words: Sequence[bytes], spelled: bytes, order: int) -> Fraction:
    text: Text = [BEGIN, *spelled, END]
    result = Fraction(1)
    for at in range(1, len(text)):
        result *= conditional(words, text[max(0, at - order + 1) : at], text[at])
    return result


def probability(model: SpellingModel, word: bytes) -> float:
    return math.exp(model.log_probabilities([word])[0])


def test_exact_values_of_two_words() -> None:
    # Of the five symbols of "a>" and "ab>" two are a, one is b, two are the end.
    model = SpellingModel([b"a", b"ab"], order=1)
    a, b, end = ((count + 3 / 257) / 8 for count in (2, 1, 2))
    assert probability(model, b"") == pytest.approx(end, rel=1e-12)
    assert probability(model, b"a") == pytest.approx(a * end, rel=1e-12)
    assert probability(model, b"abba") == pytest.approx(a * b * b * a * end, rel=1e-12)
    assert probability(model, b"z") == pytest.approx(3 / 257 / 8 * end, rel=1e-12)
    # The begin is followed by a alone, twice; a by b and by the end, once each.
    model = SpellingModel([b"a", b"ab"], order=2)
    first, last = (2 + a) / 3, (1 + 2 * end) / 4
    assert probability(model, b"a") == pytest.approx(first * last, rel=1e-12)
    assert probability(model, b"") == pytest.approx(end / 3, rel=1e-12)


@pytest.mark.parametrize("order", range(1, 8))
def test_scores_are_those_of_the_formula(order: int) -> None:
    model = SpellingModel(WORDS, order=order)
    spelled = [*WORDS, b"", b"talked", b"wa", b"qqq", b"\xff\x00\xff", b"a" * 16, b"<>"]
    expected = [math.log(by_hand(WORDS, one, order)) for one in spelled]
    np.testing.assert_allclose(model.log_probabilities(spelled), expected, rtol=1e-12)


@pytest.mark.parametrize("context", [b"", b"a", b"wa", b"walke", b"zz", b"aaaaa"])
def test_the_formula_adds_up_to_one(context: bytes) -> None:
    for text in ([BEGIN, *context][-(ORDER - 1) :], list(context)):
        shares = [conditional(WORDS, text, symbol) for symbol in (*range(256), END)]
        assert sum(shares) == 1
        assert min(shares) > 0  # the end, too: so no share is left to endless strings


def test_short_strings_have_most_of_the_probability() -> None:
    """Of one symbol and the end, each half: strings of up to n bytes leave (about) 1/2^(n+1)."""
    model = SpellingModel([b"a"], order=1)
    every = [b"", *(bytes([one]) for one in range(256))]
    every += [bytes([one, two]) for one in range(256) for two in range(256)]
    end = (1 + 2 / 257) / 4
    assert len(every) == 1 + 256 + 256**2
    total = np.exp(model.log_probabilities(every)).sum()
    assert total == pytest.approx(1 - (1 - end) ** 3, rel=1e-9)


def test_better_than_guessing_bytes() -> None:
    words = [
        stem + end for stem in (b"walk", b"talk", b"jump") for end in (b"", b"s", b"ed", b"ing")
    ]
    held_out = b"jumping"
    words.remove(held_out)
    longer, shorter = (SpellingModel(words, order=n).log_probabilities([held_out]) for n in (6, 1))
    assert longer[0] > shorter[0] > -8 * math.log(257)


def test_without_words_all_symbols_are_alike() -> None:
    model = SpellingModel([])
    assert probability(model, b"") == pytest.approx(1 / 257)
    assert probability(model, b"ab") == pytest.approx(257**-3)
    assert SpellingModel([b"b", b"a"]).log_probabilities([]).shape == (0,)


def test_many_spellings_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SpellingModel(WORDS)
    spelled = [*WORDS, b"", b"talked"]
    expected = [model.log_probabilities([one])[0] for one in spelled]
    for chunk in (1, 3, 100):
        monkeypatch.setattr(byte_ngram, "_CHUNK", chunk)
        assert model.log_probabilities(spelled).tolist() == expected


def test_arrays_and_back() -> None:
    model = SpellingModel([*WORDS, b"walk"])  # a word that comes again counts once
    arrays = model.to_arrays()
    assert {name: (str(one.dtype), one.shape) for name, one in arrays.items()} == {
        WORDS_KEY: ("uint8", (sum(map(len, WORDS)),)),
        LENGTHS_KEY: ("int32", (len(WORDS),)),
    }
    again = SpellingModel.from_arrays(arrays)
    assert again.words == model.words == tuple(sorted(WORDS))
    assert again.log_probabilities(WORDS).tolist() == model.log_probabilities(WORDS).tolist()
    assert SpellingModel.from_arrays(SpellingModel([]).to_arrays()).words == ()


def test_arrays_that_are_none() -> None:
    arrays = SpellingModel(WORDS).to_arrays()
    for name in arrays:
        with pytest.raises(ValueError, match="was written by an older charloom without spellings"):
            SpellingModel.from_arrays({name: arrays[name]})
        with pytest.raises(ValueError, match="has spellings of a wrong total length"):
            SpellingModel.from_arrays({**arrays, name: arrays[name][:-1]})


@pytest.fixture(scope="module")
def rare_records(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of the tests' corpus, with a vocabulary of frequent words only."""
    from components.preprocess.main import run

    records = str(tmp_path_factory.mktemp("rare") / "records")
    config = with_overrides(tiny(), ["data.min_count=3"])
    run(inputs=[str(corpus)], records=records, config=config.data)
    return records


def test_every_distinct_word_of_the_training_split_once(rare_records: str) -> None:
    with Dataset.open(rare_records) as dataset:
        found: set[bytes] = set()
        for index in range(len(dataset.lengths("train"))):
            found.update(dataset.read("train", index).spelled_words())
        model = learn_spellings(dataset)
        assert set(model.words) == found - {b"", b"\n"}
        assert len(model.words) > len(dataset.vocab) + 200  # known and unknown ones
        assert not {word.encode() for word in SPECIAL_WORDS} & set(model.words)


def test_of_a_long_text_a_sample_is_read(
    rare_records: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Dataset.open(rare_records) as dataset:
        whole, total = learn_spellings(dataset), int(dataset.lengths("train").sum())
        read: list[int] = []
        original = dataset.read

        def reading(split: str, index: int) -> object:
            assert split == "train"
            read.append(index)
            return original(split, index)

        monkeypatch.setattr(dataset, "read", reading)
        monkeypatch.setattr(byte_ngram, "SAMPLE_WORDS", total // 4)
        part = learn_spellings(dataset)
        records = len(dataset.lengths("train"))
        assert len(read) == -(-records * (total // 4) // total)
        assert read == [at * records // len(read) for at in range(len(read))]
        assert read[-1] > records * 0.7
        assert set(part.words) < set(whole.words)
        assert learn_spellings(dataset).words == part.words
        monkeypatch.setattr(byte_ngram, "MAX_TYPES", 40)
        few = learn_spellings(dataset).words
        assert few == tuple(part.words[at * len(part.words) // 40] for at in range(40))


def test_spellings_are_bounded_by_bytes(rare_records: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Dataset.open(rare_records) as dataset:
        whole = learn_spellings(dataset).words
        monkeypatch.setattr(byte_ngram, "MAX_TYPE_BYTES", sum(map(len, whole)))
        assert learn_spellings(dataset).words == whole
        monkeypatch.setattr(byte_ngram, "MAX_TYPE_BYTES", 100)
        few = learn_spellings(dataset).words
        by_length = sorted(whole, key=len)  # ties in alphabetical order
        assert few == tuple(sorted(by_length[: len(few)]))
        assert 100 - len(by_length[len(few)]) < sum(map(len, few)) <= 100


def test_the_longest_unknown_words_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_ngram, "HELD_BYTES", 100)
    held = byte_ngram._Spellings()
    for number in range(30):
        held.add([b"%02d" % number, b"x" * (40 - number), b"%02d" % number])
        assert held.size == sum(map(len, held.words)) <= 100
    assert {b"%02d" % number for number in range(30)} <= held.words
    held.add([b"y" * 101])
    assert b"y" * 101 not in held.words
