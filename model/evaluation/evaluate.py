"""Evaluates a checkpoint on records: scores every word once, by the full softmax.

Each record is scored from a zero state, so its figures do not depend on the others.
"""

from __future__ import annotations

import json
import math
import os
import time
from typing import Any

import numpy as np
import tensorflow as tf

from model.baselines.bigram import BigramModel
from model.baselines.byte_ngram import UnknownSpellings
from model.baselines.unigram import unigram_log_probabilities
from model.checkpointing.seen_records import CHALLENGER, LeftOut, Sides, find_left_out, read_sides
from model.checkpointing.trained import Loaded, load_model, read_spelling
from model.config import to_json
from model.data.batches import LaneReader
from model.data.plan import EvalPlan, Segment
from model.data.records import Dataset
from model.data.seen import Mask
from model.errors import InputError
from model.evaluation.champion import Tested, score_champion, score_reference
from model.evaluation.report import (
    Scored,
    SplitWords,
    part,
    read_split,
    sums,
    with_spellings,
    with_unigrams,
)
from model.evaluation.scoring import score_words
from model.metrics import perplexity, read_metrics
from model.network.forward import batch_inputs
from model.text.display import show_word
from model.text.vocab import BOS_ID, UNK_ID, Vocabulary

REPORT_VERSION = 4
"""Incremented when the form of a report changes."""


def score_split(
    loaded: Loaded,
    dataset: Dataset,
    split: str,
    *,
    unknown: UnknownSpellings,
    left_out: Mask | None = None,
) -> tuple[SplitWords, Scored]:
    """Scores every word of a split.

    Args:
      loaded: the model.
      dataset: the records that it was trained on.
      split: its name.
      unknown: the model's distribution over words outside its vocabulary.
      left_out: `[records]` records to ignore.
    """
    words, train = read_split(dataset, split, left_out=left_out), loaded.config.train
    width = loaded.config.model.max_word_bytes
    scores = score_words(
        loaded.model,
        EvalPlan(words.lengths, lanes=train.lanes, window=train.window),
        LaneReader(dataset, split, max_word_bytes=width, window=train.window),
        lengths=words.lengths,
    )
    return words, with_spellings(scores, words, unknown)


def describe_split(words: SplitWords, scored: Scored, vocab: Vocabulary) -> dict[str, Any]:
    """Returns a split's sums, counts and ratios for a report."""
    return with_unigrams(sums(words, scored), words, unigram_log_probabilities(vocab.counts))


def sample_next_words(
    loaded: Loaded,
    dataset: Dataset,
    *,
    split: str = "test",
    count: int = 8,
    words: int = 12,
    left_out: Mask | None = None,
) -> list[dict[str, Any]]:
    """Returns the likeliest next words after the beginnings of some records not left out."""
    lengths = dataset.lengths(split)
    kept = np.arange(len(lengths)) if left_out is None else np.flatnonzero(~left_out)
    if not len(kept):
        return []
    width = loaded.config.model.max_word_bytes
    samples = []
    places = np.unique(np.linspace(0, len(kept) - 1, count).astype(int))
    for index in kept[places].tolist():
        stop = min(words, int(lengths[index]) - 1)
        reader = LaneReader(dataset, split, max_word_bytes=width, window=stop + 1)
        inputs = batch_inputs(reader.batch([[Segment(index, 0, stop + 1)]], [True]))
        encoded = loaded.model.encode(
            inputs["words"],
            char_ids=inputs["char_ids"],
            index=inputs["index"],
            state=loaded.model.zero_state(1),
        )
        values, found = likeliest_words(loaded.model.logits(encoded.hidden[:, -1]), k=5)
        spelled = [show_word(word) for word in dataset.read(split, index).spelled_words()]
        samples.append(
            {
                "context": " ".join(word for word in spelled[: stop + 1] if word),
                "truth": spelled[stop + 1],
                "next": [
                    {"word": dataset.vocab.words[word], "probability": float(probability)}
                    for word, probability in zip(found[0].numpy(), values[0].numpy(), strict=True)
                ],
            }
        )
    return samples


def likeliest_words(logits: tf.Tensor, *, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns probabilities and ids of the likeliest real words, `[N, k]`, or fewer if V < k + 2."""
    probabilities = hide_specials(tf.nn.softmax(logits))
    values, found = tf.math.top_k(probabilities, k=min(k, probabilities.shape[-1] - 2))
    return values, found


def hide_specials(probabilities: tf.Tensor) -> tf.Tensor:
    """Sets `<unk>` and `<s>` to 0 in `[N, V]`: neither is a real word."""
    hidden = tf.one_hot([UNK_ID, BOS_ID], probabilities.shape[-1], on_value=1.0)
    return probabilities * (1.0 - tf.reduce_sum(hidden, axis=0))


def evaluate_checkpoint(
    *, records: str, workdir: str, champion: str = "", reference: str = ""
) -> dict[str, Any]:
    """Scores the best checkpoint of a training on its validation and test splits.

    Args:
      records: the records that it was trained on.
      workdir: the training's folder.
      champion: folder of the champion, which is scored on the same test words; empty for none.
      reference: folder of the best version so far, scored likewise.

    Returns:
      The report without a verdict, as JSON values.

    Raises:
      InputError: bad records or workdir, or records without a test split.
    """
    started = time.monotonic()
    with Dataset.open(records) as dataset:
        if not dataset.lengths("test").size:
            raise InputError(f"{records} has no test split; raise data.test_fraction")
        loaded, vocab = load_model(workdir, dataset), dataset.vocab
        unknown = UnknownSpellings(read_spelling(loaded.checkpoint), vocab)
        sides = read_sides(
            dataset, workdir, loaded.checkpoint.meta, {"champion": champion, "reference": reference}
        )
        left_out = find_left_out(dataset, "test", sides.seen)
        valid = score_split(loaded, dataset, "valid", unknown=unknown)
        test = score_split(loaded, dataset, "test", unknown=unknown, left_out=left_out.mask)
        splits = {"valid": describe_split(*valid, vocab), "test": describe_split(*test, vocab)}
        _describe_seen(splits, dataset, sides, left_out)
        tested = Tested(*test, vocab, loaded.config.data, sides.unknown)
        compared = score_champion(champion, dataset, tested) if champion else None
        rows = read_metrics(workdir)
        return {
            "format_version": REPORT_VERSION,
            **_describe_model(loaded, dataset),
            "splits": splits,
            "baseline": _baselines(dataset, splits["test"], left_out.mask),
            "champion": compared,
            "reference": score_reference(reference, dataset, tested, champion=compared)
            if reference
            else None,
            "samples": sample_next_words(loaded, dataset, left_out=left_out.mask),
            "curves": _curves(rows, workers=loaded.checkpoint.meta["workers"]),
            "seconds": {
                "training": rows[-1]["seconds"] if rows else None,
                "evaluation": time.monotonic() - started,
            },
        }


def _describe_model(loaded: Loaded, dataset: Dataset) -> dict[str, Any]:
    checkpoint = loaded.checkpoint
    return {
        "config": json.loads(to_json(loaded.config)),
        "dataset": {
            "path": os.path.abspath(dataset.path),
            "digest": dataset.digest,
            "train_words": int(dataset.lengths("train").sum()),
            "vocab_size": len(dataset.vocab),
            "vocab_digest": dataset.vocab.digest,
        },
        "checkpoint": {
            "step": checkpoint.step,
            "digest": checkpoint.digest,
            "path": checkpoint.path,
        },
        "warm_start": checkpoint.meta.get("warm_start"),
        "parameters": sum(math.prod(v.shape) for v in loaded.model.trainable_variables),
    }


def _describe_seen(
    splits: dict[str, dict[str, Any]], dataset: Dataset, sides: Sides, left_out: LeftOut
) -> None:
    """Adds to both splits the records seen before: left out of test, reported for validation."""
    unknown = sides.unknown.get(CHALLENGER)
    described = left_out.describe(dataset.lengths("test"))
    splits["test"]["left_out"] = {**described, "unknown": unknown}
    ours = find_left_out(dataset, "valid", {CHALLENGER: sides.seen[CHALLENGER]})
    splits["valid"]["seen"] = ours.describe(dataset.lengths("valid"))


def _baselines(dataset: Dataset, test: dict[str, Any], left_out: Mask) -> dict[str, Any]:
    words = test["words"]
    return {
        "unigram": part(test["unigram_log_likelihood"], words),
        "bigram": part(BigramModel(dataset, left_out=left_out).test_log_likelihood(), words),
    }


def _curves(rows: list[dict[str, Any]], *, workers: int) -> dict[str, Any]:
    return {
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
        "workers": workers,
    }
