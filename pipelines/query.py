"""Asks an exported model; prints what it answers."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import tensorflow as tf
import tensorflow_text  # noqa: F401 (registers ops of exported models)

from model.errors import InputError

TEXTS_A_CALL = 64


def load(path: str) -> Any:
    """Loads a SavedModel.

    Raises:
      InputError: it is damaged or has not our functions.
    """
    try:
        model = tf.saved_model.load(path)
    except (OSError, ValueError, IndexError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} can't be loaded ({reason}); export it again") from None
    if not all(hasattr(model, name) for name in ("score", "next_word", "embed")):
        raise InputError(f"{path} is no model that charloom exported")
    return model


def read_texts(texts: Sequence[str], path: str | None) -> Iterator[str]:
    """Returns the texts of the command line, then those of a file, one a line; `-` is stdin.

    Raises:
      InputError: there are none, or the file can't be read.
    """
    if not texts and path is None:
        raise InputError("there is no text; give texts, --input FILE, or --input - for stdin")
    for text in texts:
        check_text(text)
    if path is None:
        return iter(texts)
    try:
        file = sys.stdin.buffer if path == "-" else open(path, "rb")
    except OSError as error:
        raise InputError(f"--input {path}: {error.strerror}") from None
    return itertools.chain(texts, _read_lines(file, path))


def _read_lines(file: BinaryIO, path: str) -> Iterator[str]:
    with file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"--input {path} is not UTF-8 in line {number} at byte {error.start}"
                ) from None


def check_text(text: str) -> None:
    """Raises InputError if a text of the command line was no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text is not UTF-8 at character {error.start}: {text!r}") from None


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while chunk := list(itertools.islice(iterator, TEXTS_A_CALL)):
        yield chunk


def print_scores(model: Any, texts: Iterable[str], *, form: str) -> None:
    """Prints a line a text: TSV with a header, or JSON with every word's score."""
    if form == "tsv":
        print("log_likelihood\twords\tperplexity\ttext")
    for chunk in _chunks(texts):
        result = {name: value.numpy() for name, value in model.score(tf.constant(chunk)).items()}
        for index, text in enumerate(chunk):
            log_likelihood = float(result["log_likelihood"][index])
            words = int(result["words"][index])
            perplexity = float(result["perplexity"][index])
            if form == "tsv":
                shown = json.dumps(text, ensure_ascii=False)
                print(f"{log_likelihood:.9g}\t{words}\t{perplexity:.9g}\t{shown}")
                continue
            row = {
                "text": text,
                "log_likelihood": log_likelihood,
                "words": words,
                "perplexity": perplexity,
                "tokens": [token.decode() for token in result["tokens"][index][:words]],
                "word_log_likelihoods": result["word_log_likelihoods"][index][:words].tolist(),
            }
            print(json.dumps(row, ensure_ascii=False))


def print_next_words(model: Any, text: str, *, k: int) -> None:
    """Prints the k likeliest next words, a line each with its probability.

    Raises:
      InputError: k is below 1.
    """
    if not 1 <= k < 1 << 31:
        raise InputError(f"-k is {k}; it must be at least 1 and below 2^31")
    check_text(text)
    result = model.next_word(tf.constant([text]), tf.constant(k))
    for word, probability in zip(
        result["words"][0].numpy(), result["probabilities"][0].numpy(), strict=True
    ):
        print(f"{probability:.4f}\t{word.decode()}")


def print_embeddings(model: Any, texts: Iterable[str]) -> None:
    """Prints a JSON line a text: its words and for each `[layers, H]` LSTM outputs."""
    for chunk in _chunks(texts):
        result = model.embed(tf.constant(chunk))
        for index, text in enumerate(chunk):
            tokens = [token.decode() for token in result["tokens"][index].numpy() if token]
            vectors = result["embeddings"][index][: len(tokens)].numpy().tolist()
            row = {"text": text, "tokens": tokens, "embeddings": vectors}
            print(json.dumps(row, ensure_ascii=False))
