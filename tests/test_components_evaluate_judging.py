"""Which slices of a comparison can reject, and from how many words and sources."""

from __future__ import annotations

import numpy as np

from components.evaluate.judging import JUDGED, MIN_SLICE_WORDS, lost_slices, merge_slices
from model.config import GateConfig
from model.evaluation.slices import SLICES


def test_words_that_one_model_knows_are_one_slice() -> None:
    sums = np.arange(2 * len(SLICES), dtype=float).reshape(len(SLICES), 2)
    assert SLICES[1:3] == ("challenger only", "champion only")
    assert dict(zip(JUDGED, merge_slices(sums).tolist(), strict=True)) == {
        "known to neither": [0.0, 1.0],
        "known to one": [2.0 + 4.0, 3.0 + 5.0],
        "1-5": [6.0, 7.0],
        "6-100": [8.0, 9.0],
        ">100": [10.0, 11.0],
    }


def test_a_slice_rejects_only_if_enough_sources_have_it() -> None:
    """All slices lose alike; of the text of many sources, one slice has words in four alone."""
    words = np.full((len(JUDGED), 40), float(MIN_SLICE_WORDS))
    at = JUDGED.index("1-5")
    words[at, 4:] = 0.0
    interval, lost = lost_slices(-0.5 * words, words, GateConfig())
    assert lost.tolist() == [name != "1-5" for name in JUDGED]
    assert [bool(np.isnan(one[at])) for one in interval] == [True] * 3
    words[at, 4] = MIN_SLICE_WORDS
    assert lost_slices(-0.5 * words, words, GateConfig())[1].all()
