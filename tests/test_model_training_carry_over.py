from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from model.checkpointing.checkpoints import list_checkpoints, read_checkpoint
from model.config import Config, TrainConfig, to_json, with_overrides
from model.data.records import Dataset
from model.distributed.cluster import Cluster
from model.metrics import read_metrics
from model.presets import tiny
from model.training.carry_over import Carried, carry_over, is_due
from model.training.config_checks import FREE_FIELDS, check_config
from model.training.train import train_and_evaluate


def make_meta(
    config: TrainConfig, *, step: int, averaged: int = 0, scores: Any = (), **more: Any
) -> dict[str, Any]:
    """Returns the meta.json of a checkpoint; scores by step."""
    scores = dict(scores)
    return {
        "step": step,
        "averaged": averaged,
        "history": list(scores.values()),
        "history_steps": list(scores),
        "config": json.loads(to_json(Config(train=config))),
        **more,
    }


def config_of(**fields: Any) -> TrainConfig:
    return TrainConfig(**{"steps": 60, "valid_steps": 20, "schedule": "plateau", **fields})


SCORES = {20: -5.0, 40: -4.0, 60: -3.0}


def test_without_a_change_all_is_kept() -> None:
    for share, averaged in ((0.0, 0), (0.5, 3), (1.0, 6)):
        config = config_of(average_last=share)
        meta = make_meta(config, step=60, averaged=averaged, scores=SCORES)
        assert carry_over(meta, config) == Carried(averaged, SCORES, [])


def test_the_mean_of_a_shorter_training_is_dropped() -> None:
    config = config_of(average_last=0.5)
    meta = make_meta(config, step=60, averaged=3, scores=SCORES)  # the mean of 40, 50, 60
    assert carry_over(meta, config_of(average_last=0.5, steps=120)) == Carried(
        0,
        {20: -5.0, 40: -4.0},
        [
            "train.steps was 60 and is now 120",
            "the average of the weights of steps 40 to 60 is dropped and restarts after step 60",
            "1 validation scores no longer count",
        ],
    )
    # 70 steps average from 35 on: all three are in it.
    assert carry_over(meta, config_of(average_last=0.5, steps=70)).averaged == 3
    # 80 from 40 on, so 40 is not; the others can't be taken apart from it.
    found = carry_over(meta, config_of(average_last=0.5, steps=80))
    assert found.averaged == 0
    assert found.notes[1].endswith("of steps 40 to 60 is dropped and restarts here")


def test_a_mean_that_was_carried_too_far_is_dropped() -> None:
    """As an older charloom did: 40, 50, 60 and then 100 and 110."""
    config = config_of(average_last=0.5, steps=180)
    assert carry_over(make_meta(config, step=110, averaged=5), config).averaged == 0


def test_fewer_steps_go_on_with_what_there_is_of_the_mean() -> None:
    config = config_of(average_last=0.25, steps=80)
    meta = make_meta(config, step=70, averaged=1)
    assert carry_over(meta, config_of(average_last=0.25, steps=72)) == Carried(
        1,
        {},
        [
            "train.steps was 80 and is now 72",
            "the average of the weights continues from steps 70 to 70 only",
        ],
    )


def test_scores_count_where_they_are_due() -> None:
    config = config_of(steps=50)
    meta = make_meta(config, step=50, scores={20: -5.0, 40: -4.0, 50: -3.0})
    assert carry_over(meta, config_of(steps=70)) == Carried(
        0,
        {20: -5.0, 40: -4.0},
        ["train.steps was 50 and is now 70", "1 validation scores no longer count"],
    )
    wider = carry_over(meta, config_of(steps=50, valid_steps=40))
    assert wider == Carried(0, {40: -4.0, 50: -3.0}, ["1 validation scores no longer count"])
    assert carry_over(meta, config_of(steps=50, valid_steps=10)).scores == dict(
        zip(meta["history_steps"], meta["history"], strict=True)
    )


def test_the_cosine_s_end_is_said() -> None:
    config = config_of(schedule="cosine")
    meta = make_meta(config, step=40, scores={20: -5.0, 40: -4.0})
    assert carry_over(meta, config_of(schedule="cosine", steps=90)).notes == [
        "train.steps was 60 and is now 90",
        "the learning rate now decays until step 90",
    ]
    assert carry_over(meta, config).notes == []


def test_what_changes_no_state() -> None:
    config = config_of(average_last=0.5)
    meta = make_meta(config, step=40, averaged=1, scores={20: -5.0, 40: -4.0})
    expected = carry_over(meta, config)
    others = {"log_steps": 3, "checkpoint_steps": 7, "keep_checkpoints": 9}
    assert set(FREE_FIELDS) == {"steps", "valid_steps", *others}
    for name, value in others.items():
        assert carry_over(meta, config_of(average_last=0.5, **{name: value})) == expected


def test_steps_of_scores_that_an_older_charloom_did_not_note() -> None:
    config = config_of(steps=50)
    for step, scores in (
        (50, {20: -5.0, 40: -4.0, 50: -3.0}),
        (45, {20: -5.0, 40: -4.0}),
        (40, {20: -5.0}),  # stopped in the pass of 40
        (10, {}),
    ):
        meta = make_meta(config, step=step, scores=scores)
        del meta["history_steps"]
        assert carry_over(meta, config) == Carried(0, scores, [])
    meta = make_meta(config, step=50, scores=dict.fromkeys(range(10, 60, 10), -1.0))
    del meta["history_steps"]
    assert carry_over(meta, config) == Carried(0, {}, ["5 validation scores no longer count"])


def test_due_steps() -> None:
    config = config_of(steps=50)
    assert [step for step in range(1, 51) if is_due(config, step)] == [20, 40, 50]


def here(records: str, workdir: Path, *settings: str) -> dict[str, Any]:
    """Trains in this process, as the only worker."""
    workdir.mkdir(exist_ok=True)
    cluster = Cluster(rank=0, size=1, strategy=tf.distribute.OneDeviceStrategy("/cpu:0"))
    with Dataset.open(records) as dataset:
        return train_and_evaluate(
            check_config(with_overrides(tiny(), settings), dataset),
            dataset=dataset,
            workdir=str(workdir),
            cluster=cluster,
        )


@pytest.mark.slow
def test_a_longer_training_is_the_one_that_was_that_long_from_the_start(
    tiny_records: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ["train.average_last=0.5", "train.schedule=plateau", "train.patience=3"]
    settings += ["train.valid_steps=20", "train.checkpoint_steps=20", "train.learning_rate=0.1"]
    long, parts = tmp_path / "long", tmp_path / "parts"
    here(tiny_records, long, *settings, "train.steps=80")
    here(tiny_records, parts, *settings, "train.steps=40")
    short = read_checkpoint(list_checkpoints(str(parts))[0])
    assert short.meta["averaged"] == 2  # 30 and 40
    with caplog.at_level(logging.WARNING):
        here(tiny_records, parts, *settings, "train.steps=80")
    assert [text for text in caplog.messages if text.startswith("step 40: ")] == [
        "step 40: train.steps was 40 and is now 80; the average of the weights of steps 30 to 40 is "
        "dropped and restarts after step 40; 1 validation scores no longer count"
    ]
    ours, theirs = (
        [read_checkpoint(path) for path in list_checkpoints(str(workdir))[:2]]
        for workdir in (parts, long)
    )
    assert [one.step for one in ours] == [80, 60]
    for one, other in zip(ours, theirs, strict=True):
        assert one.digest == other.digest
        assert one.meta == other.meta
    assert ours[0].meta["averaged"] == 4
    mine, other = (
        [
            {name: row[name] for name in ("step", "loss", "valid_log_likelihood") if name in row}
            for row in read_metrics(str(workdir))
        ]
        for workdir in (parts, long)
    )
    assert mine == other
    # The checkpoint of the shorter training is as it was, its score too.
    kept = {one.step: one for one in map(read_checkpoint, list_checkpoints(str(parts)))}
    assert (kept[40].digest, kept[40].meta) == (short.digest, short.meta)
