from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tensorboard.plugins.projector import ProjectorConfig

from model.config import ModelConfig
from model.network.joint_model import JointModel
from model.presets import tiny
from model.text.spelling import spell
from model.text.vocab import SPECIAL_WORDS, Vocabulary
from model.training.projector import word_vectors, write_projector

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
