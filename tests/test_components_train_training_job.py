from __future__ import annotations

from pathlib import Path

import pytest

from components.train.training_job import TrainingJob
from model.errors import InputError
from model.training.profiler import ProfileSteps


def test_the_workers_arguments() -> None:
    job = TrainingJob(records="r", workdir="w", workers=2, warm_start="lm/3", max_restarts=1)
    waits = ["--peer-seconds", "300", "--stall-seconds", "300"]
    plain = ["--records", "r", "--workdir", "w", "--config", "w/config.json", *waits]
    assert job.worker_arguments() == plain
    traced = TrainingJob(records="r", workdir="w", profile=ProfileSteps(5, 7), peer_seconds=0.5)
    assert traced.worker_arguments() == [*plain[:7], "0.5", *plain[8:], "--profile", "5:7"]


def test_the_command_names_only_what_differs_from_the_defaults() -> None:
    plain = "charloom train --records r --workdir 'my w' --config 'my w/config.json' --workers"
    assert TrainingJob(records="r", workdir="my w").command() == f"{plain} 1"
    job = TrainingJob(
        records="r", workdir="my w", workers=3, warm_start="lm/3", max_restarts=0, peer_seconds=9.5
    )
    assert job.command() == f"{plain} 3 --warm-start lm/3 --max-restarts 0 --peer-seconds 9.5"


def test_absolute_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    job = TrainingJob(records="r", workdir="/w/../v", workers=2)
    assert job.absolute() == TrainingJob(records=f"{tmp_path}/r", workdir="/v", workers=2)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("workers", 0, "--workers is 0; it must be at least 1"),
        ("max_restarts", -1, "--max-restarts is -1; it must be at least 0"),
    ],
)
def test_bad_limits(field: str, value: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainingJob(records="r", workdir="w", **{field: value})
    assert str(caught.value) == message
