"""TensorBoard's HPARAMS, PROJECTOR and next words; `metrics_log` writes the curves.

A training is one row of HPARAMS. No experiment is declared, so that TensorBoard derives the columns
from the rows, and trainings with different config versions share one table.

PROJECTOR reads word vectors from

<folder>/projector_config.pbtxt
         projector/metadata.tsv          word and count: a header, then one line per word
                   word_embedding.tsv    one line per word, if the model has the part
                   char_cnn.tsv
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.plugins.hparams import api_pb2, summary, summary_v2
from tensorboard.plugins.projector import ProjectorConfig, visualize_embeddings

from model.checkpointing.checkpoints import Checkpoint
from model.checkpointing.trained import Loaded
from model.config import Config, to_dict
from model.data.records import Dataset
from model.evaluation.evaluate import sample_next_words
from model.files import write_whole
from model.network.char_vectors import char_vectors
from model.network.joint_model import JointModel
from model.text.display import printable, table
from model.text.vocab import SPECIAL_WORDS, Vocabulary

FINAL_TAG = "final/valid_perplexity"
"""Scalar, written once, at the end."""
PROJECTOR_FOLDER, METADATA_FILE = "projector", "metadata.tsv"
MAX_WORDS = 5000
"""More are slow in a browser, and make files of hundreds of megabytes."""
SAMPLED_RECORDS = 3
CONTEXT_WORDS = 12
"""Maximum number of context words shown."""

Vectors = dict[str, npt.NDArray[np.float32]]


def flat_config(config: Config) -> dict[str, Any]:
    """Returns every field of model and train as `section.field`; tuples as `1,2,3`."""
    sections = to_dict(config)
    return {
        f"{section}.{name}": ",".join(map(str, value)) if isinstance(value, list) else value
        for section in ("model", "train")
        for name, value in sections[section].items()
    }


def start_hparams(config: Config, *, workdir: str) -> None:
    """Writes the row to the current summary writer; one row per workdir."""
    fields = flat_config(config)
    _write(summary_v2.hparams_pb(fields, trial_id=workdir, start_time_secs=time.time()))


def end_hparams(*, step: int, valid_perplexity: float | None) -> None:
    """Completes the row; `valid_perplexity` None: there is no validation split."""
    if valid_perplexity is not None:
        tf.summary.scalar(FINAL_TAG, valid_perplexity, step=step)
    _write(summary.session_end_pb(api_pb2.STATUS_SUCCESS))


def _write(message: Any) -> None:
    tf.summary.experimental.write_raw_pb(message.SerializeToString(), step=0)


def word_vectors(model: JointModel, vocab: Vocabulary, *, limit: int = MAX_WORDS) -> Vectors:
    """Returns `word_embedding` `[N, D]` and `char_cnn` `[N, F]` of the most frequent words.

    Each is present only if the model has that part; special words are left out.
    """
    first = len(SPECIAL_WORDS)
    stop = min(len(vocab), first + limit)
    vectors: Vectors = {}
    if model.word_embedding is not None:
        ids = tf.range(first, stop)
        vectors["word_embedding"] = tf.gather(model.word_embedding.embeddings.value, ids).numpy()
    if model.char_cnn is not None:
        words = [word.encode() for word in vocab.words[first:stop]]
        vectors["char_cnn"] = char_vectors(model, words)
    return {name: np.asarray(array, np.float32) for name, array in vectors.items()}


def write_projector(folder: str, *, vectors: Vectors, vocab: Vocabulary) -> None:
    """Writes the projector's files; the config last, so that it names only existing files.

    Args:
      folder: where the training's events are.
      vectors: result of `word_vectors`, `[N, size]` each.
      vocab: provides the N words after the special ones.
    """
    counts = {len(array) for array in vectors.values()}
    if counts <= {0}:
        return
    (count,) = counts
    first = len(SPECIAL_WORDS)
    os.makedirs(os.path.join(folder, PROJECTOR_FOLDER), exist_ok=True)
    chosen = slice(first, first + count)
    lines = [
        f"{printable(word)}\t{number}\n"
        for word, number in zip(vocab.words[chosen], vocab.counts[chosen], strict=True)
    ]
    write_whole(
        os.path.join(folder, PROJECTOR_FOLDER, METADATA_FILE), "word\tcount\n" + "".join(lines)
    )
    config = ProjectorConfig()
    for name, array in vectors.items():
        path = f"{PROJECTOR_FOLDER}/{name}.tsv"
        write_whole(os.path.join(folder, path), _tsv(array))
        embedding = config.embeddings.add(tensor_name=name, tensor_path=path)
        embedding.metadata_path = f"{PROJECTOR_FOLDER}/{METADATA_FILE}"
        embedding.tensor_shape.extend(array.shape)
    visualize_embeddings(folder, config)


def _tsv(array: npt.NDArray[np.float32]) -> str:
    # np.savetxt would take ten times as long.
    return "".join("\t".join([f"{value:.5g}" for value in row]) + "\n" for row in array.tolist())


def sample_table(model: JointModel, config: Config, dataset: Dataset) -> str:
    """Returns the five likeliest next words after the beginnings of some records, in Markdown.

    Only reads weights, draws no random numbers and uses no collective, so one worker may call it
    alone without affecting the training.
    """
    loaded = Loaded(model, config, Checkpoint(path="", arrays={}, meta={}))
    samples = sample_next_words(
        loaded, dataset, split="valid", count=SAMPLED_RECORDS, words=CONTEXT_WORDS
    )
    return table(["after", "comes", "expected"], [_row(sample) for sample in samples])


def _row(sample: dict[str, Any]) -> list[str]:
    expected = [f"{printable(n['word'])} {n['probability']:.3f}" for n in sample["next"]]
    context = " ".join(printable(word) for word in sample["context"].split(" "))
    return [context, printable(sample["truth"]), ", ".join(expected)]
