"""Trainings that are asked to stop while a save takes longer than they used to be given."""

from __future__ import annotations

from pathlib import Path

import pytest
from slow_saves import PHASES, WHO, Schedule, run_schedule
from volume import keep_first

pytestmark = [pytest.mark.drills, pytest.mark.slow]

CASES = [
    ("everyone", "saving", 9.0),  # a worker used to leave after 8 s
    ("everyone", "saving", 20.0),  # and its launcher to kill it after 15
    ("one worker", "saving", 10.0),
    ("all workers", "training", 10.0),
    ("the launcher", "training", 20.0),
    ("everyone", "starting", 5.0),
]


@pytest.mark.parametrize(("who", "phase", "seconds"), keep_first(CASES))
def test_nothing_is_lost(
    who: str, phase: str, seconds: float, tiny_records: str, tmp_path: Path
) -> None:
    run_schedule(Schedule(seconds, who, phase, 22), tiny_records, tmp_path)


def test_schedules_cover_all() -> None:
    schedules = [Schedule.of(seed) for seed in range(30)]
    assert {(one.who, one.phase) for one in schedules} == {
        (who, phase) for who in WHO for phase in PHASES
    }
    assert {one.seconds for one in schedules} == {5.0, 20.0, 90.0}
