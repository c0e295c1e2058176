"""kill -9 at every file operation of a change of the registry; `kill_points.py` does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_program(scenario: str, folder: Path) -> Any:
    """Runs kill_points.py; returns what it prints, once it has found nothing wrong."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kill_points.py"), scenario, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


REPETITION = ("first", "rebase", "pin", "collect")


@pytest.mark.parametrize(
    "scenario",
    [
        *("publish", "promote", "rollback"),
        *(pytest.param(one, marks=pytest.mark.extra) for one in REPETITION),
    ],
)
def test_a_change_killed_at_each_operation_is_finished_by_the_next(
    tmp_path: Path, scenario: str
) -> None:
    operations = run_program(scenario, tmp_path)
    names = {name for name, _ in operations}
    assert {"open", "flock", "fsync", "replace" if scenario != "collect" else "rename"} <= names
    if scenario in ("first", "publish"):
        check_flushed(operations, tmp_path / "whole" / "m")


def check_flushed(operations: list[list[str]], model: Path) -> None:
    """Checks that what a publication leaves is on the disk before something points to it."""
    steps = [(name, path) for name, path in operations if name in ("fsync", "rename", "replace")]
    (renamed,) = [at for at, (name, _) in enumerate(steps) if name == "rename"]
    staged = steps[renamed][1]
    number = "2" if (model / "2").exists() else "1"
    files = {str(path.relative_to(model / number)) for path in (model / number).rglob("*")}
    flushed = {path for name, path in steps[:renamed] if name == "fsync"}
    assert {f"{staged}/{name}" for name in files} | {staged} <= flushed
    assert steps[renamed + 1] == ("fsync", str(model))
    replaced = [at for at, (name, _) in enumerate(steps) if name == "replace"]
    order = ["champion.json" if number == "2" else "", "champion.json", "numbers.json"]
    assert [Path(steps[at][1]).name.split(".tmp-")[0] for at in replaced] == [
        "MANIFEST.json",
        "numbers.json",  # the number is noted before it is used
        *filter(None, order),
    ]
    assert replaced[1] < renamed < replaced[-2]
    for at in replaced:
        assert steps[at - 1] == ("fsync", steps[at][1])
        assert steps[at + 1] == ("fsync", os.path.dirname(steps[at][1]))


def test_exports_of_one_checkpoint_at_once_publish_once(tmp_path: Path) -> None:
    found = run_program("race", tmp_path)
    assert found == [f"{tmp_path}/m/2"] * 6
    assert sorted(os.listdir(tmp_path / "m")) == [
        ".lock",
        "1",
        "2",
        "champion.json",
        "numbers.json",
    ]
