"""A run of the whole graph that a signal stops."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipelines
from components.component_runtime import ERROR_FILE_VARIABLE
from model.config import to_json, with_overrides
from model.errors import InputError, RestartableError
from model.presets import tiny
from pipelines.cli.main import main
from pipelines.local import runner
from pipelines.local.stop_tasks import StoppableTasks


def living() -> dict[int, int]:
    """Returns parent by process, of all that are not just waiting to be reaped; by /proc."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            except OSError:  # it has just ended
                continue
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    return parents


def descendants(pid: int) -> set[int]:
    """Returns the processes below `pid`."""
    parents = living()
    found, size = {pid}, 0
    while len(found) > size:
        size = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {pid}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "sign", "least", "code"),
    [
        # kfp's shell, the task, two workers; the workers have joined.
        (signal.SIGINT, "train/workdir/checkpoints/*", 4, 130),
        # The shell of the first task: it has not told its process group so far.
        (signal.SIGTERM, "", 1, 75),
    ],
)
def test_a_signal_ends_all_processes(
    tmp_path: Path, corpus: Path, number: signal.Signals, sign: str, least: int, code: int
) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        to_json(with_overrides(tiny(), ["train.steps=1000000", "train.warmup_steps=1"]))
    )
    root = tmp_path / "r"
    run = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli.main", "run", "--input", f"{corpus}/*.txt"]
        + ["--root", str(root), "--config", str(config), "--workers", "2", "--name", "m"],
        cwd=os.path.dirname(os.path.dirname(pipelines.__file__)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.stdout is not None
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(run.stdout or ()), daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + 300
        while not (list(tmp_path.glob(f"r/pipeline/*/{sign}")) if sign else said):
            assert run.poll() is None, "".join(said)
            assert time.monotonic() < deadline, "".join(said)
            time.sleep(0.2)
        processes = descendants(run.pid)
        assert len(processes) >= least
        run.send_signal(number)
        returned = run.wait(timeout=300)
    finally:
        run.kill()
    assert returned == code
    reader.join()
    last, stop = said[-1].rstrip(), f"charloom: stopped by {number.name}; "
    if sign:
        (workdir,) = root.glob("pipeline/*/train/workdir")
        newest = max(int(path.name[-8:]) for path in (workdir / "checkpoints").iterdir())
        assert re.fullmatch(
            rf"{stop}continue from step {newest} with: charloom train --records \S+ --workdir "
            rf"{workdir} --config {workdir}/config.json --workers 2 \(then, with the same "
            r"--records and --workdir, charloom evaluate, and charloom export --registry "
            rf"{root}/registry --name m; charloom run starts over\)",
            last,
        ), last
    else:
        assert last == f"{stop}charloom run starts over"
    deadline = time.monotonic() + 300  # what was killed takes a moment
    while (alive := processes & set(living())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive == set()


RESUME = "continue from step 7 with: charloom train --records r --workdir w --warm-start b"
"""What a training says that has saved."""


def stopped_graph(number: signal.Signals, report: dict[str, Any] | None) -> Callable[..., None]:
    """Returns a graph that a signal stops in its training, which may report that, and fails."""

    def graph(**_: Any) -> None:
        os.kill(os.getpid(), number)
        if report:
            Path(os.environ[ERROR_FILE_VARIABLE]).write_text(json.dumps(report))
        raise RuntimeError("Pipeline finished with status FAILURE.")

    return graph


STOPS = pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])


@STOPS
@pytest.mark.parametrize("champion", [False, True])
def test_a_stopped_run_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
    champion: bool,
) -> None:
    """To the end: what the task says, and what a person does afterwards in place of the graph."""
    text, registry = tmp_path / "a.txt", tmp_path / "a root" / "registry"
    text.write_text("some words\n")
    (registry / "m").mkdir(parents=True)
    if champion:
        (registry / "m" / "champion.json").write_text("{}")

    report = {"exit_code": 75, "message": f"stopped by SIGTERM; {RESUME}"}
    monkeypatch.setattr(runner, "_graph_for_here", lambda: stopped_graph(number, report))
    folders = ["--input", str(text), "--root", str(registry.parent), "--name", "m"]
    assert main(["run", *folders, "--preset", "tiny"]) == code
    compared = f" --champion '{registry}/m'" if champion else ""
    assert capsys.readouterr().err == (
        f"charloom: stopped by {number.name}; {RESUME} (then, with the same --records and "
        f"--workdir, charloom evaluate{compared}, and charloom export --registry '{registry}' "
        "--name m; charloom run starts over)\n"
    )


@STOPS
def test_a_run_that_is_stopped_before_its_training_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    (tmp_path / "a.txt").write_text("some words\n")
    monkeypatch.setattr(runner, "_graph_for_here", lambda: stopped_graph(number, None))
    folders = ["--input", str(tmp_path / "a.txt"), "--root", str(tmp_path / "root")]
    assert main(["run", *folders, "--preset", "tiny"]) == code
    assert capsys.readouterr().err == (
        f"charloom: stopped by {number.name}; charloom run starts over\n"
    )


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGTERM, RestartableError),
        (signal.SIGHUP, RestartableError),
        (signal.SIGINT, KeyboardInterrupt),
    ],
)
def test_a_signal_decides_how_a_run_ends(
    tmp_path: Path, number: signal.Signals, error: type[BaseException]
) -> None:
    with StoppableTasks(str(tmp_path / "group")) as tasks:
        tasks.raise_if_stopped(RestartableError("a worker was lost"))  # no signal: the run goes on
        assert not tasks.stopped
        os.kill(os.getpid(), number)
        assert tasks.stopped
    for reported, said in (
        (None, ""),
        (RestartableError("stopped by SIGTERM"), ""),  # by us
        (RestartableError(f"stopped by SIGTERM; {RESUME}"), f"; {RESUME}"),
        (InputError("a.txt is empty"), ""),  # it has nothing to do with the signal
    ):
        with pytest.raises(error) as caught:
            tasks.raise_if_stopped(reported)
        assert str(caught.value) == f"stopped by {number.name}{said}"
