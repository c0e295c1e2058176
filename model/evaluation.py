"""A checkpoint and records to a report: every word once, by the full softmax.

A record is scored from a zero state, so its figures do not depend on the others.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model.batches import Batch, LaneReader, eval_batch, prefetch
from model.config import to_json
from model.errors import InputError
from model.loading import Loaded as Loaded
from model.loading import load_model as load_model
from model.network import JointModel, unigram_log_probabilities
from model.plan import EvalPlan, Segment
from model.progress import perplexity, read_metrics
from model.records import Dataset
from model.steps import batch_inputs, score_window
from model.vocab import BOS_ID, EOS_ID, LINE_END, UNK_ID, Vocabulary

REPORT_VERSION = 1
SLICES = ("unknown", "1-5", "6-100", ">100")
"""Slices of the targets, by how often the target word is a target in the training split."""

Floats = npt.NDArray[np.float64]


def score_batches(
    model: JointModel, plan: EvalPlan, reader: LaneReader
) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """Yields each batch of a plan with the `[B, T]` log-likelihoods of its targets."""

    @tf.function(reduce_retracing=True)
    def step(inputs: dict[str, tf.Tensor], state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return score_window(model, inputs, state)

    state = model.zero_state(plan.lanes)
    lanes = range(plan.lanes)
    for batch in prefetch(lambda at: eval_batch(plan, reader, at, lanes), range(plan.steps)):
        scores, state = step(batch_inputs(batch), state)
        yield batch, scores.numpy()


def evaluate_split(loaded: Loaded, dataset: Dataset, split: str) -> dict[str, Any]:
    """Scores a split; returns sums, counts and the ratios made from them."""
    config, lengths = loaded.config, dataset.lengths(split)
    window = config.train.window
    reader = LaneReader(dataset, split, max_word_bytes=config.model.max_word_bytes, window=window)
    plan = EvalPlan(lengths, lanes=config.train.lanes, window=window)
    unigram = unigram_log_probabilities(dataset.vocab.counts)
    slice_of = _slice_of_word(dataset.vocab)
    sums, baseline, counts = (np.zeros(len(SLICES)) for _ in range(3))
    documents = np.zeros(len(lengths))
    characters_of, characters = _characters_of_word(dataset.vocab), 0
    for batch, scores in score_batches(loaded.model, plan, reader):
        there = batch.weights > 0
        targets, values = batch.targets[there], scores[there].astype(np.float64)
        where = slice_of[targets]
        sums += np.bincount(where, values, len(SLICES))
        baseline += np.bincount(where, unigram[targets], len(SLICES))
        counts += np.bincount(where, minlength=len(SLICES))
        characters += int(characters_of[targets].sum())
        documents += np.bincount(batch.records[there], values, len(lengths))
    words = int(counts.sum())
    assert words == lengths.sum(), "every word is scored once"
    known = sums.sum() - sums[SLICES.index("unknown")]
    return {
        **_sums(sums.sum(), words),
        "unigram_log_likelihood": float(baseline.sum()),
        "characters": characters,
        "bits_per_character": float(-known / math.log(2) / characters) if characters else None,
        "unknown_words": int(counts[SLICES.index("unknown")]),
        "slices": {
            name: {
                **_sums(sums[index], int(counts[index])),
                "unigram_log_likelihood": float(baseline[index]),
                "unigram_perplexity": _perplexity(baseline[index], int(counts[index])),
            }
            for index, name in enumerate(SLICES)
        },
        "documents": [
            {
                "source": dataset.read(split, index).source,
                "words": int(lengths[index]),
                "log_likelihood": float(documents[index]),
            }
            for index in range(len(lengths))
        ],
    }


def _perplexity(log_likelihood: float, words: int) -> float | None:
    return perplexity(float(log_likelihood), words) if words else None


def _sums(log_likelihood: float, words: int) -> dict[str, Any]:
    return {
        "log_likelihood": float(log_likelihood),
        "words": words,
        "perplexity": _perplexity(log_likelihood, words),
    }


def _characters_of_word(vocab: Vocabulary) -> npt.NDArray[np.int64]:
    """Returns `[V]` characters of each word, the space after it included; 0 for `<unk>`.

    Who predicts `<unk>` has not predicted its letters, so they count for nothing: else
    the smallest vocabulary would have the fewest bits per character.
    """
    characters = np.asarray([len(word) + 1 for word in vocab.words])
    characters[EOS_ID], characters[UNK_ID] = 1, 0
    return characters


def _slice_of_word(vocab: Vocabulary) -> npt.NDArray[np.int64]:
    """Returns `[V]` which of `SLICES` each word belongs to."""
    slices = np.searchsorted([6, 101], np.asarray(vocab.counts), side="right") + 1
    slices[UNK_ID] = 0
    return slices


def sample_next_words(
    loaded: Loaded, dataset: Dataset, *, split: str = "test", count: int = 8, words: int = 12
) -> list[dict[str, Any]]:
    """Shows what the model expects after the first words of some records."""
    lengths = dataset.lengths(split)
    width = loaded.config.model.max_word_bytes
    samples = []
    for index in np.unique(np.linspace(0, len(lengths) - 1, count).astype(int)).tolist():
        stop = min(words, int(lengths[index]) - 1)
        reader = LaneReader(dataset, split, max_word_bytes=width, window=stop + 1)
        inputs = batch_inputs(reader.batch([[Segment(index, 0, stop + 1)]], [True]))
        encoded = loaded.model.encode(
            inputs["words"],
            char_ids=inputs["char_ids"],
            index=inputs["index"],
            state=loaded.model.zero_state(1),
        )
        best = tf.math.top_k(
            hide_specials(tf.nn.softmax(loaded.model.logits(encoded.hidden[:, -1]))), k=5
        )
        spelled = [_show(word) for word in dataset.read(split, index).spelled_words()]
        samples.append(
            {
                "context": " ".join(word for word in spelled[: stop + 1] if word),
                "truth": spelled[stop + 1],
                "next": [
                    {"word": dataset.vocab.words[word], "probability": float(probability)}
                    for word, probability in zip(
                        best.indices[0].numpy(), best.values[0].numpy(), strict=True
                    )
                ],
            }
        )
    return samples


def _show(word: bytes) -> str:
    return "</s>" if word == LINE_END else word.decode(errors="replace")


def hide_specials(probabilities: tf.Tensor) -> tf.Tensor:
    """Sets `<unk>` and `<s>` to 0 in `[N, V]`: neither is a word that one could say."""
    hidden = tf.one_hot([UNK_ID, BOS_ID], probabilities.shape[-1], on_value=1.0)
    return probabilities * (1.0 - tf.reduce_sum(hidden, axis=0))


def evaluate_checkpoint(*, records: str, workdir: str) -> dict[str, Any]:
    """Scores the best checkpoint of a training on its validation and test split.

    Returns:
      The report, JSON-ready, without a verdict.

    Raises:
      InputError: bad records or workdir, or records without a test split.
    """
    started = time.monotonic()
    with Dataset.open(records) as dataset:
        if not dataset.lengths("test").size:
            raise InputError(f"{records} has no test split; raise data.test_fraction")
        loaded = load_model(workdir, dataset)
        splits = {split: evaluate_split(loaded, dataset, split) for split in ("valid", "test")}
        test = splits["test"]
        rows = read_metrics(workdir)
        return {
            "format_version": REPORT_VERSION,
            "config": json.loads(to_json(loaded.config)),
            "dataset": {
                "digest": dataset.digest,
                "train_words": int(dataset.lengths("train").sum()),
                "vocab_size": len(dataset.vocab),
            },
            "checkpoint": {
                "step": loaded.checkpoint.step,
                "digest": loaded.checkpoint.digest,
                "path": loaded.checkpoint.path,
            },
            "parameters": sum(math.prod(v.shape) for v in loaded.model.trainable_variables),
            "splits": splits,
            "baseline": {"unigram": _sums(test["unigram_log_likelihood"], test["words"])},
            "samples": sample_next_words(loaded, dataset),
            "curves": {
                "train": [
                    {"step": row["step"], "perplexity": perplexity(-row["loss"], 1)}
                    for row in rows
                    if "loss" in row
                ],
                "valid": [
                    {
                        "step": row["step"],
                        "perplexity": perplexity(row["valid_log_likelihood"], row["valid_words"]),
                    }
                    for row in rows
                    if "valid_words" in row
                ],
                "workers": loaded.checkpoint.meta["workers"],
            },
            "seconds": {
                "training": rows[-1]["seconds"] if rows else None,
                "evaluation": time.monotonic() - started,
            },
        }
