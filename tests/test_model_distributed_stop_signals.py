from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from model.distributed.stop_signals import StopSignals, StopVote
from model.errors import OrphanedError, StoppedError

ROOT = Path(__file__).resolve().parent.parent

WORKER = """
import os, sys, threading, time
from model.distributed import stop_signals
from model.distributed.stop_signals import StopSignals

def end(reason):
    print(reason, flush=True)
    os._exit(75)

stop_signals.PAUSE_SECONDS = float(sys.argv[4])
signals = StopSignals(end, seconds=float(sys.argv[1]), launcher=int(sys.argv[5]) or None)
signals.listen()
blocked = []
for task in (os.getpid(), *map(int, os.listdir("/proc/self/task"))):
    status = open(f"/proc/self/task/{task}/status").read()
    mask = int(status.partition("SigBlk:")[2].split()[0], 16)
    blocked.append(bool(mask >> 14 & 1 and mask >> 1 & 1))
assert blocked[0] and blocked.count(False) <= 1, blocked  # but in the thread that waits for them
if sys.argv[2] != "starting":
    signals.training_begins()
print("ready", flush=True)
if sys.argv[2] == "in a save":
    with signals.saving():
        while not signals.requested:
            time.sleep(0.01)
        time.sleep(float(sys.argv[3]))
        print("saved", flush=True)
if sys.argv[2] == "saving":
    while not signals.requested:
        time.sleep(0.01)
    signals.reached_safe_point()
    print("saving", flush=True)
    time.sleep(float(sys.argv[3]))
    print("saved", flush=True)
else:
    time.sleep(600)
"""


def test_a_worker_listens_before_a_library_has_started_threads() -> None:
    """A thread of NumPy's or TensorFlow's would get the signal, and end the process unsaved."""
    code = (
        "import sys, threading, components.train.worker; "
        "print([one for one in ('numpy', 'tensorflow', 'kubernetes') if one in sys.modules], "
        "threading.active_count())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout == "[] 1\n"


def start(
    seconds: float, phase: str, *, saving: float = 0.0, pause: float = 0.0, launcher: int = 0
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(seconds), phase]
    command += [str(saving), str(pause), str(launcher)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_training_a_signal_ends_the_process(number: signal.Signals) -> None:
    process = start(600, "starting")
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert output == f"stopped by {number.name} before the training started\n"
    assert process.returncode == 75


def test_a_training_that_does_not_come_to_save_is_ended() -> None:
    process = start(0.2, "compiling")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert output == "stopped by SIGTERM without saving: no step ended within 0.2 s\n"
    assert process.returncode == 75


def test_a_second_signal_ends_it_at_once() -> None:
    process = start(600, "compiling", pause=-1.0)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert output == "stopped immediately by a second signal, without saving\n"
    assert process.returncode == 75


def test_a_save_that_is_under_way_is_awaited() -> None:
    process = start(0.2, "in a save", saving=1.0)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert output == ("saved\nstopped by SIGTERM without saving: no step ended within 0.2 s\n")


@pytest.mark.parametrize(("pause", "from_launcher"), [(600.0, False), (0.0, True)])
def test_one_request_may_reach_a_worker_twice(pause: float, from_launcher: bool) -> None:
    """From the system and, soon after or much later, from the launcher, which got it, too."""
    launcher = os.getpid() if from_launcher else 0
    process = start(600, "saving", saving=1.0, pause=pause, launcher=launcher)
    process.send_signal(signal.SIGTERM)
    assert process.stdout
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert output == "saved\n"
    assert process.returncode == 0


def test_saving_may_take_longer() -> None:
    process = start(3.0, "saving", saving=3.5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert output == "saving\nsaved\n"
    assert process.returncode == 0


def test_a_second_signal_ends_it_while_saving() -> None:
    process = start(600, "saving", saving=600)
    process.send_signal(signal.SIGTERM)
    assert process.stdout
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert output == "stopped immediately by a second signal, while saving\n"
    assert process.returncode == 75


class Asked(StopSignals):
    """Is asked to stop at one of the looks at it."""

    def __init__(self, at: int):
        super().__init__()
        self.at, self.looks = at, 0

    @property
    def requested(self) -> bool:
        self.looks += 1
        return self.looks > self.at


class Threads:
    """Workers that are threads."""

    def __init__(self, size: int):
        self._barrier = threading.Barrier(size)
        self._values: list[Sequence[float]] = []
        self._sums: list[float] = []

    def add(self, values: Sequence[float]) -> list[float]:
        self._values.append(values)
        if not self._barrier.wait(30):
            self._sums = [float(sum(column)) for column in zip(*self._values, strict=True)]
            self._values = []
        self._barrier.wait(30)
        return self._sums


def test_workers_stop_at_the_same_point() -> None:
    """Each sees other times between points, and one is asked at its fourth vote."""
    group, stops = Threads(3), [0, 0, 0]

    def work(rank: int) -> None:
        vote = StopVote(group, Asked(3 if rank == 1 else 10_000))
        for point in range(10_000):
            if vote():
                stops[rank] = point
                return
            threading.Event().wait(0.001 * rank)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Votes at the points 0, 2, 6, 14 while the stride doubles.
    assert stops == [14, 14, 14]


@pytest.mark.parametrize("orphaned", [False, True])
def test_all_workers_hear_why_they_stop(orphaned: bool) -> None:
    group, errors = Threads(2), {}

    def work(rank: int) -> None:
        signals = Asked(0 if rank == 1 else 10_000)
        signals.orphaned = orphaned and rank == 1
        vote = StopVote(group, signals)
        assert vote()
        errors[rank] = vote.error("saved")

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kind, code = (OrphanedError, 78) if orphaned else (StoppedError, 75)
    assert {(type(error), error.exit_code, str(error)) for error in errors.values()} == {
        (kind, code, "saved")
    }


class Alone:
    def __init__(self, seconds: float):
        self.seconds, self.votes = seconds, 0

    def add(self, values: Sequence[float]) -> list[float]:
        self.votes += 1
        return [values[0], values[1], self.seconds * 3, 3.0]


@pytest.mark.parametrize(("seconds", "votes"), [(0.7, 200), (1e-9, 8)])
def test_slow_points_are_all_voted_on_and_quick_ones_seldom(seconds: float, votes: int) -> None:
    group = Alone(seconds)
    vote = StopVote(group, StopSignals())
    assert not any(vote() for _ in range(200))
    assert group.votes == votes  # the quick ones at 0, 2, 6, 14, 30, 62, 112, 162


def test_a_phase_begins_with_a_vote() -> None:
    group = Alone(1e-9)
    vote = StopVote(group, StopSignals())
    for _ in range(100):
        vote()
    votes = group.votes
    vote()
    assert group.votes == votes
    vote.begin_phase()
    vote()
    assert group.votes == votes + 1
