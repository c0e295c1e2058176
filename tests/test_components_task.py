"""How a task reports a user's error, picks its metrics and leads a process group."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components import task
from model.errors import CharloomError, InputError, RestartableError


def test_a_users_error_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(task.ERROR_FILE_VARIABLE, raising=False)
    with pytest.raises(SystemExit) as raised, task.reporting_errors():
        raise InputError("no file matches x.txt;\n  check --input")
    assert raised.value.code == 2
    assert capsys.readouterr().err == "error: no file matches x.txt; check --input\n"


@pytest.mark.parametrize(
    ("error", "code"), [(InputError, 2), (RestartableError, 75), (CharloomError, 1)]
)
def test_a_users_error_is_written_for_who_started_the_task(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[CharloomError],
    code: int,
) -> None:
    monkeypatch.setenv(task.ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))
    with pytest.raises(SystemExit) as raised, task.reporting_errors():
        raise error("shard 3 is cut short\nmake it again")
    assert raised.value.code == code
    assert json.loads((tmp_path / "error.json").read_text()) == {
        "exit_code": code,
        "kind": error.__name__,
        "message": "shard 3 is cut short make it again",
    }
    assert os.listdir(tmp_path) == ["error.json"]  # no temporary file is left
    assert capsys.readouterr().err == ""  # the owner of the file shows it


def test_a_defect_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(task.ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))
    with pytest.raises(ZeroDivisionError), task.reporting_errors():
        _ = 1 // 0
    assert os.listdir(tmp_path) == []


def test_metrics_are_the_finite_numbers_only() -> None:
    result = {"splits": {"test": {"perplexity": 93.5, "words": 7}}, "a": math.nan, "b": True}
    paths = {
        "perplexity": "splits.test.perplexity",
        "words": "splits.test.words",
        "not_there": "splits.valid.perplexity",
        "below_a_number": "splits.test.words.x",
        "not_a_number": "a",
        "flag": "b",
    }
    assert task.select_numbers(result, paths) == {"perplexity": 93.5, "words": 7.0}


def test_a_task_and_its_children_are_one_group(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "from components.task import reporting_errors\n"
        "with reporting_errors():\n"
        "    child = [sys.executable, '-c', 'import os; print(os.getpgrp())']\n"
        "    subprocess.run(child, check=True)\n"
        "    print(os.getpid())\n"
    )
    path = tmp_path / "group"
    environment = {**os.environ, task.GROUP_FILE_VARIABLE: str(path)}
    environment["PYTHONPATH"] = os.path.dirname(os.path.dirname(task.__file__))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [path.read_text()] * 2


def test_a_task_ends_with_its_charloom_run(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from components.task import reporting_errors\n"
        "with reporting_errors():\n"
        "    print('started', flush=True)\n"
        "    time.sleep(120)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    environment = {**os.environ, task.GROUP_FILE_VARIABLE: str(tmp_path / "group")}
    environment[task.OWNER_VARIABLE] = str(owner.pid)
    environment["PYTHONPATH"] = os.path.dirname(os.path.dirname(task.__file__))
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    owner.kill()
    owner.communicate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_the_image_can_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(task.IMAGE_VARIABLE, raising=False)
    assert task.container_image() == task.DEFAULT_IMAGE
    monkeypatch.setenv(task.IMAGE_VARIABLE, "example.org/charloom:7")
    assert task.container_image() == "example.org/charloom:7"
