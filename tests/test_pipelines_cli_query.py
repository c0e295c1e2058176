"""What is said of models that can't answer a command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from model.errors import InputError
from pipelines.cli import query

TEXTS = tf.TensorSpec([None], tf.string, name="texts")


class OldModel(tf.Module):
    """Has the signatures that each model has, and `score` as it was once."""

    @tf.function(input_signature=[TEXTS])
    def score(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"log_likelihood": tf.zeros_like(tf.strings.length(texts), tf.float32)}

    @tf.function(input_signature=[TEXTS])
    def embed(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"tokens": texts}

    @tf.function(input_signature=[TEXTS])
    def next_word(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"words": texts}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = str(tmp_path_factory.mktemp("old") / "1")
    model = OldModel()
    signatures = {"score": model.score, "embed": model.embed, "next_word": model.next_word}
    tf.saved_model.save(model, path, signatures=signatures)
    return query.load(path)


@pytest.mark.parametrize("form", ["tsv", "jsonl"])
def test_scores_without_unknown_words(
    old: Any, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    with pytest.raises(InputError, match=r"^the model is from an older charloom; train and export"):
        query.print_scores(old, ["a text"], form=form)
    assert capsys.readouterr().out == ""


def test_similar_words_of_a_model_that_has_none(old: Any) -> None:
    with pytest.raises(
        InputError, match=r"^the model does not read characters, or is from an older"
    ):
        query.print_similar(old, "word", k=5)


def test_another_model(tmp_path: Path) -> None:
    path = str(tmp_path / "1")
    tf.saved_model.save(tf.Module(), path)
    with pytest.raises(InputError, match=f"^{path} is not a model that charloom exported$"):
        query.load(path)


class FoldingModel:
    """Answers `similar` with what it was asked."""

    signatures = ("similar",)

    def score(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        words = [*tf.strings.split(tf.strings.lower(texts[0])).numpy(), b"</s>"]
        return {"tokens": tf.constant([words])}

    def similar(self, words: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"words": words[tf.newaxis], "similarities": tf.ones([1, 1])}


def test_similar_asks_for_the_word_as_the_model_reads_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    query.print_similar(FoldingModel(), " GOVERNMENT ", k=1)
    assert capsys.readouterr().out == "1.0000\tgovernment\n"
    for text, count in (("two words", 2), (" ", 0)):
        with pytest.raises(InputError, match=f"^'{text}' is {count} words to this model; give one"):
            query.print_similar(FoldingModel(), text, k=1)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\ufeffThe value\n\ufeffThe value\n", encoding="utf-8")
    texts = list(query.read_texts(["\ufeffa"], str(path)))
    assert texts == ["a", "The value", "\ufeffThe value"]  # within a file it is a character


def test_a_closed_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="--input -: stdin is closed; pass texts, or --input FILE"):
        query.read_texts([], "-")
    assert list(query.read_texts(["a"], None)) == ["a"]


def test_a_text_that_the_locale_could_not_decode() -> None:
    given = "Größe".encode().decode("ascii", "surrogateescape")
    assert list(query.read_texts([given], None)) == ["Größe"]
    with pytest.raises(InputError, match="the text is not UTF-8 at character 2"):
        query.read_texts(["a \udcff"], None)
