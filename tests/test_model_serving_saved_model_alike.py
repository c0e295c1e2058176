"""Served numbers with and without the table, in slices, and in any company."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
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


@pytest.fixture(scope="module")
def expected() -> dict[str, npt.NDArray[Any]]:
    """Answers of a model whose tables are whole."""
    return answers(make_served()[0])


def answers(served: ServedModel) -> dict[str, npt.NDArray[Any]]:
    texts = tf.constant(MARKED)
    found = served.score(texts) | served.next_word(texts, tf.constant(9))
    return {name: value.numpy() for name, value in found.items()}


def test_a_table_without_room_for_all_words(
    expected: dict[str, npt.NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.serving.words.MAX_TABLE_BYTES", 5 * 4 * 4 * 24)  # five words
    some, _ = make_served()
    assert some._words._table.shape == (5, 4 * 24)
    found = some.score(tf.constant(MARKED))["word_log_likelihoods"]
    np.testing.assert_allclose(found, expected["word_log_likelihoods"], atol=1e-6)


@pytest.mark.parametrize("size", [3, 5, 6])
def test_a_vocabulary_in_slices(
    size: int, expected: dict[str, npt.NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.serving.softmax.SLICE", size)
    found = answers(make_served()[0])
    for name in ("log_likelihood", "word_log_likelihoods", "probabilities"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    assert [row.tolist() for row in found["words"]] == [row.tolist() for row in expected["words"]]


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
