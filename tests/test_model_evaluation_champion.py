from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.evaluate.gate import decide
from components.evaluate.judging import BETTER, WORSE
from components.evaluate.main import run as run_evaluate
from components.evaluate.report import Report
from components.preprocess.main import run as run_prepare
from components.train.main import run as run_train
from components.train.training_job import TrainingJob
from model.checkpointing.compatibility import why_not
from model.checkpointing.seen_records import save_version
from model.checkpointing.trained import load_model, save_published
from model.config import DataConfig, GateConfig, with_overrides
from model.data.records import Dataset
from model.data.seen import SEEN_FILE, SeenText, cut_units, hash_words
from model.evaluation.champion import SHOWN_WORDS, differing_words, score_champion, score_reference
from model.evaluation.evaluate import evaluate_checkpoint
from model.evaluation.report import Scored, SplitWords
from model.evaluation.slices import differences_of
from model.presets import tiny

LIMITS = GateConfig(beat=(), min_units=5, max_unknown_rate=1.0)
SETTINGS = ["train.steps=200", "train.valid_steps=50", "train.checkpoint_steps=50"]


def publish(records: str, workdir: str, folder: Path) -> str:
    """Makes of a training what a comparison reads of a version."""
    folder.mkdir(parents=True)
    with Dataset.open(records) as dataset:
        loaded = load_model(workdir, dataset)
        save_published(loaded, dataset, str(folder))
        save_version(str(folder), workdir, loaded.checkpoint.meta, dataset)
    return str(folder)


@pytest.fixture(scope="module")
def large(tiny_records: str, tiny_training: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A version with a vocabulary of all words."""
    folder = tmp_path_factory.mktemp("registry") / "lm" / "7"
    return publish(tiny_records, tiny_training, folder)


@pytest.fixture(scope="module")
def small_training(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Records and training with a vocabulary of the ten most frequent words."""
    folder = tmp_path_factory.mktemp("small")
    config = with_overrides(tiny(), ["data.vocab_size=13", *SETTINGS])
    records, workdir = str(folder / "records"), str(folder / "workdir")
    run_prepare(inputs=[str(corpus)], records=records, config=config.data)
    run_train(TrainingJob(records=records, workdir=workdir), config)
    return records, workdir


@pytest.fixture(scope="module")
def small_against_large(small_training: tuple[str, str], large: str) -> dict[str, Any]:
    records, workdir = small_training
    return evaluate_checkpoint(records=records, workdir=workdir, champion=large)


def test_a_model_beside_itself(tiny_records: str, tiny_training: str, large: str) -> None:
    report = evaluate_checkpoint(
        records=tiny_records, workdir=tiny_training, champion=large, reference=large
    )
    champion = report["champion"]
    once = dict.fromkeys(("test", "slices", "words"))
    assert report["reference"] == {**champion, **once, "is_champion": True}
    assert decide(Report.from_dict(report), limits=LIMITS).reference is not None
    assert champion["version"] == 7
    assert champion["path"] == large
    assert champion["checkpoint_digest"] == report["checkpoint"]["digest"]
    assert champion["vocab_digest"] == report["dataset"]["vocab_digest"]
    assert champion["same_vocabulary"] is True
    assert champion["refused"] is None
    for name, value in champion["test"].items():
        if name != "slices":  # those of the challenger have the unigrams, too
            assert value == report["splits"]["test"][name], name
    assert champion["words"] == {"better": [], "worse": []}
    compared = decide(Report.from_dict(report), limits=LIMITS).comparison
    assert compared is not None
    assert (compared.difference, compared.low, compared.high) == (0.0, 0.0, 0.0)


def test_a_smaller_vocabulary_lowers_the_perplexity_and_does_not_win(
    small_against_large: dict[str, Any],
) -> None:
    report = small_against_large
    ours, theirs = report["splits"]["test"], report["champion"]["test"]
    assert report["champion"]["same_vocabulary"] is False
    assert ours["words"] == theirs["words"]
    assert ours["unknown_words"] > theirs["unknown_words"]
    assert ours["perplexity"] < 0.5 * theirs["perplexity"]
    assert ours["bits_per_character"] > theirs["bits_per_character"]
    slices = report["champion"]["slices"]
    assert sum(slices["champion only"]["words"]) > sum(slices["challenger only"]["words"]) == 0
    verdict = decide(Report.from_dict(report), limits=LIMITS)
    assert not verdict.passed
    assert verdict.comparison is not None
    assert verdict.comparison.relation == WORSE
    assert verdict.reasons[0].startswith("worse than the champion: perplexity +")


def test_the_other_way_round_it_wins(
    small_training: tuple[str, str], tiny_records: str, tiny_training: str, tmp_path: Path
) -> None:
    small = publish(*small_training, tmp_path / "lm" / "1")
    report = evaluate_checkpoint(records=tiny_records, workdir=tiny_training, champion=small)
    compared = decide(Report.from_dict(report), limits=LIMITS).comparison
    assert compared is not None
    assert compared.relation == BETTER


def test_a_champion_scores_the_same_on_records_of_another_vocabulary(
    small_against_large: dict[str, Any], tiny_records: str, tiny_training: str
) -> None:
    report = evaluate_checkpoint(records=tiny_records, workdir=tiny_training)
    alone, beside = report["splits"]["test"], small_against_large["champion"]["test"]
    for name in ("words", "log_likelihood", "spelling_log_likelihood", "bits_per_character"):
        assert beside[name] == pytest.approx(alone[name], rel=1e-6), name
    np.testing.assert_allclose(
        [one["log_likelihood"] for one in beside["documents"]],
        [one["log_likelihood"] for one in alone["documents"]],
        rtol=1e-6,
    )


@pytest.mark.parametrize("side", ["champion", "reference"])
def test_what_a_version_has_seen_is_left_out_for_both(
    side: str, tiny_records: str, tiny_training: str, large: str, tmp_path: Path
) -> None:
    version = str(tmp_path / "lm" / "8")
    shutil.copytree(large, version)
    own, theirs = os.path.join(tiny_training, SEEN_FILE), os.path.join(version, SEEN_FILE)
    assert Path(own).read_bytes() == Path(theirs).read_bytes()
    before = evaluate_checkpoint(records=tiny_records, workdir=tiny_training)["splits"]["test"]
    source = before["documents"][0]["source"]
    with Dataset.open(tiny_records) as dataset:
        records = [dataset.read("test", at) for at in range(len(dataset.lengths("test")))]
    (record,) = (record for record in records if record.source == source)
    words = hash_words(record.spelled_words())
    units = cut_units(words[1:], np.asarray([record.words]), words[:1], every_run=False)
    SeenText.load(theirs).union(SeenText(units.hashes)).save(theirs)
    report = evaluate_checkpoint(
        records=tiny_records,
        workdir=tiny_training,
        champion=version if side == "champion" else large,
        reference=version if side == "reference" else "",
    )
    ours, beside = report["splits"]["test"], report[side]["test"]
    assert ours["documents"] == before["documents"][1:]
    assert ours["left_out"]["by"][side] == ours["left_out"]["by"]["challenger"] + 1
    assert beside["words"] == ours["words"] == before["words"] - record.words
    assert [one["source"] for one in beside["documents"]] == [
        one["source"] for one in ours["documents"]
    ]


def test_a_champion_of_which_is_not_known_what_it_has_seen_is_refused(
    small_training: tuple[str, str], large: str, tmp_path: Path
) -> None:
    records, workdir = small_training
    version = str(tmp_path / "lm" / "7")
    shutil.copytree(large, version, ignore=shutil.ignore_patterns(SEEN_FILE))
    report = evaluate_checkpoint(records=records, workdir=workdir, champion=version)
    refused = report["champion"]["refused"]
    assert refused.startswith(f"what {version} has seen is unknown: it was published by an older")
    assert report["champion"]["test"] is None
    reasons = decide(Report.from_dict(report), limits=GateConfig(beat=())).reasons
    assert f"the champion can't be compared: {refused}" in reasons


def test_report_of_a_run_with_a_champion(
    tiny_records: str, tiny_training: str, large: str, tmp_path: Path
) -> None:
    config = with_overrides(tiny(), ["gate.require_improvement=true", "gate.min_units=5"])
    report = run_evaluate(
        records=tiny_records,
        workdir=tiny_training,
        report=str(tmp_path / "report"),
        config=config,
        champion=large,
    )
    assert report["verdict"]["status"] == "REJECTED"
    assert report["verdict"]["reasons"] == [
        "not significantly better than the champion (gate.require_improvement): perplexity +0.00% (95% interval "
        "+0.00% to +0.00%, over 9 files)"
    ]
    assert report["verdict"]["comparison"]["relation"] == "not worse"
    assert report["gate"]["require_improvement"] is True
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report


def test_a_champion_that_is_not_whole_is_refused(tiny_records: str, tmp_path: Path) -> None:
    version = tmp_path / "lm" / "2"
    version.mkdir(parents=True)
    (version / "saved_model.pb").touch()
    with Dataset.open(tiny_records) as dataset:
        found = score_champion(str(version), dataset, None)  # type: ignore[arg-type]
    assert found["refused"] == (
        f"{version} was published by an older charloom (no checkpoint); "
        "train and publish a new model"
    )
    assert (found["version"], found["path"], found["test"]) == (2, str(version), None)


def test_a_reference_that_is_gone_is_refused(tiny_records: str, tmp_path: Path) -> None:
    with Dataset.open(tiny_records) as dataset:
        found = score_reference(
            str(tmp_path / "lm" / "1"),
            dataset,
            None,  # type: ignore[arg-type]
            champion={"path": str(tmp_path / "lm" / "2")},
        )
    assert (found["version"], found["is_champion"], found["test"]) == (1, False, None)
    assert str(tmp_path / "lm" / "1") in found["refused"]


def test_models_that_split_text_in_other_ways_are_not_compared() -> None:
    words, marks = DataConfig(), DataConfig(sentence_marks=False)
    assert why_not(words, DataConfig(vocab_size=99, min_count=7)) is None
    assert why_not(words, marks) == (
        "it splits text differently (data.sentence_marks is True, here False); "
        "publish under another --name"
    )
    for field, value in (("tokenizer", "whitespace"), ("lowercase", True)):
        assert why_not(words, DataConfig(**{field: value})) is not None


def test_words_that_differ_most() -> None:
    words = SplitWords(
        numbers=np.array([3, 4, 3, 5, 4], np.int32),
        lengths=np.array([5]),
        sources=("a",),
        spellings=(b"<unk>", b"", b"\n", b"<b>", b"two", b"new"),
        slices=np.zeros(6, np.int64),
        characters=np.array([20]),
        characters_estimated=False,
    )
    nothing = np.zeros(6)
    unknown = np.zeros(6, np.bool_)
    ours = Scored(np.array([-1, -2, -1, -3, -2], np.float32), unknown, nothing)
    theirs = Scored(
        np.array([-2, -1, -2, -3, -1], np.float32), unknown, np.array([0, 0, 0, 0, 0, -5.0])
    )
    better, worse = (
        {"word": "<b>", "count": 2, "difference": 2.0},
        {"word": "two", "count": 2, "difference": -2.0},
    )
    without, spelled = (
        differences_of(ours, theirs, words, spelled=spelled) for spelled in (False, True)
    )
    assert differing_words(words, without) == {
        "better": [better],
        "worse": [worse],
    }
    assert differing_words(words, spelled) == {
        "better": [{"word": "new", "count": 1, "difference": 5.0}, better],
        "worse": [worse],
    }
    assert SHOWN_WORDS == 20
