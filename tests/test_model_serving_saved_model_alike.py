"""Served numbers with and without the table, in slices, and in any company."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from test_model_serving_saved_model import MARKED, TEXTS, make_served

from model.serving.saved_model import ServedModel

pytestmark = pytest.mark.slow


def test_the_table_changes_no_number_by_more_than_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = ("model.lstm_layers=2", "model.tied=false")
    with_table, reference = make_served(*config)
    model, vocab = reference.model, reference.vocab
    without = ServedModel(model, config=reference.config, vocab=vocab)
    monkeypatch.setattr(without._words, "gates", without._words._compute)
    rounded = ServedModel(model, config=reference.config, vocab=vocab, precision="bfloat16")
    texts = tf.constant([*MARKED, *TEXTS.values()])
    expected = with_table.score(texts)["word_log_likelihoods"].numpy()
    np.testing.assert_allclose(without.score(texts)["word_log_likelihoods"], expected, atol=1e-5)
    found = rounded.score(texts)["word_log_likelihoods"].numpy()
    assert 0 < np.abs(found - expected).max() < 0.2


def test_a_table_without_room_for_all_words(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = make_served()
    texts = tf.constant(MARKED)
    expected = whole.score(texts)["word_log_likelihoods"].numpy()
    monkeypatch.setattr("model.serving.words.MAX_TABLE_BYTES", 5 * 4 * 4 * 24)  # five words
    some, _ = make_served()
    assert some._words._table.shape == (5, 4 * 24)
    np.testing.assert_allclose(some.score(texts)["word_log_likelihoods"], expected, atol=1e-6)


@pytest.mark.parametrize("size", [3, 5, 6])
def test_a_vocabulary_in_slices(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = make_served()
    texts = tf.constant(MARKED)
    monkeypatch.setattr("model.serving.softmax.SLICE", size)
    parted, _ = make_served()
    for name in ("log_likelihood", "word_log_likelihoods"):
        np.testing.assert_allclose(parted.score(texts)[name], whole.score(texts)[name], rtol=1e-5)
    best = [one.next_word(texts, tf.constant(9)) for one in (parted, whole)]
    assert best[0]["words"].numpy().tolist() == best[1]["words"].numpy().tolist()
    np.testing.assert_allclose(best[0]["probabilities"], best[1]["probabilities"], rtol=1e-5)


def test_numbers_do_not_depend_on_the_lane_or_on_what_was_read_there() -> None:
    """Random texts in random company, more than there are lanes, over several windows."""
    served, _ = make_served("model.lstm_layers=2", "model.word_dim=40", "model.lstm_dim=48")
    random = np.random.default_rng(5)
    pool = ["the", "cat", "sat", ".", "zoë", "unbread", "Dog", "12", "\n"]
    texts = [" ".join(random.choice(pool, random.integers(0, 90))) for _ in range(60)]
    alone = [served.score(tf.constant([text])) for text in texts[:8]]
    for _ in range(3):
        order = random.permutation(len(texts))
        got = served.score(tf.constant([texts[at] for at in order]))
        for at, found in enumerate(alone):
            place = int(np.flatnonzero(order == at)[0])
            count = int(found["words"][0])
            values = got["word_log_likelihoods"][place, :count].numpy()
            assert values.tobytes() == found["word_log_likelihoods"][0].numpy().tobytes()
            assert got["log_likelihood"][place] == found["log_likelihood"][0]
