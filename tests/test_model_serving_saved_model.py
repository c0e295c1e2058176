from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from served_reference import Reference
from volume import keep_first

from model.checkpointing.trained import load_model
from model.config import with_overrides
from model.data.records import Dataset
from model.network.joint_model import JointModel
from model.presets import tiny
from model.serving.reader import WINDOW
from model.serving.saved_model import ServedModel
from model.text.vocab import BOS_ID, LINE_END, UNK_ID, Vocabulary

pytestmark = pytest.mark.slow

Floats = npt.NDArray[np.float32]

TEXTS: dict[str, bytes] = {
    "plain": b"The baker opens the door of the shop.\nThe cat is not in the shop.\n",
    "no final line end": b"The baker opens the door of the shop.\nThe cat is not in the shop.",
    "empty": b"",
    "white space": b" \t\r\n \xe2\x80\xa8\n",
    "one word": b"the",
    "long word": b"the " + b"bread" * 1000 + b" door",
    "not UTF-8": b"the caf\xe9 of the cat \xff\xfe.",
    "long": b"The cat and the dog sit by the river, and the baker sees them. " * 12,
    "a window": b"the " * WINDOW,
    "a window and a word": b"the " * (WINDOW + 1),
    "unseen": "Zoë 🐱🐱 qwertyuiop 12345 \x01 a\x01b".encode(),
    "marks as letters": b"</s> <s> <unk>",
}


@pytest.fixture(scope="module")
def reference(tiny_records: str, tiny_training: str) -> Iterator[Reference]:
    with Dataset.open(tiny_records) as dataset:
        loaded = load_model(tiny_training, dataset)
        yield Reference(loaded.model, loaded.config, dataset.vocab)


@pytest.fixture(scope="module")
def saved(tiny_version: str) -> Any:
    return tf.saved_model.load(tiny_version)


def score(saved: Any, *texts: bytes) -> dict[str, npt.NDArray[Any]]:
    found = saved.score(tf.constant(texts, tf.string))
    return {name: value.numpy() for name, value in found.items()}


def assert_scores(
    got: dict[str, npt.NDArray[Any]], reference: Reference, texts: list[bytes]
) -> None:
    for index, text in enumerate(texts):
        words = reference.words(text)
        expected = reference.score(words)
        total = float(expected.astype(np.float64).sum())
        count = int(got["words"][index])
        assert count == len(words)
        shown = [b"</s>" if word == LINE_END else word for word in words]
        assert got["tokens"][index].tolist() == shown + [b""] * (got["tokens"].shape[1] - count)
        scores = got["word_log_likelihoods"][index]
        np.testing.assert_allclose(scores[:count], expected, atol=1e-5)
        assert (scores[count:] == 0).all()
        unknown = [number == UNK_ID for number in reference.vocab.encode(words)]
        assert got["unknown"][index].tolist() == unknown + [False] * (scores.size - count)
        assert got["log_likelihood"][index] == pytest.approx(total, rel=1e-5)
        perplexity = np.exp(-total / count) if count else 1.0
        assert got["perplexity"][index] == pytest.approx(perplexity, rel=1e-5)


@pytest.mark.parametrize("name", TEXTS)
def test_score_is_that_of_the_checkpoint(saved: Any, reference: Reference, name: str) -> None:
    got = score(saved, TEXTS[name])
    assert_scores(got, reference, [TEXTS[name]])
    assert got["words"].dtype == np.int64
    assert got["log_likelihood"].dtype == got["perplexity"].dtype == np.float32


def test_tokens(saved: Any) -> None:
    def tokens(name: str) -> list[bytes]:
        found: list[bytes] = score(saved, TEXTS[name])["tokens"][0].tolist()
        return found

    assert tokens("plain") == TEXTS["plain"].replace(b".", b" .").split()
    assert tokens("no final line end") == tokens("plain")  # without line ends as words
    assert tokens("empty") == tokens("white space") == []
    assert tokens("long word") == [b"the", b"bread" * 1000, b"door"]
    assert tokens("not UTF-8") == "the caf � of the cat � � .".encode().split()
    assert tokens("marks as letters") == b"< / s > < s > < unk >".split()
    assert len(tokens("long")) > 5 * WINDOW


def test_a_text_without_words_has_perplexity_one(saved: Any) -> None:
    got = score(saved, b"", b" \n")
    assert got["log_likelihood"].tolist() == [0.0, 0.0]
    assert got["words"].tolist() == [0, 0]
    assert got["perplexity"].tolist() == [1.0, 1.0]
    assert got["tokens"].shape == got["word_log_likelihoods"].shape == (2, 0)


def test_no_texts(saved: Any) -> None:
    got = score(saved)
    assert got["log_likelihood"].shape == got["words"].shape == got["perplexity"].shape == (0,)
    assert got["tokens"].shape[0] == got["word_log_likelihoods"].shape[0] == 0


def test_numbers_do_not_depend_on_the_texts_beside(saved: Any) -> None:
    names = list(TEXTS)
    order = [*names, names[0], *reversed(names), "long", "long"]
    apart = {name: score(saved, TEXTS[name]) for name in names}
    together = score(saved, *(TEXTS[name] for name in order))
    for index, name in enumerate(order):
        for key, value in apart[name].items():
            if value.ndim == 1:
                assert together[key][index] == value[0], (name, key)
            else:
                assert (together[key][index, : value.shape[1]] == value[0]).all(), (name, key)


PLAIN = """
import importlib.util, json, sys
sys.path.append(sys.argv[1])
import tensorflow as tf
import tensorflow_text
assert importlib.util.find_spec("model") is None
assert importlib.util.find_spec("components") is None
texts = [bytes.fromhex(text) for text in json.loads(sys.argv[3])]
model = tf.saved_model.load(sys.argv[2])
one = model.score(tf.constant(texts))
two = model.signatures["serving_default"](texts=tf.constant(texts))
three = model.signatures["next_word"](texts=tf.constant(texts), k=tf.constant(3))
four = model.signatures["embed"](texts=tf.constant(texts))
assert "model" not in sys.modules and "components" not in sys.modules
print(json.dumps({
    "signatures": sorted(model.signatures),
    "scores": [found["log_likelihood"].numpy().tolist() for found in (one, two)],
    "words": one["words"].numpy().tolist(),
    "next": [[word.decode() for word in row] for row in three["words"].numpy()],
    "embed": list(four["embeddings"].shape),
}))
"""


def test_plain_tensorflow_gets_the_same(
    saved: Any, tiny_version: str, reference: Reference, tmp_path: Path
) -> None:
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None
    assert spec.origin is not None
    packages = str(Path(spec.origin).parent.parent)
    texts = list(TEXTS.values())
    arguments = [packages, tiny_version, json.dumps([text.hex() for text in texts])]
    # -I: nothing from the environment or the current folder; -S: no site, so none of the
    # paths that an installation of this package adds.
    plain = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PLAIN, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert plain.returncode == 0, plain.stderr[-3000:]
    found = json.loads(plain.stdout)
    assert found["signatures"] == ["embed", "next_word", "score", "serving_default", "similar"]
    words = [reference.words(text) for text in texts]
    expected = [float(reference.score(one).sum()) for one in words]
    for scores in found["scores"]:
        assert scores == pytest.approx(expected, rel=1e-5)
        assert scores == pytest.approx(score(saved, *texts)["log_likelihood"].tolist(), rel=1e-5)
    assert found["words"] == [len(one) for one in words]
    best = saved.next_word(tf.constant(texts), tf.constant(3))["words"].numpy()
    assert found["next"] == [[word.decode() for word in row] for row in best]
    assert found["embed"] == [len(texts), max(map(len, words)), 1, 24]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("k", [1, 5, 10**6])
def test_next_words_are_those_of_the_checkpoint(
    saved: Any, reference: Reference, name: str, k: int
) -> None:
    got = saved.next_word(tf.constant([TEXTS[name]]), tf.constant(k))
    words = [word.decode() for word in got["words"].numpy()[0]]
    values = got["probabilities"].numpy()[0]
    vocab = reference.vocab
    assert len(words) == len(values) == len(set(words)) == min(k, len(vocab) - 2)
    assert not {"<unk>", "<s>"} & set(words)
    assert (np.diff(values) <= 0).all()
    expected = reference.next_word(reference.words(TEXTS[name], open_end=True))
    ids = [vocab.words.index(word) for word in words]
    np.testing.assert_allclose(values, expected[ids], rtol=1e-4, atol=1e-7)
    left_out = np.delete(expected, [*ids, UNK_ID, BOS_ID])
    assert left_out.max(initial=0.0) <= values[-1] * (1 + 1e-4)


def test_next_words_of_several_texts(saved: Any) -> None:
    texts = [TEXTS["plain"], b"", TEXTS["long"]]
    together = saved.next_word(tf.constant(texts), tf.constant(4))
    assert together["words"].shape == together["probabilities"].shape == (3, 4)
    for index, text in enumerate(texts):
        alone = saved.next_word(tf.constant([text]), tf.constant(4))
        assert (alone["words"][0].numpy() == together["words"][index].numpy()).all()
        assert (alone["probabilities"][0].numpy() == together["probabilities"][index].numpy()).all()


@pytest.mark.parametrize("name", TEXTS)
def test_embeddings_are_the_states_of_the_checkpoint(
    saved: Any, reference: Reference, name: str
) -> None:
    got = saved.embed(tf.constant([TEXTS[name], b"the cat"]))
    words = reference.words(TEXTS[name])
    vectors = got["embeddings"].numpy()
    assert vectors.shape == (2, max(2, len(words)), 1, 24)
    assert got["tokens"][0, : len(words)].numpy().tolist() == words
    np.testing.assert_allclose(
        vectors[0, : len(words)], reference.read(words).layers[0, 1:], atol=1e-5
    )
    assert (vectors[0, len(words) :] == 0).all()
    np.testing.assert_allclose(
        vectors[1, :2], reference.read([b"the", b"cat"]).layers[0, 1:], atol=1e-5
    )


def test_unknown_words_are_told_apart_by_spelling(saved: Any, reference: Reference) -> None:
    unknown = [b"unbreadable", b"unbreadably", b"zzz", b"UNBREADABLE"]
    assert set(reference.vocab.encode(unknown)) == {UNK_ID}
    texts = [b"the " + word + b" cat" for word in (*unknown, unknown[0])]
    got = saved.embed(tf.constant(texts))["embeddings"].numpy()
    for one in range(4):
        for other in range(one):
            difference = np.abs(got[one, 1] - got[other, 1]).max()
            # Beyond W - 2 = 10 bytes the CNN does not look: two of them look alike.
            assert (difference == 0) == ({one, other} == {0, 1}), (one, other)
    assert (got[4] == got[0]).all()
    scores = score(saved, *texts)["log_likelihood"]
    assert scores[0] == scores[1] == scores[4]
    assert len(set(scores.tolist())) == 3


# Models with line ends as words, untrained: what is served is compared with its parts.


def make_served(*settings: str) -> tuple[ServedModel, Reference]:
    data = ["data.sentence_marks=true", "data.lowercase=true"]
    config = with_overrides(tiny(), [*data, *settings])
    counts = {b"the": 9, b"cat": 8, b"sat": 7, b".": 6, "zoë".encode(): 5, LINE_END: 4}
    vocab = Vocabulary.build(counts, max_size=99, min_count=1)
    model = JointModel(config.model, vocab_counts=vocab.counts, seed=1)
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(0, 0.4, weight.shape))
    return ServedModel(model, config=config, vocab=vocab), Reference(model, config, vocab)


@pytest.fixture(scope="module")
def marked() -> tuple[ServedModel, Reference]:
    return make_served("model.lstm_layers=2", "model.tied=false")


MARKED = [
    b"The cat sat.\nThe dog sat.\n",
    b"The cat sat.\r\n\r\nThe dog sat.",
    b"\n\nZO\xc3\x8b",
    b"",
    b"the cat\n" * WINDOW,
]


def test_line_ends_are_words(marked: tuple[ServedModel, Reference]) -> None:
    served, reference = marked
    got = {name: value.numpy() for name, value in served.score(tf.constant(MARKED)).items()}
    assert_scores(got, reference, MARKED)
    tokens = [row[: row.tolist().index(b"")].tolist() for row in got["tokens"][:4]]
    sentences = [b"the", b"cat", b"sat", b".", b"</s>", b"the", b"dog", b"sat", b".", b"</s>"]
    assert tokens == [sentences, sentences, ["zoë".encode(), b"</s>"], []]
    # The model reads the mark itself, not the letters by which it is shown.
    letters = served.score(tf.constant([b"the </s>\n"]))
    assert letters["tokens"][0].numpy().tolist() == [b"the", b"<", b"/", b"s", b">", b"</s>"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"the cat", [b"the", b"cat"]),
        (b"the cat\n", [b"the", b"cat", LINE_END]),
        (b"the cat\nsat", [b"the", b"cat", LINE_END, b"sat"]),
        (b"the cat\n \n", [b"the", b"cat", LINE_END]),
        (b"", []),
    ],
)
def test_next_word_goes_on_where_the_text_is_open(
    marked: tuple[ServedModel, Reference], text: bytes, words: list[bytes]
) -> None:
    served, reference = marked
    got = served.next_word(tf.constant([text]), tf.constant(99))
    expected = reference.next_word(words)
    ids = [reference.vocab.words.index(word.decode()) for word in got["words"][0].numpy()]
    assert sorted([*ids, UNK_ID, BOS_ID]) == list(range(len(reference.vocab)))
    np.testing.assert_allclose(got["probabilities"][0], expected[ids], rtol=1e-4)
    assert b"</s>" in got["words"][0].numpy()  # a line may end here


def test_embeddings_of_several_layers(marked: tuple[ServedModel, Reference]) -> None:
    served, reference = marked
    got = served.embed(tf.constant(MARKED))
    for index, text in enumerate(MARKED):
        words = reference.words(text)
        expected = reference.read(words).layers[0, 1:]
        assert expected.shape[1:] == (2, 24)
        np.testing.assert_allclose(got["embeddings"][index, : len(words)], expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    keep_first(
        [
            (["model.inputs=characters", "model.tied=false"],),
            (["model.inputs=words"],),
            (["model.lstm_projection=9", "model.lstm_layers=2"],),
            (["model.lstm_projection=9", "model.tied=false"],),
        ]
    ),
)
def test_other_models_are_served_too(settings: list[str]) -> None:
    served, reference = make_served(*settings)
    got = {name: value.numpy() for name, value in served.score(tf.constant(MARKED)).items()}
    assert_scores(got, reference, MARKED)
    (text, *_), words = MARKED, reference.words(MARKED[0])
    vectors = served.embed(tf.constant([text]))["embeddings"][0]
    np.testing.assert_allclose(vectors, reference.read(words).layers[0, 1:], atol=1e-5)
    best = served.next_word(tf.constant([text]), tf.constant(1))["probabilities"][0, 0]
    expected = np.delete(reference.next_word(words), [UNK_ID, BOS_ID]).max()
    assert float(best) == pytest.approx(float(expected), rel=1e-4)


def test_similar_words_have_similar_spellings(saved: Any, reference: Reference) -> None:
    asked = ["bakery", "doorstep", "the"]
    got = saved.similar(tf.constant(asked), tf.constant(4))
    words, values = got["words"].numpy(), got["similarities"].numpy()
    assert words.shape == values.shape == (3, 4)
    assert (np.diff(values, axis=1) <= 0).all()
    assert (np.abs(values) <= 1 + 1e-5).all()
    known = set(reference.vocab.words)
    assert all(word.decode() in known - {"</s>", "<unk>", "<s>"} for word in words.flat)
    assert b"the" not in words[2]
    shared = [len(set(word.decode()) & set("bakery")) for word in words[0]]
    assert max(shared) >= 3
    spaced = saved.similar(tf.constant([" bakery", "doorstep ", "the\n"]), tf.constant(4))
    np.testing.assert_array_equal(spaced["words"].numpy(), words)
    np.testing.assert_array_equal(spaced["similarities"].numpy(), values)
    many = saved.similar(tf.constant(["x"]), tf.constant(10**6))
    assert many["words"].shape[1] == len(known) - 4


def test_similar_folds_words_as_texts_are_folded() -> None:
    served, _ = make_served("data.lowercase=true")
    found = {}
    for word in ("bakery", "BAKERY", " Bakery ", "two words", ""):
        found[word] = served.similar(tf.constant([word]), tf.constant(4))["words"].numpy().tolist()
    assert found["BAKERY"] == found[" Bakery "] == found["bakery"]
    assert len(found["two words"][0]) == len(found[""][0]) == 4  # taken as they are
