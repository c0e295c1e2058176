"""Exports a checkpoint as a SavedModel, which is reloaded and compared before use."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from model.checkpointing.trained import Loaded
from model.data.batches import LaneReader
from model.data.plan import EvalPlan
from model.data.records import Dataset, Record, encode_record, parse_record
from model.errors import CharloomError
from model.evaluation.scoring import score_batches
from model.serving.saved_model import ServedModel
from model.text.tokenizer import detokenize
from model.text.vocab import DOCUMENT_START, LINE_END

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.25}
GPU_TOLERANCE = 10.0
"""How many times as much on a GPU, which adds up in another order in each kernel. Unproven."""
"""Maximum difference of a word's log-likelihood from the checkpoint's, in nats, by precision."""


def export_model(
    loaded: Loaded, dataset: Dataset, output: str, *, precision: str = "float32"
) -> Any:
    """Exports a trained model as a SavedModel.

    Args:
      loaded: the model.
      dataset: the records that it was trained on.
      output: folder to create.
      precision: of the served model's table and softmax, a key of `TOLERANCE`.

    Returns:
      The SavedModel, loaded.
    """
    served = ServedModel(
        loaded.model, config=loaded.config, vocab=dataset.vocab, precision=precision
    )
    signatures = {
        "serving_default": served.score,
        "score": served.score,
        "next_word": served.next_word,
        "embed": served.embed,
    }
    if loaded.model.char_cnn is not None:
        signatures["similar"] = served.similar
    tf.saved_model.save(served, output, signatures=signatures)
    return tf.saved_model.load(output)


class _Documents:
    """Held-out records, each turned into its own document by the code that `prepare` uses."""

    def __init__(self, dataset: Dataset, *, count: int, sentence_marks: bool):
        split = next(s for s in ("test", "valid", "train") if dataset.lengths(s).size)
        total = len(dataset.lengths(split))
        chosen = np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))
        self.words = [dataset.read(split, int(i)).spelled_words()[1:] for i in chosen]
        for words in self.words:
            if sentence_marks and words[-1] != LINE_END:  # a record may end inside a line
                words.append(LINE_END)
        self._vocab = dataset.vocab

    def read(self, split: str, index: int) -> Record:
        """Returns one document as a record."""
        words = [DOCUMENT_START, *self.words[index]]
        return parse_record(encode_record(words, self._vocab, source=f"{split}:{index}"))


def held_out_texts(loaded: Loaded, dataset: Dataset, *, count: int) -> list[str]:
    """Returns some held-out raw texts, if the records have any."""
    documents = _Documents(dataset, count=count, sentence_marks=loaded.config.data.sentence_marks)
    return [detokenize(words).decode() for words in documents.words]


def allowed(precision: str) -> float:
    """Returns the largest difference of a word's log-likelihood, in nats, on this device."""
    return TOLERANCE[precision] * (GPU_TOLERANCE if tf.config.list_physical_devices("GPU") else 1.0)


def compare(
    exported: Any,
    *,
    loaded: Loaded,
    dataset: Dataset,
    count: int = 16,
    tolerance: float = TOLERANCE["float32"],
) -> dict[str, Any]:
    """Compares a SavedModel with its checkpoint, word by word, on held-out text.

    Args:
      exported: the SavedModel, loaded.
      loaded: the model of the checkpoint.
      dataset: the records that it was trained on.
      count: number of texts to compare.
      tolerance: largest difference of a word's log-likelihood, in nats.

    Returns:
      texts and words compared, and max_difference in nats.

    Raises:
      CharloomError: a word differs by more than `tolerance` nats, or a text is split
        differently.
    """
    marks = loaded.config.data.sentence_marks
    documents = _Documents(dataset, count=count, sentence_marks=marks)
    lengths = np.asarray([len(words) for words in documents.words], np.int64)
    reader = LaneReader(
        documents, "test", max_word_bytes=loaded.config.model.max_word_bytes, window=64
    )
    plan = EvalPlan(lengths, lanes=len(lengths), window=64)
    expected: list[list[float]] = [[] for _ in lengths]
    for batch, scores in score_batches(loaded.model, plan, reader):
        for lane in range(plan.lanes):
            there = batch.weights[lane] > 0
            if there.any():
                expected[int(batch.records[lane, 0])].extend(scores[lane][there].tolist())
    texts = tf.constant([detokenize(words) for words in documents.words])
    result = exported.signatures["score"](texts=texts)
    difference = 0.0
    for index, values in enumerate(expected):
        served = result["word_log_likelihoods"][index].numpy()
        if int(result["words"][index]) != len(values):
            raise CharloomError(
                f"the exported model reads {int(result['words'][index])} words where the records "
                f"have {len(values)}; nothing was published, please report this text: "
                f"{detokenize(documents.words[index])[:200]!r}"
            )
        gaps = np.abs(served[: len(values)] - np.asarray(values))
        difference = float(np.maximum(difference, gaps.max(initial=0.0)))  # NaN stays NaN
    if not difference <= tolerance:
        raise CharloomError(
            f"the exported model differs from its checkpoint by {difference:.2g} nats in a word "
            f"(at most {tolerance} is allowed); nothing was published"
        )
    return {"texts": len(lengths), "words": int(lengths.sum()), "max_difference": difference}
