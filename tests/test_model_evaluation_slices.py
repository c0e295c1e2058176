from __future__ import annotations

import numpy as np
import pytest

from model.evaluation.report import Scored, SplitWords
from model.evaluation.slices import SLICES, differences_of, slice_of_words, slice_sums
from model.evaluation.sources import MOST_GROUPS, group_numbers, number_sources, source_name
from model.text.vocab import Vocabulary

OURS = Vocabulary(words=("</s>", "<unk>", "<s>", "a", "b", "c"), counts=(9, 0, 0, 500, 6, 8))
THEIRS = Vocabulary(words=("</s>", "<unk>", "<s>", "d", "b", "a"), counts=(7, 0, 0, 3, 400, 101))
WORDS = SplitWords(
    numbers=np.asarray([3, 4, 5, 6, 7, 0, 3], np.int32),
    lengths=np.asarray([2, 0, 3, 2]),
    sources=("x/1.txt:0", "x/3.txt:0", "x/2.txt:0", "x/1.txt:90"),
    spellings=(b"\n", b"<unk>", b"", b"a", b"b", b"c", b"d", b"e"),
    slices=np.zeros(8, np.int64),
    characters=np.asarray([6, 0, 9, 5]),
    characters_estimated=False,
)


def test_slices_by_hand() -> None:
    found = [SLICES[at] for at in slice_of_words(WORDS, OURS, THEIRS)]
    # the line end, <unk> and <s>, which no text has, a, b, c, d, e
    assert found[0] == "6-100"  # 9 times and 7 times
    assert found[3:] == [">100", "6-100", "challenger only", "champion only", "known to neither"]


def test_sums_by_source_of_records_with_words() -> None:
    gaps = np.asarray([0.5, 0.25, -1.0, 2.0, 4.0, -0.125, 8.0])
    found = slice_sums(WORDS, gaps, slice_of_words(WORDS, OURS, THEIRS))
    assert found == {
        "known to neither": {"words": [0, 1], "difference": [0.0, 4.0]},
        "challenger only": {"words": [0, 1], "difference": [0.0, -1.0]},
        "champion only": {"words": [0, 1], "difference": [0.0, 2.0]},
        "1-5": {"words": [0, 0], "difference": [0.0, 0.0]},
        "6-100": {"words": [2, 0], "difference": [0.125, 0.0]},
        ">100": {"words": [2, 0], "difference": [8.5, 0.0]},
    }


@pytest.mark.parametrize("spelled", [True, False])
def test_swapped_models_give_the_same_slices_with_the_opposite_sign(spelled: bool) -> None:
    random = np.random.default_rng(0)
    scored = [
        Scored(
            random.standard_normal(7).astype(np.float32),
            np.zeros(8, np.bool_),
            random.standard_normal(8),
        )
        for _ in range(2)
    ]
    one = slice_sums(
        WORDS,
        differences_of(*scored, WORDS, spelled=spelled),
        slice_of_words(WORDS, OURS, THEIRS),
    )
    other = slice_sums(
        WORDS,
        differences_of(*scored[::-1], WORDS, spelled=spelled),
        slice_of_words(WORDS, THEIRS, OURS),
    )
    swapped = {"challenger only": "champion only", "champion only": "challenger only"}
    for name in SLICES:
        two = other[swapped.get(name, name)]
        assert one[name]["words"] == two["words"]
        assert one[name]["difference"] == [-value for value in two["difference"]]


def test_sources() -> None:
    assert source_name("s3://bucket/a.txt:17") == "s3://bucket/a.txt"
    assert source_name("alone") == "alone"
    names, numbers = number_sources(("b:0", "a:0", "b:9", "c:1"))
    assert names == ("b", "a", "c")
    assert numbers.tolist() == [0, 1, 0, 2]


def test_many_sources_share_groups() -> None:
    assert group_numbers(3).tolist() == [0, 1, 2]
    assert group_numbers(0).tolist() == []
    groups = group_numbers(2_500)
    assert (groups[0], groups[-1], len(set(groups.tolist()))) == (0, MOST_GROUPS - 1, MOST_GROUPS)
    assert (np.diff(groups) >= 0).all()
