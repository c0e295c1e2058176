"""How a task reports a user's error, picks its metrics and leads a process group."""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components import component_runtime
from components.shared_runs import read_uses
from model.errors import CharloomError, InputError, RestartableError
from model.files import temporary_folder, write_whole


def test_a_users_error_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(component_runtime.ERROR_FILE_VARIABLE, raising=False)
    with pytest.raises(SystemExit) as raised, component_runtime.reporting_errors():
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
    monkeypatch.setenv(component_runtime.ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))
    with pytest.raises(SystemExit) as raised, component_runtime.reporting_errors():
        raise error("shard 3 is cut short\nmake it again")
    assert raised.value.code == code
    assert json.loads((tmp_path / "error.json").read_text()) == {
        "exit_code": code,
        "kind": error.__name__,
        "message": "shard 3 is cut short make it again",
    }
    assert os.listdir(tmp_path) == ["error.json"]  # no temporary file is left
    assert capsys.readouterr().err == ""  # the owner of the file shows it


@pytest.mark.parametrize(
    ("number", "code", "kind", "message"),
    [
        (signal.SIGTERM, 75, "RestartableError", "stopped by SIGTERM"),
        (signal.SIGHUP, 75, "RestartableError", "stopped by SIGHUP"),
        (signal.SIGINT, 130, "KeyboardInterrupt", "stopped"),
    ],
)
def test_a_task_that_is_stopped_says_so_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
    kind: str,
    message: str,
) -> None:
    monkeypatch.setenv(component_runtime.ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))
    with (
        pytest.raises(SystemExit) as raised,
        component_runtime.reporting_errors(),
        temporary_folder(str(tmp_path / "records")),
    ):
        os.kill(os.getpid(), number)
    assert raised.value.code == code
    assert os.listdir(tmp_path) == ["error.json"]
    assert json.loads((tmp_path / "error.json").read_text()) == {
        "exit_code": code,
        "kind": kind,
        "message": message,
    }


@pytest.mark.parametrize(
    ("umask", "given", "mode"),
    [(0, "", 0o644), (0o077, "", 0o600), (0o002, "", 0o644), (0, "007", 0o660), (0, "0", 0o666)],
)
def test_others_may_not_write_what_a_task_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, given: str, mode: int
) -> None:
    monkeypatch.setenv("CHARLOOM_UMASK", given)
    before = os.umask(umask)
    try:
        with component_runtime.reporting_errors():
            write_whole(str(tmp_path / "champion.json"), "{}")
            os.mkdir(tmp_path / "folder")
    finally:
        os.umask(before)
    assert (tmp_path / "champion.json").stat().st_mode & 0o777 == mode
    assert (tmp_path / "folder").stat().st_mode & 0o666 == mode


def test_a_umask_that_is_none_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHARLOOM_UMASK", "rw-r--r--")
    with pytest.raises(SystemExit) as ended, component_runtime.reporting_errors():
        raise AssertionError
    assert ended.value.code == 2
    line = "error: CHARLOOM_UMASK is 'rw-r--r--'; it must be octal, such as 022\n"
    assert capsys.readouterr().err == line


def test_a_worker_keeps_its_own_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with component_runtime.reporting_errors(stoppable=False):
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_defect_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(component_runtime.ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))
    with pytest.raises(ZeroDivisionError), component_runtime.reporting_errors():
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
    assert component_runtime.select_numbers(result, paths) == {"perplexity": 93.5, "words": 7.0}


def test_a_task_and_its_children_are_one_group(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "from components.component_runtime import reporting_errors\n"
        "with reporting_errors():\n"
        "    child = [sys.executable, '-c', 'import os; print(os.getpgrp())']\n"
        "    subprocess.run(child, check=True)\n"
        "    print(os.getpid())\n"
    )
    path = tmp_path / "group"
    environment = {**os.environ, component_runtime.GROUP_FILE_VARIABLE: str(path)}
    environment["PYTHONPATH"] = os.path.dirname(os.path.dirname(component_runtime.__file__))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [path.read_text()] * 2


@pytest.mark.parametrize("reaped", [True, False])
def test_a_task_ends_with_its_charloom_run(tmp_path: Path, reaped: bool) -> None:
    """Also if nobody reaps the run, as in a container whose first process does not."""
    code = (
        "import time\n"
        "from components.component_runtime import reporting_errors\n"
        "with reporting_errors():\n"
        "    print('started', flush=True)\n"
        "    time.sleep(120)\n"
    )
    path = tmp_path / "owner"
    run = f"import fcntl; file = open({str(path)!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
    owner = subprocess.Popen(
        [sys.executable, "-c", run + "print('locked', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout
    assert owner.stdout.readline() == "locked\n"
    environment = {**os.environ, component_runtime.GROUP_FILE_VARIABLE: str(tmp_path / "group")}
    environment[component_runtime.OWNER_VARIABLE] = str(path)
    environment["PYTHONPATH"] = os.path.dirname(os.path.dirname(component_runtime.__file__))
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    owner.kill()
    if reaped:
        owner.communicate()
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    owner.communicate()


def test_the_image_can_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(component_runtime.IMAGE_VARIABLE, raising=False)
    assert component_runtime.container_image() == component_runtime.DEFAULT_IMAGE
    monkeypatch.setenv(component_runtime.IMAGE_VARIABLE, "example.org/charloom:7")
    assert component_runtime.container_image() == "example.org/charloom:7"


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a task's pod."""
    monkeypatch.setenv("KFP_POD_NAME", "train-language-model-abcde-123")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv(component_runtime.RUN_VARIABLE, "5f0c7f3e-run")


@pytest.mark.parametrize("missing", ["KFP_POD_NAME", "KUBERNETES_SERVICE_HOST"])
def test_a_pod_of_kfp_is_told_by_two_variables(
    pod: None, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    assert component_runtime.in_cluster()
    assert component_runtime.run_folder("/mnt/charloom") == "/mnt/charloom/runs/5f0c7f3e-run"
    assert component_runtime.run_folder("") == ""
    monkeypatch.delenv(missing)
    assert not component_runtime.in_cluster()
    assert component_runtime.run_folder("/mnt/charloom") == ""  # a laptop has no such volume


@pytest.mark.parametrize("value", ["", "..", "../other", "a/b"])
def test_a_pod_that_does_not_tell_its_run_is_bad_input(
    pod: None, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(component_runtime.RUN_VARIABLE, value)
    with pytest.raises(InputError, match="CHARLOOM_RUN_ID does not hold a run id"):
        component_runtime.run_folder("/mnt/charloom")


def test_without_a_shared_volume_the_artifact_is_the_folder(tmp_path: Path) -> None:
    artifact = str(tmp_path / "artifact")
    assert component_runtime.output_folder(artifact, "", "records") == artifact
    component_runtime.describe_output(artifact, artifact, "dataset.json")  # it is there already
    assert component_runtime.input_folder(artifact) == artifact
    assert os.listdir(tmp_path) == []


def test_with_a_shared_volume_the_artifact_says_where_the_folder_is(tmp_path: Path) -> None:
    artifact, shared = tmp_path / "artifact", tmp_path / "mnt" / "runs" / "r"
    folder = Path(component_runtime.output_folder(str(artifact), str(shared), "records"))
    assert folder == shared / "records"
    assert (artifact / "LOCATION").read_text() == f"{folder}\n"
    assert not folder.exists()  # the stage makes it, whole or not at all
    folder.mkdir()
    for name in ("dataset.json", "train-00000-of-00001.tfrecord", "COMPLETED"):
        (folder / name).write_text(name)
    component_runtime.describe_output(str(artifact), str(folder), "dataset.json")
    assert sorted(os.listdir(artifact)) == ["LOCATION", "dataset.json"]
    assert (artifact / "dataset.json").read_text() == "dataset.json"
    assert component_runtime.input_folder(str(artifact)) == str(folder)
    assert component_runtime.output_folder(str(artifact), str(shared), "records") == str(
        folder
    )  # a retry


def test_a_folder_that_is_gone_or_not_finished_is_bad_input(tmp_path: Path) -> None:
    artifact = str(tmp_path / "artifact")
    folder = Path(component_runtime.output_folder(artifact, str(tmp_path / "runs"), "work"))
    with pytest.raises(InputError, match=rf"the folder {folder}, .*, is gone; .* caching off"):
        component_runtime.input_folder(artifact)
    folder.mkdir()
    with pytest.raises(InputError, match=rf"the folder {folder}, .*, lacks COMPLETED; "):
        component_runtime.input_folder(artifact)
    (folder / "COMPLETED").touch()
    assert component_runtime.input_folder(artifact) == str(folder)


def test_output_of_another_run_is_noted_as_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "pod")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    runs = tmp_path / "mnt" / "runs"
    for run, stage in (("own", "records"), ("old", "records"), ("older", "workdir")):
        artifact = str(tmp_path / f"{run}-{stage}")
        folder = Path(component_runtime.output_folder(artifact, str(runs / run), stage))
        folder.mkdir()
        (folder / "COMPLETED").touch()
    for user in ("own", "next"):
        monkeypatch.setenv(component_runtime.RUN_VARIABLE, user)
        for artifact in ("own-records", "older-workdir", "old-records", "old-records"):
            component_runtime.input_folder(str(tmp_path / artifact))
    assert read_uses(str(runs / "own")) == ["old", "older"]
    assert read_uses(str(runs / "next")) == ["old", "older", "own"]
    assert read_uses(str(runs / "old")) == []
    (runs / "blocked").write_text("a file where the folder of the run should be")
    monkeypatch.setenv(component_runtime.RUN_VARIABLE, "blocked")
    assert component_runtime.input_folder(str(tmp_path / "own-records")) == str(
        runs / "own" / "records"
    )


def test_a_volume_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "mnt").write_text("no folder")
    with pytest.raises(InputError, match=r"the shared volume can't be written at .*mnt/runs/r"):
        component_runtime.output_folder(
            str(tmp_path / "a"), str(tmp_path / "mnt" / "runs" / "r"), "records"
        )


@pytest.mark.parametrize("enabled", [True, False])
def test_imports_without_garbage_collection(
    enabled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colourful.py").write_text("")
    (tmp_path / "broken.py").write_text(
        "import colourful, gc\nassert not gc.isenabled()\nimport none"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        frozen = gc.get_freeze_count()
        with component_runtime.quick_imports():
            pass
        assert gc.get_freeze_count() <= frozen
        frozen = gc.get_freeze_count()
        kept = [[number] for number in range(1000)]
        with pytest.raises(ImportError), component_runtime.quick_imports():
            importlib.import_module("broken")
        assert gc.isenabled() == enabled
        assert gc.get_freeze_count() >= frozen + len(kept)
    finally:
        sys.modules.pop("colourful", None)
        (gc.enable if before else gc.disable)()
