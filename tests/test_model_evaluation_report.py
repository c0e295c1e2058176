from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from model.baselines.byte_ngram import SpellingModel, UnknownSpellings
from model.data.records import Record, encode_record, parse_record
from model.evaluation.report import (
    SLICES,
    SplitWords,
    read_split,
    slice_of_word,
    sums,
    with_spellings,
    with_unigrams,
)
from model.text.vocab import BOS_ID, EOS_ID, UNK_ID, Vocabulary

VOCAB = Vocabulary(words=("</s>", "<unk>", "<s>", "the", "é"), counts=(200, 9, 0, 50, 2))
STREAMS = [
    [b"", b"the", b"zebra", b"\n"],
    [b"zebra", b"</s>", "é".encode(), b"zebra", b"the", "ß".encode()],
]


class Records:
    """What is read of a `Dataset`."""

    vocab = VOCAB

    def __init__(self, characters: Any = None) -> None:
        self.characters = characters

    def lengths(self, split: str) -> Any:
        assert split == "test"
        return np.asarray([len(words) - 1 for words in STREAMS], np.int64)

    def text_characters(self, split: str) -> Any:
        assert split == "test"
        return self.characters

    def read(self, split: str, index: int) -> Record:
        return parse_record(encode_record(STREAMS[index], VOCAB, source=f"f:{index}"))


@pytest.fixture
def words() -> SplitWords:
    return read_split(Records(), "test")  # type: ignore[arg-type]


SPELLINGS = SpellingModel([b"the", b"zebu", b"\xc3\xa9"])
SCORES = np.asarray([-1.0, -2.0, -0.5, -8.0, -3.0, -2.5, -1.5, -4.0], np.float32)


@pytest.mark.parametrize("characters", [None, np.asarray([70, 900])])
def test_a_record_that_is_left_out_has_no_words_and_no_characters(characters: Any) -> None:
    records: Any = Records(characters)
    whole = read_split(records, "test")
    words = read_split(records, "test", left_out=np.asarray([False, True]))
    assert words.lengths.tolist() == [3, 0]
    assert len(words.numbers) == 3
    assert words.characters.tolist() == [whole.characters[0], 0]


def test_what_a_split_has(words: SplitWords) -> None:
    assert words.lengths.tolist() == [3, 5]
    assert words.sources == ("f:0", "f:1")
    found = [words.spellings[number] for number in words.numbers]
    assert found == [*STREAMS[0][1:], *STREAMS[1][1:]]
    assert words.numbers.tolist() == [3, 5, 0, 6, 4, 5, 3, 7]  # zebra is one word, `</s>` another
    assert [SLICES[at] for at in words.slices] == [
        ">100", "unknown", "1-5", "6-100", "1-5", "unknown", "unknown", "unknown"
    ]  # fmt: skip
    # "the zebra", the line end; "</s> é zebra the ß", in characters; a space after each word.
    assert words.characters.tolist() == [4 + 6 + 1, 5 + 2 + 6 + 4 + 2]
    assert words.characters_estimated


def test_characters_of_the_text_are_those_of_the_records() -> None:
    words = read_split(Records(np.asarray([12, 9])), "test")  # type: ignore[arg-type]
    assert words.characters.tolist() == [12, 9]
    assert not words.characters_estimated
    scored = with_spellings(SCORES, words, UnknownSpellings(SPELLINGS, VOCAB))
    report = sums(words, scored)
    assert (report["text_characters"], report["characters_estimated"]) == (21, False)
    bits = -(report["log_likelihood"] + report["spelling_log_likelihood"]) / math.log(2)
    assert report["bits_per_character"] == pytest.approx(bits / 21, rel=1e-12)


def test_ids_of_another_vocabulary(words: SplitWords) -> None:
    assert words.ids(VOCAB).tolist() == [0, UNK_ID, BOS_ID, 3, 4, UNK_ID, UNK_ID, UNK_ID]
    other = Vocabulary(
        words=("</s>", "<unk>", "<s>", "ß", "zebra", "the"), counts=(1, 0, 0, 9, 8, 7)
    )
    ids = words.ids(other)
    assert ids.tolist() == [EOS_ID, UNK_ID, BOS_ID, 5, UNK_ID, 4, UNK_ID, 3]
    assert ids[words.numbers].tolist() == other.encode([*STREAMS[0][1:], *STREAMS[1][1:]])


def test_unknown_words_share_what_known_ones_leave() -> None:
    unknown = UnknownSpellings(SPELLINGS, VOCAB)
    known = [b"", b"\n", b"the", "é".encode()]
    assert set(VOCAB.ids) == set(known)
    left = 1 - np.exp(SPELLINGS.log_probabilities(known)).sum()
    assert 0.2 < left < 0.9
    spelled = [b"zebra", b"<unk>"]
    expected = SPELLINGS.log_probabilities(spelled) - math.log(left)
    np.testing.assert_allclose(unknown.log_probabilities(spelled), expected, rtol=1e-12)
    with pytest.raises(AssertionError):
        unknown.log_probabilities([b"the"])


def test_all_words_have_a_probability_of_one_in_all() -> None:
    """Of words of up to two bytes: what is known and what is not, whatever is known."""
    every = [b"", *(bytes([one]) for one in range(256))]
    every += [bytes([one, two]) for one in range(256) for two in range(256)]
    model = SpellingModel([b"a", b"b", b"c"], order=2)
    among = float(np.exp(model.log_probabilities(every)).sum())
    vocab = Vocabulary(words=("</s>", "<unk>", "<s>", "a", "b"), counts=(1, 1, 0, 1, 1))
    unknown = UnknownSpellings(model, vocab)
    known = float(np.exp(model.log_probabilities(tuple(vocab.ids))).sum())
    others = [word for word in every if word not in vocab.ids]
    total = np.exp(unknown.log_probabilities(others)).sum()
    # Longer words have what is left of the spelling model, as a share of what is not known.
    assert total + (1 - among) / (1 - known) == pytest.approx(1.0, abs=1e-9)


def test_sums_by_hand(words: SplitWords) -> None:
    unknown = UnknownSpellings(SPELLINGS, VOCAB)
    scored = with_spellings(SCORES, words, unknown)
    marks, zebra, sharp = unknown.log_probabilities([b"</s>", b"zebra", "ß".encode()])
    report = with_unigrams(sums(words, scored), words, np.log([0.4, 0.1, 0.1, 0.3, 0.1]))
    assert report["log_likelihood"] == -22.5
    assert report["words"] == 8
    assert report["unknown_words"] == 4
    assert report["perplexity"] == pytest.approx(math.exp(22.5 / 8))
    paid = marks + 2 * zebra + sharp
    assert report["spelling_log_likelihood"] == pytest.approx(paid, rel=1e-12)
    assert (report["text_characters"], report["characters_estimated"]) == (30, True)
    bits = (22.5 - paid) / math.log(2) / 30
    assert report["bits_per_character"] == pytest.approx(bits, rel=1e-12)
    found = {name: (one["log_likelihood"], one["words"]) for name, one in report["slices"].items()}
    assert found == {"unknown": (-16.5, 4), "1-5": (-3.0, 1), "6-100": (-2.5, 2), ">100": (-0.5, 1)}
    slices = report["slices"]
    assert slices["unknown"]["spelling_log_likelihood"] == pytest.approx(paid, rel=1e-12)
    assert slices["6-100"]["spelling_log_likelihood"] == 0.0
    assert slices["6-100"]["perplexity"] == pytest.approx(math.exp(2.5 / 2))
    assert slices["6-100"]["unigram_log_likelihood"] == pytest.approx(2 * math.log(0.3))
    assert slices["unknown"]["unigram_perplexity"] == pytest.approx(10.0)
    expected = 2 * math.log(0.3) + 4 * math.log(0.1) + math.log(0.4) + math.log(0.1)
    assert report["unigram_log_likelihood"] == pytest.approx(expected)
    assert report["documents"] == [
        {
            "source": "f:0",
            "words": 3,
            "log_likelihood": -3.5,
            "spelling_log_likelihood": pytest.approx(zebra),
        },
        {
            "source": "f:1",
            "words": 5,
            "log_likelihood": -19.0,
            "spelling_log_likelihood": pytest.approx(marks + zebra + sharp),
        },
    ]


def test_slices_without_words_have_no_perplexity(words: SplitWords) -> None:
    only = words._replace(
        numbers=np.asarray([3, 3], np.int32), lengths=np.asarray([2]), sources=("f",)
    )
    scored = with_spellings(SCORES[:2], only, UnknownSpellings(SPELLINGS, VOCAB))
    slices = sums(only, scored)["slices"]
    assert slices["unknown"] == {
        "log_likelihood": 0.0, "spelling_log_likelihood": 0.0, "words": 0, "perplexity": None
    }  # fmt: skip
    assert slices["6-100"]["perplexity"] == pytest.approx(math.exp(1.5))


def test_scores_that_are_no_numbers_stay_so(words: SplitWords) -> None:
    broken = SCORES.copy()
    broken[1] = np.nan
    report = sums(words, with_spellings(broken, words, UnknownSpellings(SPELLINGS, VOCAB)))
    assert math.isnan(report["log_likelihood"])
    assert math.isnan(report["slices"]["unknown"]["log_likelihood"])
    assert report["slices"]["6-100"]["log_likelihood"] == -2.5


def test_slices_by_how_often_a_word_was_seen() -> None:
    counts = [9, 9, 9, 0, 1, 5, 6, 100, 101, 5000]
    vocab = SimpleNamespace(counts=counts)
    names = [SLICES[at] for at in slice_of_word(cast(Vocabulary, vocab))]
    assert names[UNK_ID] == "unknown"
    assert names[3:] == ["1-5", "1-5", "1-5", "6-100", "6-100", ">100", ">100"]
