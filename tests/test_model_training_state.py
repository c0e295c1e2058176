"""What a checkpoint hands on besides arrays; with stand-ins in place of a model."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tensorflow as tf

from model.baselines.byte_ngram import KEYS
from model.checkpointing.checkpoints import (
    Checkpoint,
    list_checkpoints,
    read_checkpoint,
    step_of,
)
from model.checkpointing.retention import WholeCheck
from model.config import with_overrides
from model.presets import tiny
from model.training import state
from model.training.metrics_log import RunLog
from model.training.reporter import Reporter
from model.training.state import Outlook, Training, restore, save

WATCHED = {"loss": 12.5, "words": 30, "high_since": 5, "fine": 3}


class Average:
    """The mean of some sets of weights."""

    def __init__(self) -> None:
        self.count, self.cleared = 0, False

    def clear(self) -> None:
        self.cleared = True


def make_training(monkeypatch: pytest.MonkeyPatch, *settings: str, **values: Any) -> Training:
    """Returns a training without a model, that can be saved and restored."""
    monkeypatch.setattr(state, "collect", lambda _: {"state": np.zeros(1, np.float32)})
    monkeypatch.setattr(state, "_named_variables", lambda _: {})
    monkeypatch.setattr(state, "_check_model", lambda *_: None)
    monkeypatch.setattr(state, "check_spelling", lambda _: None)
    monkeypatch.setattr(state, "deal_state", lambda _, value: value)
    vocab = SimpleNamespace(counts=[50, 30, 0, 19])
    fields: dict[str, Any] = {
        "config": with_overrides(tiny(), ["train.steps=60", "train.valid_steps=20", *settings]),
        "cluster": SimpleNamespace(is_chief=True, size=1),
        "dataset": SimpleNamespace(digest="d", path="records", vocab=vocab),
        "spelling": dict.fromkeys(KEYS, np.zeros(1, np.float32)),
        "step": 0,
        "scores": {},
        "history": [],
        "average": None,
        "valid": None,
        "warm_start": None,
        "unreported": ([], []),
        "loss_watch": {},
        "is_rebased": False,
        "is_whole": WholeCheck(),
    }
    return cast(Training, SimpleNamespace(**{**fields, **values}))


def newest(workdir: Path) -> Checkpoint:
    return read_checkpoint(list_checkpoints(str(workdir))[0])


def test_the_newest_good_checkpoint_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    training = make_training(monkeypatch, "train.keep_checkpoints=2")
    for step, good in ((1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2)):
        training.step = step
        outlook = Outlook(losses=[], words=[], loss_watch=WATCHED, good_step=good)
        save(training, str(tmp_path), outlook=outlook)
    assert [step_of(path) for path in list_checkpoints(str(tmp_path))] == [6, 5, 2]


def test_the_watch_over_losses_goes_on_after_a_restart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    training = make_training(monkeypatch, step=7)
    outlook = Outlook(losses=[4.0], words=[9.0], loss_watch=WATCHED, good_step=3)
    save(training, str(tmp_path), outlook=outlook)
    assert newest(tmp_path).meta["loss_watch"] == WATCHED
    after = make_training(monkeypatch)
    restore(after, newest(tmp_path))
    assert (after.step, after.loss_watch) == (7, WATCHED)
    watch = Reporter(after, str(tmp_path), run_log=cast(RunLog, None))
    assert watch.check() == outlook


@pytest.mark.parametrize(
    ("steps", "line", "averaged"),
    [
        (60, "", 3),
        (
            120,
            "step 60: train.steps was 60 and is now 120; the average of the weights of steps 40 to 60 is "
            "dropped and restarts after step 60; 1 validation scores no longer count",
            0,
        ),
    ],
)
def test_a_longer_training_says_what_it_drops(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    steps: int,
    line: str,
    averaged: int,
) -> None:
    settings = ["train.average_last=0.5", "train.schedule=plateau"]
    scores = {20: -5.0, 40: -4.0, 60: -3.0}
    before = make_training(
        monkeypatch, *settings, step=60, scores=scores, history=list(scores.values())
    )
    before.average = cast(Any, SimpleNamespace(count=3))
    outlook = Outlook(losses=[], words=[], loss_watch=WATCHED, good_step=59)
    save(before, str(tmp_path), outlook=outlook)
    average = Average()
    after = make_training(monkeypatch, *settings, f"train.steps={steps}", average=average)
    with caplog.at_level(logging.WARNING):
        restore(after, newest(tmp_path))
    assert caplog.messages == ([line] if line else [])
    assert average.count == averaged
    # Else the checkpoint of the shorter training would be replaced by one without its mean.
    assert after.is_rebased == average.cleared == (averaged == 0)
    assert sorted(after.scores) == ([20, 40] if line else [20, 40, 60])


@pytest.mark.parametrize("is_chief", [True, False])
def test_only_the_chief_has_arrays_and_copies_none(
    is_chief: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Weights:
        """A variable."""

        dtype, shape, reads = tf.float32, (2, 3), 0

        def numpy(self) -> Any:
            self.reads += 1
            return np.ones(self.shape, np.float32)

    gathered: list[str] = []

    def gather(state: str) -> tf.Tensor:
        gathered.append(state)
        return tf.zeros(4)

    weights = Weights()
    monkeypatch.setattr(state, "_named_variables", lambda _: {"model/a": weights})
    training = SimpleNamespace(
        state="lanes",
        steps=SimpleNamespace(gather_state=gather),
        cluster=SimpleNamespace(is_chief=is_chief),
    )
    arrays = state.collect(cast(Training, training))
    assert gathered == ["lanes"]  # a collective: by everyone
    assert weights.reads == 0
    assert list(arrays) == (["model/a", "state"] if is_chief else [])
    if is_chief:
        assert (arrays["model/a"].nbytes, arrays["model/a"].dtype) == (24, np.float32)
        assert np.asarray(arrays["model/a"]).tolist() == [[1.0] * 3] * 2
        assert weights.reads == 1
