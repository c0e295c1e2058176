"""A run of the whole graph that a signal stops."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pipelines
from model.config import to_json, with_overrides
from model.presets import tiny


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
            rf"{stop}go on from step {newest} with: charloom train --records \S+ --workdir "
            rf"{workdir} --config {workdir}/config.json --workers 2 \(then, with the same "
            r"--records and --workdir, charloom evaluate, and charloom export --registry "
            rf"{root}/registry --name m; charloom run begins anew\)",
            last,
        ), last
    else:
        assert last == f"{stop}charloom run begins anew"
    deadline = time.monotonic() + 300  # what was killed takes a moment
    while (alive := processes & set(living())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive == set()
