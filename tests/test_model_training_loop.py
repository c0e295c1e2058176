from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from model.config import TrainConfig
from model.training.loop import TrainLoop, count_setbacks, is_settled


@pytest.mark.parametrize(
    ("history", "setbacks"),
    [
        ([], 0),
        ([-5.0], 0),
        ([-5.0, -4.0, -3.0], 0),
        ([-5.0, -5.0], 1),  # no gain is a setback too
        ([-5.0, -6.0, -5.5], 2),  # better than the last, but not than the best
        ([-5.0, -6.0, -4.0, -4.5, -3.0], 2),
    ],
)
def test_setbacks_are_counted(history: list[float], setbacks: int) -> None:
    assert count_setbacks(history) == setbacks


@pytest.mark.parametrize(
    ("patience", "history", "settled"),
    [
        (0, [-5.0] * 9, False),  # none ends it
        (2, [], False),
        (2, [-5.0, -6.0], False),  # too early to say
        (1, [-5.0, -6.0], True),
        (1, [-5.0, -5.0], True),
        (1, [-6.0, -5.0], False),
        (2, [-5.0, -6.0, -7.0], True),
        (2, [-5.0, -6.0, -4.0], False),
        (2, [-5.0, -4.0, -6.0], False),
        (2, [-5.0, -4.0, -6.0, -4.0], True),
        (3, [-9.0, -4.0, -6.0, -5.0], False),
    ],
)
def test_training_is_settled_after_passes_without_gain(
    patience: int, history: list[float], settled: bool
) -> None:
    assert is_settled(TrainConfig(patience=patience), history) == settled


def test_settled_means_as_many_setbacks_at_the_end() -> None:
    # A gain begins the count anew, however small.
    config, history = TrainConfig(patience=3), [-5.0]
    for value in (-6.0, -6.0, -4.9, -6.0, -6.0):
        history.append(value)
        assert not is_settled(config, history)
    assert is_settled(config, [*history, -4.9])


@pytest.mark.parametrize("is_rebased", [False, True])
def test_a_checkpoint_whose_mean_was_dropped_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, is_rebased: bool
) -> None:
    """The pass that is made up for at a restart is saved only where the state is that of before."""
    training: Any = SimpleNamespace(step=40, valid=None, is_rebased=is_rebased, history=[])
    loop = TrainLoop.__new__(TrainLoop)
    loop._training = training
    loop._config = TrainConfig(steps=80, valid_steps=20, checkpoint_steps=20)
    loop._valid_plan = cast(Any, SimpleNamespace(steps=1))
    done: list[str] = []

    def validate(_: TrainLoop) -> None:
        done.append("validate")
        training.valid = (-1.0, 1)

    monkeypatch.setattr(TrainLoop, "_validate", validate)
    monkeypatch.setattr(TrainLoop, "_save", lambda _: done.append("save"))
    assert loop._settle(restored=True) is False
    assert done == (["validate"] if is_rebased else ["validate", "save"])
