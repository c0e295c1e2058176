"""Hugging Face `tokenizers` as a program that answers lines; run by a Python that has it.

Imports nothing of charloom, so that Python needs nothing else. Each input line is answered by one
run of both steps: a word-level vocabulary is trained on the file, then all its lines are encoded.
Nothing is written. Imports, counting words and releasing memory are not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SPECIAL_WORDS = ["</s>", "<unk>", "<s>"]
"""As many as ours, so that vocabularies of the same size have the same number of real words."""


def run_once(job: dict[str, Any]) -> dict[str, Any]:
    """Trains and encodes; returns words, seconds of both steps and size of the vocabulary."""
    started = time.perf_counter()
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=job["vocab_size"],
        min_frequency=job["min_count"],
        special_tokens=SPECIAL_WORDS,
        show_progress=False,
    )
    tokenizer.train([job["text"]], trainer)
    trained = time.perf_counter()
    with open(job["text"], encoding="utf-8") as file:
        lines = file.read().splitlines()
    encodings = getattr(tokenizer, job["encode"])(lines)
    ended = time.perf_counter()
    return {
        "words": sum(len(encoding) for encoding in encodings),
        "seconds": ended - started,
        "train_seconds": trained - started,
        "vocabulary": tokenizer.get_vocab_size(),
    }


def answer(content: dict[str, Any]) -> None:
    """Prints one answer."""
    print(json.dumps(content), flush=True)


def main() -> None:
    """Reports readiness, then answers each line until the input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", required=True, help="text, vocab_size, min_count, encode as JSON")
    with open(parser.parse_args().job, encoding="utf-8") as file:
        job = json.load(file)
    versions = {"tokenizers": tokenizers.__version__, "its_python": platform.python_version()}
    answer({"versions": versions})
    for _ in sys.stdin:
        answer(run_once(job))


if __name__ == "__main__":
    main()
