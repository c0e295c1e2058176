"""Drift by hand-computed figures, and on real folders."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.preprocess.analysis.drift import (
    SHOWN_CHARACTERS,
    SHOWN_WORDS,
    Contribution,
    Drift,
    check_other,
    compare,
    compare_vocabularies,
    measure_divergence,
)
from model.config import DataConfig
from model.data.records import Dataset
from model.errors import InputError
from model.text.vocab import SPECIAL_WORDS, Vocabulary

Prepare = Callable[..., str]


def vocabulary(words: dict[str, int], *, line_ends: int = 0, unknown: int = 0) -> Vocabulary:
    ranked = sorted(words.items(), key=lambda item: (-item[1], item[0].encode()))
    return Vocabulary(
        words=(*SPECIAL_WORDS, *(word for word, _ in ranked)),
        counts=(line_ends, unknown, 0, *(count for _, count in ranked)),
    )


@pytest.fixture(scope="module")
def prepare(tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    """Prepares a text of training words only, each of which is in the vocabulary."""
    from components.preprocess.main import run

    def prepare(text: str, **fields: object) -> str:
        folder = tmp_path_factory.mktemp("drift")
        (folder / "a.txt").write_text(text, encoding="utf-8")
        settings = {"min_count": 1, "valid_fraction": 0.0, "test_fraction": 0.0, **fields}
        records = str(folder / "records")
        run(inputs=[str(folder / "a.txt")], records=records, config=DataConfig(**settings))  # type: ignore[arg-type]
        return records

    return prepare


def test_figures_computed_by_hand() -> None:
    new = vocabulary({"a": 4, "c": 2}, line_ends=2)  # of 8: a 1/2, c 1/4, </s> 1/4
    old = vocabulary({"a": 2, "b": 1}, line_ends=1)  # of 4: a 1/2, b 1/4, </s> 1/4
    drift = compare_vocabularies(new, old)
    # c: 1/2 * 1/4 * log2(2) = 1/8, and b the same; a and </s> nothing.
    assert drift.divergence == 0.25
    assert drift.contributions == (Contribution("b", 0.125, 0, 1), Contribution("c", 0.125, 2, 0))
    assert (drift.words, drift.other_words, drift.new, drift.gone) == (8, 4, 2, 1)
    assert (drift.vocabulary, drift.new_vocabulary, drift.gone_vocabulary) == (2, 1, 1)
    assert (drift.new_word_rate, drift.gone_word_rate) == (0.25, 0.25)
    assert drift.new_vocabulary_rate == 0.5
    assert (drift.new_words, drift.gone_words) == ((("c", 2),), (("b", 1),))
    assert (drift.unknown_rate, drift.other_unknown_rate, drift.excess_unknown) == (0, 0, 0)


def test_divergence_of_shared_words_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2): 1 - H(1/4) in bits.
    divergence, parts = measure_divergence(np.array([[3, 1], [10, 30]]))
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert divergence == pytest.approx(1 - entropy, abs=1e-15)
    assert parts == pytest.approx([(1 - entropy) / 2] * 2, abs=1e-15)
    assert parts.sum() == pytest.approx(divergence, abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_divergence_is_exact_at_its_ends_and_symmetric(seed: int) -> None:
    counts = np.random.default_rng(seed).zipf(1.3, 10007) % 10**6
    none = np.zeros_like(counts)
    assert measure_divergence(np.stack([counts, counts]))[0] == 0.0
    assert measure_divergence(np.stack([counts, 7 * counts]))[0] == 0.0
    apart = np.array([[*counts, *none], [*none, *(3 * counts[::-1] + 1)]])
    assert measure_divergence(apart)[0] == 1.0
    mixed = np.stack([counts, np.roll(counts, 1)])
    divergence = measure_divergence(mixed)[0]
    assert 0 < divergence < 1
    assert measure_divergence(mixed[::-1])[0] == divergence


def test_unknown_words_beyond_the_usual_count_as_new() -> None:
    old = vocabulary({"a": 8}, unknown=2)  # one word in five
    usual = compare_vocabularies(vocabulary({"a": 16}, unknown=4), old)
    assert (usual.excess_unknown, usual.new_word_rate, usual.divergence) == (0, 0, 0)
    fewer = compare_vocabularies(vocabulary({"a": 19}, unknown=1), old)
    assert (fewer.excess_unknown, fewer.new_word_rate) == (0, 0)
    more = compare_vocabularies(vocabulary({"a": 9, "z": 1}, unknown=10), old)
    assert (more.unknown_rate, more.other_unknown_rate) == (0.5, 0.2)
    assert more.excess_unknown == 6  # 10, less a fifth of 20
    assert more.new_word_rate == (1 + 6) / 20
    # <unk> is one symbol of the divergence: p 1/2, q 1/5.
    middle = (0.5 + 0.2) / 2
    part = 0.25 * math.log2(0.5 / middle) + 0.1 * math.log2(0.2 / middle)
    parts = {part.word: part.divergence for part in more.contributions}
    assert parts["<unk>"] == pytest.approx(part, abs=1e-15)


def test_a_text_of_unknown_words_alone() -> None:
    drift = compare_vocabularies(vocabulary({}, unknown=5), vocabulary({"a": 5}))
    assert (drift.new_word_rate, drift.new_vocabulary_rate, drift.divergence) == (1, 0, 1)
    assert drift.gone_word_rate == 1


def test_words_that_never_occur_are_in_the_vocabulary_but_not_shown() -> None:
    new = vocabulary({"a": 3, "n": 0})  # as with a vocabulary from outside
    old = vocabulary({"a": 3, "g": 0})
    drift = compare_vocabularies(new, old)
    assert (drift.new_vocabulary, drift.gone_vocabulary, drift.new, drift.gone) == (1, 1, 0, 0)
    assert (drift.new_words, drift.gone_words, drift.contributions) == ((), (), ())
    assert drift.divergence == 0


def test_the_words_named_are_the_first_by_figure_then_by_spelling() -> None:
    new = vocabulary({f"n{i:02}": 5 for i in range(30)} | {"z": 6, "both": 9})
    old = vocabulary({f"g{i:02}": 1 + i for i in range(30)} | {"both": 9})
    drift = compare_vocabularies(new, old)
    assert drift.new_words == (("z", 6), *((f"n{i:02}", 5) for i in range(SHOWN_WORDS - 1)))
    assert drift.gone_words == tuple((f"g{i:02}", 1 + i) for i in range(29, 9, -1))
    assert len(drift.contributions) == SHOWN_WORDS
    amounts = [part.divergence for part in drift.contributions]
    assert amounts == sorted(amounts, reverse=True)


def test_a_folder_has_not_drifted_from_itself(tiny_records: str, prepare: Prepare) -> None:
    drift = compare(tiny_records, tiny_records)
    assert (drift.new_word_rate, drift.divergence, drift.gone_word_rate) == (0.0, 0.0, 0.0)
    assert (drift.new_vocabulary, drift.gone_vocabulary) == (0, 0)
    assert drift.words == drift.other_words > 1000
    assert drift.digest == drift.other_digest != ""
    records = prepare("a a b c\n", min_count=2)
    drift = compare(records, records)
    assert (drift.words, drift.unknown) == (5, 2)
    assert (drift.unknown_rate, drift.new_word_rate, drift.divergence) == (0.4, 0.0, 0.0)


def test_folders_are_compared_by_their_training_words(prepare: Prepare) -> None:
    drift = compare(prepare("a a a a c c\n\n"), prepare("b a a\n"))
    # With line ends: of 7 words a 4, c 2, </s> 1; of 4 words a 2, b 1, </s> 1.
    assert (drift.words, drift.other_words) == (7, 4)
    assert drift.new_word_rate == 2 / 7
    assert (drift.new_words, drift.gone_words) == ((("c", 2),), (("b", 1),))
    assert drift.digest != drift.other_digest


def test_folders_that_share_no_word_are_as_far_apart_as_can_be(prepare: Prepare) -> None:
    drift = compare(
        prepare("one two three two\n", sentence_marks=False),
        prepare("un deux trois deux un un un\n", sentence_marks=False),
    )
    assert (drift.divergence, drift.new_word_rate, drift.new_vocabulary_rate) == (1.0, 1.0, 1.0)
    assert drift.gone_word_rate == 1.0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lowercase": True}, "data.lowercase=false but OTHER has true"),
        ({"tokenizer": "whitespace"}, "data.tokenizer=words but OTHER has whitespace"),
        ({"sentence_marks": False}, "data.sentence_marks=true but OTHER has false"),
    ],
)
def test_words_made_in_other_ways_are_refused(
    fields: dict[str, object], said: str, prepare: Prepare
) -> None:
    records, other = prepare("a b\n"), prepare("a b\n", **fields)
    with pytest.raises(InputError) as caught:
        compare(records, other)
    advice = f"prepare one of them again with the same data.{next(iter(fields))}"
    found = f"has {said.replace('OTHER', other)}, so their words can't be compared; {advice}"
    assert str(caught.value) == f"{records} {found}"
    with pytest.raises(InputError) as caught:  # and before the records are made
        check_other(other, Dataset.open(records).config)
    assert str(caught.value) == f"the configuration {found}"
    check_other(other, Dataset.open(other).config)


def test_a_folder_that_is_not_whole_is_refused(prepare: Prepare, tmp_path: Path) -> None:
    records = prepare("a b\n")
    with pytest.raises(InputError, match="is not a records folder"):
        compare(records, str(tmp_path / "none"))
    broken = prepare("a b\n")
    with open(os.path.join(broken, "vocab.txt"), "a", encoding="utf-8") as file:
        file.write("more\t1\n")
    with pytest.raises(InputError, match=r"vocab\.txt was changed"):
        compare(records, broken)


@pytest.mark.parametrize("lost", ["splits", "config", "vocab", "digest", None])
def test_a_dataset_json_that_lacks_anything_is_refused(lost: str | None, prepare: Prepare) -> None:
    other = prepare("a b\n")
    path = Path(other, "dataset.json")
    info = json.loads(path.read_text())
    versions = {key: value for key, value in info.items() if key.endswith("_version")}
    left = {key: value for key, value in info.items() if key != lost} if lost else versions
    path.write_text(json.dumps(left))
    with pytest.raises(InputError) as caught:
        check_other(other, DataConfig())
    assert str(caught.value) == f"{path} is not as charloom prepare writes it; prepare it again"


@pytest.mark.parametrize("counts", [(0, 0, 0), (3, -2, 0)])
def test_counts_that_are_none_are_refused(counts: tuple[int, ...], prepare: Prepare) -> None:
    other = prepare("a b\n")
    vocab = Vocabulary(words=SPECIAL_WORDS, counts=counts)
    vocab.save(os.path.join(other, "vocab.txt"))
    path = Path(other, "dataset.json")
    info = json.loads(path.read_text())
    info["vocab"]["sha256"] = vocab.digest
    path.write_text(json.dumps(info))
    with pytest.raises(InputError) as caught:
        compare(prepare("a b\n"), other)
    assert str(caught.value) == (
        f"{other}/vocab.txt counts no training words, so there is nothing to compare; prepare it "
        "again from more text"
    )


def test_what_people_read() -> None:
    hostile = "\x1b[31m\u202e" + "x" * 1000
    new = vocabulary({"a": 8, hostile: 2}, line_ends=1, unknown=9)
    drift = compare_vocabularies(new, vocabulary({"a": 7, "b": 1}, line_ends=1, unknown=1))
    lines = drift.describe()
    assert lines[0] == (
        "new words: 45.00% of 20 training words (2 known ones, 7 unknown beyond the usual); "
        "unknown: 45.00%, in the other 10.00%"
    )
    assert lines[1] == (
        "vocabulary: 1 of 2 words are new (50.00%); 1 of the other's 2 are gone, "
        "10.00% of its training words"
    )
    assert lines[2] == (
        f"Jensen-Shannon divergence of the unigrams: {drift.divergence:.5f} bits "
        "(0 the same, 1 nothing shared)"
    )
    assert lines[4] == (
        r"most frequent new words: \x1b[31m\u202e" + "x" * (SHOWN_CHARACTERS - 6) + r"… 2"
    )
    assert lines[5] == "most frequent words that are gone: b 1"
    assert all(line.isprintable() for line in lines)
    same = compare_vocabularies(new, new)
    assert same.describe()[3:] == [
        "most divergent: none",
        "most frequent new words: none",
        "most frequent words that are gone: none",
    ]


def test_what_programs_read() -> None:
    drift = compare_vocabularies(
        vocabulary({"a": 4, "c": 2}, line_ends=2), vocabulary({"a": 2, "b": 1}, line_ends=1)
    )
    values = drift.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["new_words"] == [["c", 2]]
    assert values["contributions"][0] == {
        "word": "b",
        "divergence": 0.125,
        "count": 0,
        "other_count": 1,
    }
    rates = ("new_word_rate", "gone_word_rate", "new_vocabulary_rate", "divergence")
    assert [values[name] for name in rates] == [0.25, 0.25, 0.5, 0.25]
    assert {field.name for field in dataclasses.fields(Drift)} < set(values)
