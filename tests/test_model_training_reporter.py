"""Trainings that are watched, as they go well and as they break."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.train.main import run
from components.train.training_job import TrainingJob
from model.checkpointing.checkpoints import list_checkpoints, read_checkpoint
from model.config import Config, with_overrides
from model.data.records import Dataset
from model.distributed.cluster import Cluster
from model.errors import CharloomError, InputError
from model.metrics import read_metrics
from model.presets import tiny
from model.text.vocab import UNK_ID
from model.training.config_checks import check_config
from model.training.divergence import read_batch
from model.training.profiler import ProfileSteps
from model.training.reporter import Reporter, count_words
from model.training.train import train_and_evaluate

pytestmark = pytest.mark.slow
SETTINGS = ["train.steps=12", "train.log_steps=4", "train.valid_steps=4"]


def here(records: str, workdir: Path, config: Config, **arguments: ProfileSteps) -> None:
    """Trains in this process, as the only worker."""
    workdir.mkdir(exist_ok=True)
    cluster = Cluster(rank=0, size=1, strategy=tf.distribute.OneDeviceStrategy("/cpu:0"))
    with Dataset.open(records) as dataset:
        train_and_evaluate(
            check_config(config, dataset),
            dataset=dataset,
            workdir=str(workdir),
            cluster=cluster,
            **arguments,
        )


def test_unknown_words_are_counted(tiny_records: str) -> None:
    batch, _ = read_batch(tiny(), records=tiny_records, step=1)
    word_ids, weights = batch.word_ids.copy(), batch.weights.copy()
    word_ids[0, :3] = word_ids[2, 5] = UNK_ID
    weights[0, 1:3] = weights[3, 7] = 0.0
    changed = dataclasses.replace(batch, word_ids=word_ids, weights=weights)
    assert count_words([batch]) == (32, 0)
    assert count_words([changed, batch]) == (29 + 32, 2)


def test_results_that_wait_for_a_report_hold_no_lane_states(
    tiny_records: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were `log_steps` times the state of all lanes."""
    held: list[object] = []
    report = Reporter.report

    def look(reporter: Reporter, *, rate: float) -> None:
        held.extend(result.state for result in reporter._results)
        report(reporter, rate=rate)

    monkeypatch.setattr(Reporter, "report", look)
    here(tiny_records, tmp_path / "workdir", with_overrides(tiny(), SETTINGS))
    assert held == [None] * 12


def test_watching_changes_nothing(
    tiny_records: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_overrides(tiny(), SETTINGS)
    here(tiny_records, tmp_path / "seen", config, profile=ProfileSteps(5, 7))
    monkeypatch.setattr("model.training.reporter.Reporter.show_samples", lambda self: None)
    monkeypatch.setattr("model.training.reporter.Reporter.finish", lambda self, **_: None)
    here(tiny_records, tmp_path / "unseen", config)
    ours, theirs = (
        [Path(path, "arrays.npz").read_bytes() for path in list_checkpoints(str(tmp_path / name))]
        for name in ("seen", "unseen")
    )
    assert len(ours) == 3
    assert ours == theirs
    (trace,) = tmp_path.glob("seen/tensorboard/plugins/profile/*/*.xplane.pb")
    assert trace.stat().st_size > 1000


def test_what_the_rows_say(tiny_records: str, tmp_path: Path) -> None:
    config = with_overrides(tiny(), [*SETTINGS, "train.log_steps=5"])
    here(tiny_records, tmp_path, config)
    rows = [row for row in read_metrics(str(tmp_path)) if "loss" in row]
    assert [row["step"] for row in rows] == [5, 10, 12]
    batches = [read_batch(config, records=tiny_records, step=step)[0] for step in range(1, 13)]
    for row, first, last in zip(rows, (0, 5, 10), (5, 10, 12), strict=True):
        chosen = batches[first:last]
        assert row["read_words"] == 32 * len(chosen)
        assert row["unknown_words"] == 0  # the vocabulary has every word of the training split
        assert row["gradient_norm"] > 0
        assert row["step_seconds"] > 0
        assert row["waiting_seconds"] >= 0
        assert row["step_seconds"] + row["waiting_seconds"] <= row["seconds"]


def test_a_diverging_training_of_two_workers(tiny_records: str, tmp_path: Path) -> None:
    workdir = tmp_path / "workdir"
    config = with_overrides(tiny(), ["train.learning_rate=10", "train.log_steps=4"])
    with pytest.raises(CharloomError) as caught:
        run(TrainingJob(records=tiny_records, workdir=str(workdir), workers=2), config)
    assert caught.value.exit_code == 1
    # Steps 1 to 5 are warm-up; 6 to 8 and 9 to 12 are two intervals.
    (folder,) = (workdir / "broken").iterdir()
    step = int(folder.name.removeprefix("step-"))
    message = str(caught.value)
    assert message.startswith(f"the loss diverges from step {step} on: at step 12 it is ")
    assert 5 <= step <= 8
    assert message.endswith(
        f"; the state is saved in {folder}; lower train.learning_rate and use another --workdir"
    )
    batch, sources = read_batch(config, records=tiny_records, step=step)
    assert f"that step's batch comes from {sources[0]['source']}, " in message
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert (meta["step"], meta["state_step"], meta["checkpoint_before"]) == (step, 12, None)
    assert meta["sources"] == sources
    assert list(meta["losses"]) == ["9", "10", "11", "12"]
    with np.load(folder / "batch.npz") as saved:
        np.testing.assert_array_equal(saved["word_ids"], batch.word_ids)
    with np.load(folder / "arrays.npz") as saved:
        assert saved["state"].shape == (4, 1, 2, 24)
        assert {name.split("/")[0] for name in saved} == {"model", "adam", "state"}
        assert np.abs(saved["model/joint_model/output_bias"]).max() > 10
    assert not (workdir / "checkpoints").exists()
    assert not (workdir / "COMPLETED").exists()


def test_a_diverging_training_leaves_its_newest_good_checkpoint(
    tiny_records: str, tmp_path: Path
) -> None:
    """And judges over a restart as if there had been none."""
    settings = ["train.log_steps=8", "train.checkpoint_steps=1", "train.keep_checkpoints=2"]
    here(tiny_records, tmp_path, with_overrides(tiny(), [*settings, "train.steps=12"]))
    config = with_overrides(tiny(), [*settings, "train.learning_rate=10"])
    with pytest.raises(CharloomError) as caught:
        here(tiny_records, tmp_path, config)
    message = str(caught.value)
    assert " on: at step 24 it is " in message  # the intervals are 13 to 16 and 17 to 24
    (folder,) = (tmp_path / "broken").iterdir()
    first_bad = int(folder.name.removeprefix("step-"))
    assert 14 <= first_bad <= 16
    newest, *_ = list_checkpoints(str(tmp_path))
    assert read_checkpoint(newest).step == first_bad - 2
    aside = sorted(path.name for path in (tmp_path / "checkpoints").glob("diverged-*"))
    assert aside == ["diverged-step-00000022", "diverged-step-00000023"]
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert meta["checkpoint_before"] == newest
    assert [Path(path).name for path in meta["set_aside"]] == aside[::-1]

    # Killed after step 22, between the two high intervals.
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "diverged-step-00000022").rename(checkpoints / "step-00000022")
    with pytest.raises(CharloomError) as caught:
        here(tiny_records, tmp_path, config)
    assert str(caught.value) == message
    assert list_checkpoints(str(tmp_path))[0] == newest
    with pytest.raises(CharloomError) as caught:  # from the newest good one on
        here(tiny_records, tmp_path, config)
    assert str(caught.value) == message
    assert list_checkpoints(str(tmp_path))[0] == newest


def test_a_state_that_can_not_be_saved(tiny_records: str, tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("a file in the way", encoding="utf-8")
    config = with_overrides(tiny(), ["train.learning_rate=10", "train.log_steps=4"])
    with pytest.raises(CharloomError, match=r"; the state can't be saved in \S+ \("):
        here(tiny_records, tmp_path, config)


def test_a_profile_that_traces_nothing(tiny_training: str, tiny_records: str) -> None:
    settings = ["train.steps=200", "train.valid_steps=50", "train.checkpoint_steps=50"]
    with pytest.raises(InputError, match=r"^--profile 10:20 traces nothing: .* from step 200 to"):
        run(
            TrainingJob(records=tiny_records, workdir=tiny_training, profile=ProfileSteps(10, 20)),
            with_overrides(tiny(), settings),
        )
