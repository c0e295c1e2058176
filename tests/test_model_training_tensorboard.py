from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.projector import ProjectorConfig

from model.checkpointing.trained import load_model
from model.config import ModelConfig, field_names, with_overrides
from model.data.records import Dataset
from model.evaluation.evaluate import sample_next_words
from model.network.joint_model import JointModel
from model.presets import tiny
from model.text.display import markdown
from model.text.spelling import spell
from model.text.vocab import SPECIAL_WORDS, Vocabulary
from model.training.tensorboard import (
    FINAL_TAG,
    end_hparams,
    flat_config,
    sample_table,
    start_hparams,
    word_vectors,
    write_projector,
)


def test_every_field_of_model_and_train() -> None:
    fields = flat_config(tiny())
    assert list(fields) == [name for name in field_names() if name.startswith(("model.", "train."))]
    assert fields["model.filter_widths"] == "1,2,3"
    assert fields["model.tied"] is True
    assert fields["train.learning_rate"] == 1e-2
    assert {type(value) for value in fields.values()} <= {bool, int, float, str}


@pytest.mark.parametrize("valid", [123.5, None])
def test_what_tensorboard_reads(tmp_path: Path, valid: float | None) -> None:
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        start_hparams(with_overrides(tiny(), ["train.steps=77"]), workdir="/work/one")
        end_hparams(step=77, valid_perplexity=valid)
    writer.close()
    (path,) = tmp_path.iterdir()
    values = {
        value.tag: (event.step, value)
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    content = {
        tag: value.metadata.plugin_data.content
        for tag, (_, value) in values.items()
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    start = metadata.parse_session_start_info_plugin_data(content["_hparams_/session_start_info"])
    end = metadata.parse_session_end_info_plugin_data(content["_hparams_/session_end_info"])
    assert start.group_name == "/work/one"
    assert start.hparams["train.steps"].number_value == 77
    assert start.hparams["model.tied"].bool_value is True
    assert end.status == 1  # success
    if valid is None:
        assert FINAL_TAG not in values
    else:
        step, value = values[FINAL_TAG]
        assert (step, float(tf.make_ndarray(value.tensor))) == (77, valid)


HOSTILE = ["plain", "a\tb", "line\nend", "\r", "", " ", "\x00\x07", "\u2028", "naïve", "x" * 500]
VOCAB = Vocabulary(words=(*SPECIAL_WORDS, *HOSTILE), counts=(9, 8, 0, *range(20, 10, -1)))


def model(**fields: object) -> JointModel:
    config: ModelConfig = dataclasses.replace(tiny().model, **fields)
    return JointModel(config, vocab_counts=VOCAB.counts)


def test_vectors_are_those_of_the_words() -> None:
    ours = model()
    vectors = word_vectors(ours, VOCAB, limit=3)
    assert ours.word_embedding is not None
    np.testing.assert_array_equal(
        vectors["word_embedding"], ours.word_embedding.embeddings.numpy()[3:6]
    )
    rows = np.zeros((1, 12), np.int32)
    rows[0, :5] = [1, *spell(b"a\tb"), 2]
    np.testing.assert_allclose(
        vectors["char_cnn"][1], ours.spell_out(rows).numpy()[0], rtol=1e-5, atol=1e-6
    )
    assert vectors["char_cnn"].shape == (3, 24)


def test_chunks_join_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = model()
    whole = word_vectors(ours, VOCAB)["char_cnn"]
    assert whole.shape == (10, 24)
    monkeypatch.setattr("model.network.char_vectors._CHUNK", 4)
    np.testing.assert_allclose(word_vectors(ours, VOCAB)["char_cnn"], whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"inputs": "words"}, ["word_embedding"]),
        ({"inputs": "characters", "tied": False}, ["char_cnn"]),
    ],
)
def test_a_model_with_one_part(fields: dict[str, object], names: list[str]) -> None:
    assert list(word_vectors(model(**fields), VOCAB)) == names


def test_files(tmp_path: Path) -> None:
    vectors = word_vectors(model(), VOCAB)
    write_projector(str(tmp_path), vectors=vectors, vocab=VOCAB)
    config = ProjectorConfig()
    text = (tmp_path / "projector_config.pbtxt").read_text(encoding="utf-8")
    from google.protobuf import text_format

    text_format.Parse(text, config)
    assert [one.tensor_name for one in config.embeddings] == ["word_embedding", "char_cnn"]
    for one in config.embeddings:
        assert one.tensor_shape == list(vectors[one.tensor_name].shape)
        read = np.loadtxt(tmp_path / one.tensor_path, delimiter="\t", ndmin=2)
        np.testing.assert_allclose(read, vectors[one.tensor_name], rtol=1e-4, atol=1e-30)
        lines = (tmp_path / one.metadata_path).read_text(encoding="utf-8").split("\n")
        assert lines[0] == "word\tcount"
        assert lines[-1] == ""
        rows = [line.split("\t") for line in lines[1:-1]]
        assert [word for word, _ in rows] == [
            *["plain", r"a\tb", r"line\nend", r"\r", '""', r"\x20", r"\x00\x07", r"\u2028"],
            *["naïve", "x" * 500],
        ]
        assert [int(count) for _, count in rows] == list(range(20, 10, -1))


def test_a_vocabulary_of_special_words_only(tmp_path: Path) -> None:
    vocab = Vocabulary(words=SPECIAL_WORDS, counts=(1, 1, 0))
    ours = JointModel(tiny().model, vocab_counts=vocab.counts)
    write_projector(str(tmp_path), vectors=word_vectors(ours, vocab), vocab=vocab)
    assert list(tmp_path.iterdir()) == []


def test_the_table_and_that_nothing_is_touched(tiny_training: str, tiny_records: str) -> None:
    with Dataset.open(tiny_records) as dataset:
        loaded = load_model(tiny_training, dataset)
        before = [variable.numpy() for variable in loaded.model.variables]
        python, numpy = random.getstate(), np.random.get_state()[1].tolist()
        tf.random.set_seed(7)
        expected_draw = float(tf.random.uniform([]))
        tf.random.set_seed(7)
        text = sample_table(loaded.model, loaded.config, dataset)
        assert float(tf.random.uniform([])) == expected_draw
        assert (random.getstate(), np.random.get_state()[1].tolist()) == (python, numpy)
        for variable, value in zip(loaded.model.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
        samples = sample_next_words(loaded, dataset, split="valid", count=3)
    lines = text.split("\n")
    assert lines[:2] == ["| after | comes | expected |", "| --- | --- | --- |"]
    assert len(lines) == 2 + len(samples) == 5
    for line, sample in zip(lines[2:], samples, strict=True):
        context, truth, expected = line.strip("| ").split(" | ")
        assert context.split(" ")[-1] == markdown(sample["context"].split(" ")[-1])
        assert truth == markdown(sample["truth"])
        shown = [f"{one['word']} {one['probability']:.3f}" for one in sample["next"]]
        assert expected == markdown(", ".join(shown))
