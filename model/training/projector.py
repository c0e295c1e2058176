"""Word vectors in the form that TensorBoard's PROJECTOR tab reads.

<folder>/projector_config.pbtxt
         projector/metadata.tsv          word and count, a header, a line a word
                   word_embedding.tsv    a line a word, if the model has the part
                   char_cnn.tsv
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.plugins.projector import ProjectorConfig, visualize_embeddings

from model.files import write_whole
from model.network.char_vectors import char_vectors
from model.network.joint_model import JointModel
from model.text.display import printable
from model.text.vocab import SPECIAL_WORDS, Vocabulary

FOLDER, METADATA_FILE = "projector", "metadata.tsv"
MAX_WORDS = 5000
"""More are slow in a browser, and make files of hundreds of megabytes."""

Vectors = dict[str, npt.NDArray[np.float32]]


def word_vectors(model: JointModel, vocab: Vocabulary, *, limit: int = MAX_WORDS) -> Vectors:
    """Returns `word_embedding` `[N, D]` and `char_cnn` `[N, F]` of the most frequent words.

    Each only if the model has the part; the special words are left out.
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
    """Writes what the projector reads; the config last, so that it names only what is there.

    Args:
      folder: where the training's events are.
      vectors: of `word_vectors`, `[N, size]` each.
      vocab: gives the N words after the special ones.
    """
    counts = {len(array) for array in vectors.values()}
    if counts <= {0}:
        return
    (count,) = counts
    first = len(SPECIAL_WORDS)
    os.makedirs(os.path.join(folder, FOLDER), exist_ok=True)
    chosen = slice(first, first + count)
    lines = [
        f"{printable(word)}\t{number}\n"
        for word, number in zip(vocab.words[chosen], vocab.counts[chosen], strict=True)
    ]
    write_whole(os.path.join(folder, FOLDER, METADATA_FILE), "word\tcount\n" + "".join(lines))
    config = ProjectorConfig()
    for name, array in vectors.items():
        path = f"{FOLDER}/{name}.tsv"
        write_whole(os.path.join(folder, path), _tsv(array))
        embedding = config.embeddings.add(tensor_name=name, tensor_path=path)
        embedding.metadata_path = f"{FOLDER}/{METADATA_FILE}"
        embedding.tensor_shape.extend(array.shape)
    visualize_embeddings(folder, config)


def _tsv(array: npt.NDArray[np.float32]) -> str:
    # By hand: np.savetxt takes ten times as long.
    return "".join("\t".join([f"{value:.5g}" for value in row]) + "\n" for row in array.tolist())
