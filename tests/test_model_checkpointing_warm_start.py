"""Trainings that begin with the weights of a published model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.preprocess.main import run as run_prepare
from components.train.main import run as run_train
from components.train.training_job import TrainingJob
from model.baselines.unigram import unigram_log_probabilities
from model.checkpointing.checkpoints import best_checkpoint, newest_checkpoint, read_meta
from model.checkpointing.compatibility import check_same_model
from model.checkpointing.origin import read_warm_start
from model.checkpointing.trained import Published, load_model, load_published
from model.checkpointing.warm_start import _regress, move_weights
from model.config import Config, read_config, with_overrides
from model.data.records import Dataset
from model.errors import InputError
from model.network.char_vectors import char_vectors
from model.presets import tiny
from model.text.vocab import SPECIAL_WORDS, Vocabulary

STILL = ("train.learning_rate=1e-9", "train.weight_decay=0", "train.steps=1")
"""A training that leaves the weights as they are."""


def config(*settings: str) -> Config:
    return with_overrides(tiny(), ["train.warmup_steps=0", "train.valid_steps=10", *settings])


@pytest.fixture(scope="module")
def published(tiny_version: str) -> Published:
    return load_published(tiny_version)


@pytest.fixture
def other_words(published: Published) -> Vocabulary:
    """Every second word of the model's, turned round, and two that are new."""
    words = published.vocab.words
    return Vocabulary(
        words=(*SPECIAL_WORDS, "riverboats", *words[: len(SPECIAL_WORDS) - 1 : -2], "unlocked"),
        counts=tuple(range(len(words[: len(SPECIAL_WORDS) - 1 : -2]) + 5)),
    )


def test_rows_go_with_their_words(published: Published, other_words: Vocabulary) -> None:
    arrays = move_weights(published, other_words)
    ids = {word: index for index, word in enumerate(published.vocab.words)}
    known = [at for at, word in enumerate(other_words.words) if word in ids]
    theirs = [ids[other_words.words[at]] for at in known]
    assert len(known) == len(other_words) - 2
    tables = {variable.path for variable in published.model.weights if "table" in variable.path}
    for variable in published.model.weights:
        before, after = variable.numpy(), arrays[f"model/{variable.path}"]
        if before.shape[0] == len(published.vocab):
            tables.add(variable.path)
            assert after.shape == (len(other_words), *before.shape[1:])
            np.testing.assert_array_equal(after[known], before[theirs])
            assert np.isfinite(after).all()
        else:
            np.testing.assert_array_equal(after, before)
    assert len(tables) == len(published.model.tables())


def test_the_same_words_have_the_same_weights(published: Published) -> None:
    arrays = move_weights(published, published.vocab)
    for variable in published.model.weights:
        np.testing.assert_array_equal(arrays[f"model/{variable.path}"], variable.numpy())


def test_new_words_are_as_likely_as_their_count_says(
    published: Published, other_words: Vocabulary
) -> None:
    bias = move_weights(published, other_words)[f"model/{published.model.output_bias.path}"]
    shares = unigram_log_probabilities(other_words.counts)
    new = [other_words.words.index(word) for word in ("riverboats", "unlocked")]
    known = np.setdiff1d(np.arange(len(other_words)), new)
    offset = np.mean(bias[known] - shares[known])
    np.testing.assert_allclose(bias[new], shares[new] + offset, rtol=1e-6)


def test_spellings_tell_more_of_a_row_than_the_mean_does(published: Published) -> None:
    words = [word.encode() for word in published.vocab.words[len(SPECIAL_WORDS) :]]
    vectors = char_vectors(published.model, words)
    assert published.model.word_embedding is not None
    rows = published.model.word_embedding.embeddings.numpy()[len(SPECIAL_WORDS) :]
    hidden = np.arange(len(words)) % 5 == 0
    guessed = _regress(vectors[~hidden], rows[~hidden], vectors[hidden])
    assert guessed.dtype == np.float32
    error = np.square(guessed - rows[hidden]).sum()
    assert error < np.square(rows[~hidden].mean(axis=0) - rows[hidden]).sum()


def test_a_ridge_regression_finds_a_linear_map() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5000, 3)).astype(np.float32)
    true = np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]])
    found = _regress(x, (x @ true + [5.0, -7.0]).astype(np.float32), np.eye(3, dtype=np.float32))
    np.testing.assert_allclose(found, true + [5.0, -7.0], rtol=0.02, atol=0.02)


def test_a_model_without_characters_takes_the_row_of_unknown_words(
    published: Published, other_words: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published.model, "char_cnn", None)
    assert published.model.word_embedding is not None
    variable = published.model.word_embedding.embeddings
    moved = move_weights(published, other_words)[f"model/{variable.path}"]
    new = other_words.words.index("unlocked")
    np.testing.assert_array_equal(moved[new], variable.numpy()[1])


@pytest.fixture(scope="module")
def begun(tiny_records: str, tiny_version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that began with the published weights, where a killed start had left its own."""
    workdir = tmp_path_factory.mktemp("begun") / "w"
    for name in ("warm_start.tmp-12ab", "warm_start"):
        (workdir / name).mkdir(parents=True)
        (workdir / name / "arrays.npz").write_text("half")
    job = TrainingJob(records=tiny_records, workdir=str(workdir), warm_start=tiny_version)
    run_train(job, config(*STILL))
    return workdir


def test_a_training_begins_with_the_published_weights(
    tiny_records: str, tiny_training: str, tiny_version: str, begun: Path
) -> None:
    before, after = best_checkpoint(tiny_training), best_checkpoint(str(begun))
    with Dataset.open(tiny_records) as dataset:
        old, new = load_model(tiny_training, dataset).model, load_model(str(begun), dataset).model
    for ours, theirs in zip(new.weights, old.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-7)
    assert after.meta["valid_words"] == before.meta["valid_words"]
    assert after.meta["valid_log_likelihood"] == pytest.approx(
        before.meta["valid_log_likelihood"], rel=1e-5
    )
    assert after.meta["warm_start"] == {
        "path": tiny_version,
        "checkpoint": before.digest,
        "words": len(dataset.vocab),
        "new_words": 0,
    }
    assert "warm_start" not in before.meta


def test_what_a_start_that_was_killed_has_left_is_made_anew(begun: Path, tiny_version: str) -> None:
    start = read_warm_start(str(begun))
    assert start is not None
    assert start.meta["path"] == tiny_version
    assert not (begun / "warm_start.tmp-12ab").exists()


def test_damaged_weights_are_refused(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path / "w")
    with open(tmp_path / "w" / "warm_start" / "arrays.npz", "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"warm_start is not whole \(arrays\.npz is cut short"):
        read_warm_start(str(tmp_path / "w"))


def test_a_training_goes_on_with_its_own_beginning_only(
    tiny_records: str, tiny_training: str, tiny_version: str, begun: Path
) -> None:
    def train(workdir: str, start: str) -> None:
        settings = (
            config(*STILL) if workdir == str(begun) else read_config(f"{workdir}/config.json")
        )
        run_train(TrainingJob(records=tiny_records, workdir=workdir, warm_start=start), settings)

    train(str(begun), tiny_version)
    train(tiny_training, "")
    with pytest.raises(InputError, match=f"{begun} was started with other weights and"):
        train(str(begun), "")
    with pytest.raises(InputError, match=f"{tiny_training} was started with random weights and"):
        train(tiny_training, tiny_version)


@pytest.fixture(scope="module")
def extended(corpus: Path, tiny_version: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records whose vocabulary has words that the version does not know."""
    folder = tmp_path_factory.mktemp("extended")
    (folder / "new.txt").write_text("The lighthousekeepers rowed to the snowfields.\n" * 400)
    records = str(folder / "records")
    run_prepare(
        inputs=[str(corpus), str(folder / "new.txt")],
        vocab=os.path.join(tiny_version, "vocab.txt"),
        extend_vocab=True,
        records=records,
        config=tiny().data,
    )
    return records


def test_a_warm_training_is_ahead_of_a_cold_one(
    extended: str, tiny_version: str, tmp_path: Path
) -> None:
    reached: dict[str, Any] = {}
    for name, start in (("cold", ""), ("warm", tiny_version)):
        workdir = str(tmp_path / name)
        found = run_train(
            TrainingJob(records=extended, workdir=workdir, warm_start=start),
            config("train.steps=20"),
        )
        reached[name] = found["valid_perplexity"]
    assert reached["warm"] < 0.8 * reached["cold"]
    newest = newest_checkpoint(str(tmp_path / "warm"))
    assert newest is not None
    ours, theirs = (
        set(Vocabulary.load(os.path.join(folder, "vocab.txt")).words)
        for folder in (extended, tiny_version)
    )
    assert theirs < ours
    assert {"lighthousekeepers", "snowfields"} <= ours - theirs
    assert read_meta(newest)["warm_start"]["new_words"] == len(ours - theirs)


def test_another_model_is_no_beginning(
    tiny_records: str, tiny_version: str, tmp_path: Path
) -> None:
    workdir = tmp_path / "w"
    job = TrainingJob(records=tiny_records, workdir=str(workdir), warm_start=tiny_version)
    with pytest.raises(InputError, match=r"model\.lstm_dim=\d+, not 7, so a training can't start"):
        run_train(job, config(*STILL, "model.lstm_dim=7"))
    assert not (workdir / "config.json").exists()


def test_a_frozen_char_cnn_is_another_model(published: Published) -> None:
    frozen = config("model.char_cnn=frozen")
    with pytest.raises(InputError, match=r"has model\.char_cnn=trained, not frozen"):
        check_same_model("v", published.config, frozen)


def test_a_folder_without_a_model_is_no_beginning(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a version of a model"):
        load_published(str(tmp_path))
