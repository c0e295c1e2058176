from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.evaluate.main import run
from model.baselines.bigram import BigramModel
from model.baselines.byte_ngram import UnknownSpellings
from model.checkpointing.seen_records import read_training
from model.checkpointing.trained import Loaded, load_model, read_spelling
from model.config import with_overrides
from model.data.records import Dataset, Record
from model.data.seen import SEEN_FILE, SeenText, cut_units, hash_words
from model.errors import InputError
from model.evaluation.evaluate import (
    describe_split,
    evaluate_checkpoint,
    hide_specials,
    likeliest_words,
    sample_next_words,
    score_split,
)
from model.evaluation.report import SLICES, slice_of_word
from model.network.losses import word_log_likelihoods
from model.presets import tiny
from model.text.spelling import spelling_matrix
from model.text.vocab import BOS_ID, UNK_ID, Vocabulary

pytestmark = pytest.mark.slow

Json = dict[str, Any]


@pytest.fixture(scope="module")
def report(tiny_records: str, tiny_training: str) -> Json:
    return evaluate_checkpoint(records=tiny_records, workdir=tiny_training)


def records_of(dataset: Dataset, split: str) -> list[Record]:
    return [dataset.read(split, index) for index in range(len(dataset.lengths(split)))]


def read_alone(loaded: Loaded, record: Record) -> tf.Tensor:
    """Reads all words of one record in one window from a zero state; returns `[1, L + 1, X]`."""
    width = loaded.config.model.max_word_bytes
    spellings = spelling_matrix(record.char_ids, record.word_lengths, width)
    encoded = loaded.model.encode(
        tf.constant(record.word_ids, tf.int32),
        char_ids=tf.constant(spellings.astype(np.int32)),
        index=tf.range(record.words + 1)[tf.newaxis],
        state=loaded.model.zero_state(1),
    )
    return encoded.hidden


def score_alone(loaded: Loaded, record: Record) -> float:
    targets = tf.constant(record.word_ids[np.newaxis, 1:], tf.int32)
    hidden = read_alone(loaded, record)[:, :-1]
    return float(tf.reduce_sum(word_log_likelihoods(loaded.model, hidden, targets)))


def assert_adds_up(part: Json, words: int) -> None:
    assert part["words"] == words
    for parts in (list(part["slices"].values()), part["documents"]):
        assert sum(one["words"] for one in parts) == words
        for name in ("log_likelihood", "spelling_log_likelihood"):
            assert sum(one[name] for one in parts) == pytest.approx(part[name], rel=1e-9)
    total = sum(one["unigram_log_likelihood"] for one in part["slices"].values())
    assert total == pytest.approx(part["unigram_log_likelihood"], rel=1e-9)
    assert part["perplexity"] == pytest.approx(math.exp(-part["log_likelihood"] / words))
    bits = -(part["log_likelihood"] + part["spelling_log_likelihood"]) / math.log(2)
    bits /= part["text_characters"]
    paid = {name: one["spelling_log_likelihood"] for name, one in part["slices"].items()}
    unknown = pytest.approx(part["spelling_log_likelihood"], rel=1e-9)
    assert paid == {**dict.fromkeys(SLICES, 0.0), "unknown": unknown}
    assert part["bits_per_character"] == pytest.approx(bits)
    assert part["slices"]["unknown"]["words"] == part["unknown_words"]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_slices_and_documents_add_up(report: Json, dataset: Dataset, split: str) -> None:
    part = report["splits"][split]
    info = dataset.info["splits"][split]
    assert_adds_up(part, info["words"])
    assert part["words"] == sum(record.words for record in records_of(dataset, split)) > 800
    assert part["unknown_words"] == info["unknown_words"] > 0
    assert part["text_characters"] == info["text_characters"] > info["characters"]
    assert part["characters_estimated"] is False
    assert list(part["slices"]) == list(SLICES)
    assert all(one["words"] for one in part["slices"].values())


@pytest.mark.parametrize("split", ["valid", "test"])
def test_documents_are_scored_alone(
    report: Json, dataset: Dataset, loaded: Loaded, split: str
) -> None:
    records = records_of(dataset, split)
    documents = report["splits"][split]["documents"]
    assert len(documents) == len(records)
    for document, record in zip(documents, records, strict=True):
        assert document["source"] == record.source
        assert document["words"] == record.words
        assert document["log_likelihood"] == pytest.approx(score_alone(loaded, record), rel=1e-5)


def test_unigram_baseline_by_hand(report: Json, dataset: Dataset, tiny_records: str) -> None:
    lines = (Path(tiny_records) / "vocab.txt").read_text(encoding="utf-8").splitlines()
    counts = [int(line.split("\t")[1]) for line in lines]
    total = sum(counts) + len(counts)
    targets = [word for record in records_of(dataset, "test") for word in record.word_ids[1:]]
    expected = sum(math.log((counts[word] + 1) / total) for word in targets)
    test, baseline = report["splits"]["test"], report["baseline"]["unigram"]
    assert test["unigram_log_likelihood"] == pytest.approx(expected, rel=1e-9)
    assert baseline["log_likelihood"] == test["unigram_log_likelihood"]
    assert baseline["words"] == len(targets)
    assert baseline["perplexity"] == pytest.approx(math.exp(-expected / len(targets)))


def test_slices_by_hand(report: Json, dataset: Dataset) -> None:
    found = dict.fromkeys(SLICES, 0)
    for record in records_of(dataset, "test"):
        for word in record.word_ids[1:]:
            count = dataset.vocab.counts[word]
            name = "1-5" if count <= 5 else "6-100" if count <= 100 else ">100"
            found["unknown" if word == UNK_ID else name] += 1
    slices = report["splits"]["test"]["slices"]
    assert {name: one["words"] for name, one in slices.items()} == found


def test_limits_of_the_slices() -> None:
    counts = (500, 3, 0, 101, 100, 6, 5, 1)
    vocab = Vocabulary(words=tuple("abcdefgh"), counts=counts)
    names = [SLICES[index] for index in slice_of_word(vocab)]
    assert names == [">100", "unknown", "1-5", ">100", "6-100", "6-100", "1-5", "1-5"]


@pytest.mark.parametrize(("lanes", "window"), [(1, 200), (3, 5), (50, 7)])
def test_result_does_not_depend_on_lanes_and_window(
    report: Json, loaded: Loaded, dataset: Dataset, lanes: int, window: int
) -> None:
    settings = [f"train.lanes={lanes}", f"train.window={window}"]
    other = loaded._replace(config=with_overrides(loaded.config, settings))
    assert other.config.train != loaded.config.train
    unknown = UnknownSpellings(read_spelling(loaded.checkpoint), dataset.vocab)
    scored = score_split(other, dataset, "test", unknown=unknown)
    expected, part = report["splits"]["test"], describe_split(*scored, dataset.vocab)
    assert_adds_up(part, expected["words"])
    assert part["log_likelihood"] == pytest.approx(expected["log_likelihood"], rel=1e-5)
    for one, two in zip(part["documents"], expected["documents"], strict=True):
        assert one == two | {"log_likelihood": pytest.approx(two["log_likelihood"], rel=1e-5)}
    for name, one in part["slices"].items():
        two = expected["slices"][name]["log_likelihood"]
        assert one["log_likelihood"] == pytest.approx(two, rel=1e-5)


def test_training_validates_as_evaluation_does(report: Json, loaded: Loaded) -> None:
    meta, valid = loaded.checkpoint.meta, report["splits"]["valid"]
    assert meta["valid_words"] == valid["words"]
    assert meta["valid_log_likelihood"] == pytest.approx(valid["log_likelihood"], rel=1e-5)


def test_model_is_the_checkpoint(loaded: Loaded, tiny_training: str) -> None:
    for weight in loaded.model.weights:
        expected = loaded.checkpoint.arrays[f"model/{weight.path}"]
        np.testing.assert_array_equal(weight.numpy(), expected, err_msg=weight.path)
    text = (Path(tiny_training) / "config.json").read_text(encoding="utf-8")
    assert json.loads(text) == loaded.checkpoint.meta["config"]
    assert loaded.config.train.steps == 200


def test_what_the_report_says(
    report: Json, loaded: Loaded, dataset: Dataset, tiny_training: str
) -> None:
    assert report["format_version"] == 4
    assert report["champion"] is None
    assert report["reference"] is None
    assert report["config"] == loaded.checkpoint.meta["config"]
    assert report["dataset"] == {
        "path": os.path.abspath(dataset.path),
        "digest": dataset.digest,
        "train_words": dataset.info["splits"]["train"]["words"],
        "vocab_size": len(dataset.vocab),
        "vocab_digest": dataset.vocab.digest,
    }
    assert report["checkpoint"] == {
        "step": loaded.checkpoint.step,
        "digest": loaded.checkpoint.digest,
        "path": loaded.checkpoint.path,
    }
    assert report["parameters"] == sum(
        array.size for name, array in loaded.checkpoint.arrays.items() if name.startswith("model/")
    )
    curves = report["curves"]
    assert [point["step"] for point in curves["train"]] == list(range(10, 201, 10))
    assert [point["step"] for point in curves["valid"]] == [50, 100, 150, 200]
    best = report["splits"]["valid"]["perplexity"]
    assert min(point["perplexity"] for point in curves["valid"]) == pytest.approx(best, rel=1e-5)
    assert curves["workers"] == 1
    assert json.loads(json.dumps(report)) == report
    assert report["splits"]["test"]["perplexity"] < report["baseline"]["unigram"]["perplexity"]


def test_samples(report: Json, loaded: Loaded, dataset: Dataset) -> None:
    samples, records = report["samples"], records_of(dataset, "test")
    assert len(samples) == 8
    chosen = [0, 1, 3, 5, 6, 8, 10, 12]  # spread over 13 records
    assert len(records) == 13
    for sample, record in zip(samples, [records[index] for index in chosen], strict=True):
        words = [word.decode() for word in record.spelled_words()]
        assert sample["context"] == " ".join(words[:13]).strip()  # word 0 may be the start, ""
        assert sample["truth"] == words[13]
        logits = loaded.model.logits(read_alone(loaded, record)[:, 12])
        probabilities = tf.nn.softmax(logits)[0].numpy()
        probabilities[[UNK_ID, BOS_ID]] = 0.0
        best = np.argsort(-probabilities)[:5]
        assert [one["word"] for one in sample["next"]] == [dataset.vocab.words[i] for i in best]
        values = [one["probability"] for one in sample["next"]]
        assert values == pytest.approx(probabilities[best], rel=1e-4)


def test_samples_of_short_records(loaded: Loaded, dataset: Dataset) -> None:
    words = [word.decode() for word in dataset.read("test", 0).spelled_words()]
    for count, last in ((3, 4), (10**6, len(words) - 1)):
        (sample,) = sample_next_words(loaded, dataset, count=1, words=count)
        assert sample["truth"] == words[last]
        assert sample["context"] == " ".join(words[:last]).strip()


@pytest.mark.parametrize(("size", "expected"), [(3, [0]), (4, [0, 3]), (8, [0, 3, 4, 5, 6])])
def test_a_small_vocabulary_has_fewer_likely_words(size: int, expected: list[int]) -> None:
    logits = -tf.range(size, dtype=tf.float32)[tf.newaxis]
    values, found = likeliest_words(logits, k=5)
    assert found.numpy().tolist() == [expected]
    assert values.shape == (1, len(expected))


def test_hidden_specials() -> None:
    hidden = hide_specials(tf.constant([[0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]])).numpy()
    assert hidden[:, [UNK_ID, BOS_ID]].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    np.testing.assert_allclose(hidden[:, [0, 3]], [[0.1, 0.4], [1.0, 4.0]])


def test_unfinished_training_is_refused(
    tiny_records: str, tiny_training: str, tmp_path: Path
) -> None:
    workdir = tmp_path / "workdir"
    shutil.copytree(tiny_training, workdir)
    (workdir / "COMPLETED").unlink()
    for path in (workdir, tmp_path / "missing"):
        with pytest.raises(InputError, match=rf"^{path} holds no finished training"):
            evaluate_checkpoint(records=tiny_records, workdir=str(path))
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "COMPLETED").touch()
    with pytest.raises(InputError, match="has no whole checkpoint"):
        evaluate_checkpoint(records=tiny_records, workdir=str(workdir))


def test_other_records_are_refused(tiny_training: str, unsplit_records: str) -> None:
    with Dataset.open(unsplit_records) as dataset, pytest.raises(InputError) as caught:
        load_model(tiny_training, dataset)
    assert str(caught.value) == (
        f"{tiny_training} was trained on other records than {unsplit_records}"
    )


def test_records_without_a_test_split_are_refused(tiny_training: str, unsplit_records: str) -> None:
    with pytest.raises(InputError) as caught:
        evaluate_checkpoint(records=unsplit_records, workdir=tiny_training)
    assert str(caught.value) == f"{unsplit_records} has no test split; raise data.test_fraction"


def _with_seen(training: str, dataset: Dataset, records: list[int], folder: Path) -> str:
    """Returns a copy of a training that has also seen some records of the test split."""
    workdir = str(folder / "workdir")
    shutil.copytree(training, workdir)
    seen = read_training(workdir, {}, dataset)
    for record in (dataset.read("test", index) for index in records):
        words = hash_words(record.spelled_words())
        lengths = np.asarray([record.words])
        units = cut_units(words[1:], lengths, words[:1], every_run=False)
        seen = seen.union(SeenText(units.hashes))
    seen.save(os.path.join(workdir, SEEN_FILE))
    return workdir


def test_seen_test_records_count_as_if_not_there(
    report: Json, tiny_records: str, tiny_training: str, dataset: Dataset, tmp_path: Path
) -> None:
    before = report["splits"]["test"]
    assert before["left_out"]["unknown"] is None
    assert before["left_out"]["records"] + len(before["documents"]) == len(dataset.lengths("test"))
    sources = [document["source"] for document in before["documents"]]
    chosen = [
        index
        for index in range(len(dataset.lengths("test")))
        if dataset.read("test", index).source in sources[::2]
    ]
    workdir = _with_seen(tiny_training, dataset, chosen, tmp_path)
    found = evaluate_checkpoint(records=tiny_records, workdir=workdir)
    after, bigram = found["splits"]["test"], found["baseline"]["bigram"]
    assert after["documents"] == [
        one for one in before["documents"] if one["source"] in sources[1::2]
    ]
    assert_adds_up(after, sum(one["words"] for one in after["documents"]))
    assert after["left_out"]["words"] + after["words"] == int(dataset.lengths("test").sum())
    all_sources = [dataset.read("test", at).source for at in range(len(dataset.lengths("test")))]
    mask = np.asarray([source not in sources[1::2] for source in all_sources])
    expected = BigramModel(dataset, left_out=mask).test_log_likelihood()
    assert (bigram["log_likelihood"], bigram["words"]) == (expected, after["words"])
    assert expected > report["baseline"]["bigram"]["log_likelihood"]  # of more words


def test_a_test_split_seen_whole_is_rejected(
    tiny_records: str, tiny_training: str, dataset: Dataset, tmp_path: Path
) -> None:
    every = list(range(len(dataset.lengths("test"))))
    workdir = _with_seen(tiny_training, dataset, every, tmp_path)
    out = str(tmp_path / "report")
    report = run(records=tiny_records, workdir=workdir, report=out, config=tiny())
    words = int(dataset.lengths("test").sum())
    assert report["verdict"]["status"] == "REJECTED"
    assert (
        f"only 0 test words that no model has seen ({words:,} seen ones were left out); 100 are "
        "needed (gate.min_test_words); use more or newer test text"
    ) in report["verdict"]["reasons"]
    assert report["samples"] == []
