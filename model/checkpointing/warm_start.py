"""Starts a training from the weights of a published model.

<workdir>/warm_start/   arrays and meta.json, as in a checkpoint

Arrays without rows per word are copied. The row of a word that the published model knows moves to
the word's new id. For a new word, ridge regression of the known words' rows on their char-CNN
vectors predicts the row from its spelling (docs/decisions/0018).
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.baselines.unigram import unigram_log_probabilities
from model.checkpointing.checkpoints import Arrays, write_checkpoint
from model.checkpointing.origin import WARM_START_FOLDER
from model.checkpointing.trained import Published
from model.checkpointing.variable_names import name_variables
from model.files import publish_folder, temporary_folder
from model.network.char_vectors import char_vectors
from model.network.joint_model import JointModel
from model.text.vocab import SPECIAL_WORDS, UNK_ID, Vocabulary

RIDGE = 1e-2
"""Regularisation strength of the regression, per word."""
MAX_KNOWN = 50_000
"""Maximum number of (most frequent) known words to fit the regression on."""

Floats = npt.NDArray[np.float32]


class _Rows(NamedTuple):
    """Which row of the published model each word of a vocabulary takes."""

    known: npt.NDArray[np.int64]
    """Ids, in the new vocabulary, of words that the model knows."""
    theirs: npt.NDArray[np.int64]
    """Their ids in the model's vocabulary."""
    new: npt.NDArray[np.int64]
    """Ids of the others."""


def write_warm_start(workdir: str, published: Published, vocab: Vocabulary) -> None:
    """Writes the weights a training starts from, atomically.

    Args:
      workdir: the training's folder.
      published: the model to start from.
      vocab: the vocabulary of the training's records.
    """
    path = os.path.join(workdir, WARM_START_FOLDER)
    meta = {
        "path": published.path,
        "checkpoint": published.trained_digest,
        "vocab": vocab.digest,
        "words": len(vocab),
        "new_words": len(match_rows(published.vocab, vocab).new),
    }
    with temporary_folder(path) as temporary:
        write_checkpoint(temporary, step=0, arrays=move_weights(published, vocab), meta=meta)
        publish_folder(temporary, path)


def move_weights(published: Published, vocab: Vocabulary) -> Arrays:
    """Returns the `model/...` arrays of a model for another vocabulary.

    Args:
      published: the model.
      vocab: the new vocabulary.
    """
    model = published.model
    rows = match_rows(published.vocab, vocab)
    tables = {id(table): name for name, table in model.tables()}
    guessed = _guess_rows(model, published.vocab, vocab, rows)
    arrays: Arrays = {}
    for name, variable in name_variables("model", model.weights).items():
        array = variable.numpy()
        table = tables.get(id(variable))
        if table is not None:
            moved = np.empty((len(vocab), *array.shape[1:]), array.dtype)
            moved[rows.known] = array[rows.theirs]
            moved[rows.new] = guessed[table]
            array = moved
        arrays[name] = array
    return arrays


def match_rows(theirs: Vocabulary, ours: Vocabulary) -> _Rows:
    """Returns which words of `ours` `theirs` has."""
    ids = {word: index for index, word in enumerate(theirs.words)}
    found = np.array([ids.get(word, -1) for word in ours.words], np.int64)
    known = np.flatnonzero(found >= 0)
    return _Rows(known, found[known], np.flatnonzero(found < 0))


def _guess_rows(
    model: JointModel, theirs: Vocabulary, ours: Vocabulary, rows: _Rows
) -> dict[str, Floats]:
    """Predicts the new words' rows of each table, by the table's name."""
    tables = {name: table.numpy() for name, table in model.tables()}
    log_shares = unigram_log_probabilities(ours.counts)
    offset = np.mean(tables["bias"][rows.theirs] - log_shares[rows.known])
    guessed = {"bias": (log_shares[rows.new] + offset).astype(np.float32)}
    for name in tables.keys() - {"bias"}:
        guessed[name] = np.repeat(tables[name][UNK_ID : UNK_ID + 1], len(rows.new), axis=0)
    if model.char_cnn is None or not len(rows.new):
        return guessed
    spelled = rows.theirs[rows.theirs >= len(SPECIAL_WORDS)]
    spelled = np.sort(spelled)[:MAX_KNOWN]  # the most frequent first
    if not len(spelled):
        return guessed
    known_vectors = char_vectors(model, [theirs.words[at].encode() for at in spelled])
    new_vectors = char_vectors(model, [ours.words[at].encode() for at in rows.new])
    for name in tables.keys() - {"bias"}:
        guessed[name] = _regress(known_vectors, tables[name][spelled], new_vectors)
    return guessed


def _regress(vectors: Floats, targets: Floats, new: Floats) -> Floats:
    """Returns the rows `[m, D]` that a centred ridge regression predicts for `new` `[m, F]`."""
    center, mean = vectors.mean(axis=0, dtype=np.float64), targets.mean(axis=0, dtype=np.float64)
    x, y = vectors - center, targets - mean
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ y)
    return np.asarray((new - center) @ weights + mean, np.float32)
