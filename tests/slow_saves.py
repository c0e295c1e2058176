"""Trainings on a slow disk that are asked to stop: `python -m tests.slow_saves [SCHEDULES]`.

A schedule follows from its seed: how long a save takes, who gets SIGTERM, and in which phase.
Nothing may be lost that was computed before the last step.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from worker_processes import wait_for, worker_pids

from components.preprocess.main import run as prepare
from model.checkpointing.checkpoints import list_checkpoints
from model.checkpointing.save_time import is_saving
from model.metrics import read_metrics
from model.presets import tiny

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
STEPS = 60
SLOW_DISK = """
import os, time
rename = os.rename
def slow(source, target):
    if "/checkpoints/step-" in str(target):
        time.sleep(float(os.environ["SLOW_SAVE_SECONDS"]))
    rename(source, target)
os.rename = slow
"""
SECONDS = (5.0, 20.0, 90.0)
WHO = ("one worker", "all workers", "the launcher", "everyone")
PHASES = ("starting", "training", "saving")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """One disturbance."""

    seconds: float
    """How long a save takes."""
    who: str
    """Who gets SIGTERM, one of `WHO`."""
    phase: str
    """When, one of `PHASES`."""
    step: int
    """Not before this step."""

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """Returns the schedule of a seed."""
        dice = random.Random(seed)
        return cls(
            dice.choice(SECONDS), dice.choice(WHO), dice.choice(PHASES), dice.randint(1, STEPS - 25)
        )


def run_schedule(schedule: Schedule, records: str, folder: Path) -> str:
    """Runs a training that is disturbed; returns what it did.

    Raises:
      AssertionError: something was lost, or the training did not end as it should.
    """
    workdir = folder / "workdir"
    training = _start(schedule, records, workdir)
    _await_phase(schedule, workdir)
    seen = newest_logged(workdir)
    workers = list(worker_pids(workdir).values())
    chosen = {
        "one worker": workers[-1:],
        "all workers": workers,
        "the launcher": [training.pid],
        "everyone": [training.pid, *workers],
    }[schedule.who]
    for process in chosen:
        os.kill(process, signal.SIGTERM)
    output, errors = training.communicate(timeout=1200)
    ended = training.returncode
    if schedule.who in ("one worker", "all workers"):  # the launcher restarts them
        assert ended == 0, (schedule, output[-2000:], errors[-2000:])
        said = re.search(r"restarting from step (\d+) .*", output)
        assert said, (schedule, output[-2000:], errors[-2000:])
        kept = int(said[1])
    else:
        assert ended == 75, (schedule, ended, output[-2000:], errors[-2000:])
        said = re.search(r"stopped by SIGTERM; continue from step (\d+) .*", errors)
        assert said, (schedule, output[-2000:], errors[-2000:])
        kept = int(said[1])
        assert kept == (newest_checkpoint(workdir) or 0)
    assert kept >= seen - 1, (schedule, seen, kept, output[-2000:], errors[-2000:])
    assert not worker_pids(workdir)
    return f"saw step {seen}, kept {kept}: {said[0].split(' with: ')[0]}"


def _start(schedule: Schedule, records: str, workdir: Path) -> subprocess.Popen[str]:
    path = workdir.parent / "path"
    path.mkdir()
    (path / "sitecustomize.py").write_text(SLOW_DISK)
    settings = {"steps": STEPS, "log_steps": 1, "valid_steps": 30, "checkpoint_steps": 20}
    command = [sys.executable, "-m", "pipelines.cli.main", "train", "--preset", "tiny"]
    command += [f"--set=train.{name}={value}" for name, value in settings.items()]
    command += ["--records", records, "--workdir", str(workdir), "--workers", str(WORKERS)]
    variables = {
        "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]),
        "SLOW_SAVE_SECONDS": str(schedule.seconds),
    }
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )


def _await_phase(schedule: Schedule, workdir: Path) -> None:
    wait_for(lambda: len(worker_pids(workdir)) == WORKERS, "the workers")
    if schedule.phase == "starting":
        return
    wait_for(lambda: newest_logged(workdir) >= schedule.step, f"step {schedule.step}", seconds=900)
    if schedule.phase == "saving":
        wait_for(lambda: is_saving(str(workdir)), "a save", seconds=900)


def newest_logged(workdir: Path) -> int:
    """Returns the newest step of which the metrics tell."""
    try:
        rows = read_metrics(str(workdir))
    except OSError:
        return 0
    return max((row["step"] for row in rows if "loss" in row), default=0)


def newest_checkpoint(workdir: Path) -> int:
    """Returns the step of the newest checkpoint; 0 without one."""
    paths = list_checkpoints(str(workdir))
    return int(paths[0][-8:]) if paths else 0


def main(schedules: int = 30) -> None:
    """Runs the schedules of the first seeds; prints a line of JSON for each."""
    with tempfile.TemporaryDirectory() as scratch:
        records = os.path.join(scratch, "records")
        corpus = str(ROOT / "tests" / "data" / "corpus")
        prepare(inputs=[corpus], records=records, config=tiny().data)
        for seed in range(schedules):
            folder = Path(scratch, str(seed))
            folder.mkdir()
            schedule = Schedule.of(seed)
            result = run_schedule(schedule, records, folder)
            print(json.dumps({"seed": seed, **dataclasses.asdict(schedule), "result": result}))
            sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
