"""Queries an exported model and prints its answers."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import tensorflow as tf
import tensorflow_text  # noqa: F401 (registers ops of exported models)

from model.errors import InputError
from model.text.vocab import EOS_ID, SPECIAL_WORDS

BYTE_ORDER_MARK = "\ufeff"
TEXTS_A_CALL = 256
CHARACTERS_A_CALL = 1 << 16
"""Maximum total length of the texts in a call; a longer text has its own call."""


def load(path: str) -> Any:
    """Loads a SavedModel.

    Raises:
      InputError: it is damaged or lacks our functions.
    """
    try:
        model = tf.saved_model.load(path)
    except (OSError, ValueError, IndexError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} can't be loaded ({reason}); export it again") from None
    if not all(hasattr(model, name) for name in ("score", "next_word", "embed")):
        raise InputError(f"{path} is not a model that charloom exported")
    return model


def read_texts(texts: Sequence[str], path: str | None) -> Iterator[str]:
    """Yields the texts on the command line, then those of a file, one per line; `-` is stdin.

    Raises:
      InputError: there are none, or the file can't be read.
    """
    if not texts and path is None:
        raise InputError("no text given; pass texts, --input FILE, or --input - for stdin")
    texts = [check_text(text).removeprefix(BYTE_ORDER_MARK) for text in texts]
    if path is None:
        return iter(texts)
    if path == "-" and sys.stdin is None:
        raise InputError("--input -: stdin is closed; pass texts, or --input FILE")
    try:
        file = sys.stdin.buffer if path == "-" else open(path, "rb")
    except OSError as error:
        raise InputError(f"--input {path}: {error.strerror}") from None
    return itertools.chain(texts, _read_lines(file, path))


def _read_lines(file: BinaryIO, path: str) -> Iterator[str]:
    with file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.rstrip(b"\r\n").decode()
                yield text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text
            except UnicodeDecodeError as error:
                raise InputError(
                    f"--input {path} is not UTF-8 in line {number} at byte {error.start}"
                ) from None


def check_text(text: str) -> str:
    """Returns a command-line text, decoded as UTF-8 in any locale.

    Raises:
      InputError: it is not UTF-8.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError as error:
        with contextlib.suppress(UnicodeError):  # bytes that the locale could not decode
            return os.fsencode(text).decode()
        raise InputError(f"the text is not UTF-8 at character {error.start}: {text!r}") from None


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Groups texts so that calls are large enough and memory does not grow with their number."""
    chunk: list[str] = []
    characters = 0
    for text in texts:
        if chunk and (len(chunk) == TEXTS_A_CALL or characters + len(text) > CHARACTERS_A_CALL):
            yield chunk
            chunk, characters = [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield chunk


def score_rows(model: Any, texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields each text's scores, as `--format jsonl` prints them."""
    for chunk in _chunks(texts):
        result = {name: value.numpy() for name, value in model.score(tf.constant(chunk)).items()}
        for index, text in enumerate(chunk):
            words = int(result["words"][index])
            unknown = result["unknown"][index][:words]
            yield {
                "text": text,
                "log_likelihood": float(result["log_likelihood"][index]),
                "words": words,
                "unknown_words": int(unknown.sum()),
                "perplexity": float(result["perplexity"][index]),
                "tokens": [token.decode() for token in result["tokens"][index][:words]],
                "word_log_likelihoods": result["word_log_likelihoods"][index][:words].tolist(),
                "unknown": unknown.tolist(),
            }


def format_row(row: Mapping[str, Any], form: str) -> str:
    """Formats a row of `score_rows` as a line of TSV or JSON."""
    if form != "tsv":
        return json.dumps(row, ensure_ascii=False)
    shown = json.dumps(row["text"], ensure_ascii=False)
    counts = f"{row['words']}\t{row['unknown_words']}"
    return f"{row['log_likelihood']:.9g}\t{counts}\t{row['perplexity']:.9g}\t{shown}"


def print_scores(model: Any, texts: Iterable[str], *, form: str) -> None:
    """Prints one line per text: TSV with a header, or JSON with every word's score.

    Raises:
      InputError: the model does not mark unknown words.
    """
    if "unknown" not in model.signatures["score"].structured_outputs:
        raise InputError("the model is from an older charloom; train and export it again")
    if form == "tsv":
        print("log_likelihood\twords\tunknown_words\tperplexity\ttext")
    for row in score_rows(model, texts):
        print(format_row(row, form))


def print_next_words(model: Any, text: str, *, k: int) -> None:
    """Prints the k likeliest next words, one per line with its probability.

    Raises:
      InputError: k is below 1.
    """
    result = model.next_word(tf.constant([_checked(text, k)]), tf.constant(k))
    _print_words(result["words"], result["probabilities"])


def print_similar(model: Any, word: str, *, k: int) -> None:
    """Prints the k known words with the most similar spellings, one per line with its cosine.

    Raises:
      InputError: k is below 1, the text is not one word, or the model has no char-CNN.
    """
    if not hasattr(model, "similar") or "similar" not in model.signatures:
        raise InputError("the model does not read characters, or is from an older charloom")
    tokens = model.score(tf.constant([_checked(word, k)]))["tokens"][0].numpy()
    words = [token for token in tokens if token != SPECIAL_WORDS[EOS_ID].encode()]
    if len(words) != 1:
        raise InputError(f"{word!r} is {len(words)} words to this model; give one word")
    result = model.similar(tf.constant(words), tf.constant(k))
    _print_words(result["words"], result["similarities"])


def _checked(text: str, k: int) -> str:
    if not 1 <= k < 1 << 31:
        raise InputError(f"-k is {k}; it must be at least 1 and below 2^31")
    return check_text(text)


def _print_words(words: tf.Tensor, values: tf.Tensor) -> None:
    for word, value in zip(words[0].numpy(), values[0].numpy(), strict=True):
        print(f"{value:.4f}\t{word.decode()}")


def print_embeddings(model: Any, texts: Iterable[str]) -> None:
    """Prints one JSON line per text: its words and, for each, `[layers, H]` LSTM outputs."""
    for chunk in _chunks(texts):
        result = model.embed(tf.constant(chunk))
        for index, text in enumerate(chunk):
            tokens = [token.decode() for token in result["tokens"][index].numpy() if token]
            vectors = result["embeddings"][index][: len(tokens)].numpy().tolist()
            row = {"text": text, "tokens": tokens, "embeddings": vectors}
            print(json.dumps(row, ensure_ascii=False))
