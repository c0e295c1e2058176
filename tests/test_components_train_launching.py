"""What the launchers on one machine and on a cluster share."""

from __future__ import annotations

import os
import signal

import pytest

from components.train import launching
from components.train.launching import IdleRestarts, StopRequests


@pytest.mark.parametrize(("pause", "requests"), [(600.0, 1), (-1.0, 3)])
def test_signals_that_come_together_are_one_request(
    pause: float, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "PAUSE_SECONDS", pause)
    with StopRequests() as asked:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert asked.numbers == [signal.SIGTERM, signal.SIGHUP, signal.SIGINT][:requests]


def test_restarts_without_a_new_checkpoint_are_bounded_and_ever_slower() -> None:
    idle = IdleRestarts(40, max_restarts=3)
    pauses = []
    for _ in range(5):
        assert idle.note(40, "worker 0 was ended") == ""
        pauses.append(idle.pause)
    assert pauses == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert idle.note(40, "worker 0 was ended") == (
        "the workers were restarted 6 times without a checkpoint newer than step 40; see their logs: "
        "worker 0 was ended"
    )


def test_a_new_checkpoint_begins_anew() -> None:
    idle = IdleRestarts(0, max_restarts=8)
    assert idle.note(0, "", times=8) == ""
    assert idle.note(60, "") == ""
    assert (idle.count, idle.pause) == (1, 0.0)
    assert idle.note(60, "", times=7) == ""
    assert idle.pause == 60.0  # the longest
    assert idle.note(60, "")


def test_on_a_cluster_several_restarts_may_have_passed() -> None:
    assert IdleRestarts(0, max_restarts=0).note(0, "", times=6)
    assert not IdleRestarts(0, max_restarts=0).note(20, "", times=5)
