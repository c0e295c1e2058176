"""Scratch folders of processes that were killed are removed, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from model.scratch import sweep_scratch, swept_folder

CODE = """
import sys
from model.scratch import swept_folder
with swept_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_it_is_removed_at_the_end(tmp_path: Path) -> None:
    with swept_folder() as folder:
        assert Path(folder).parent == tmp_path
        Path(folder, "file").touch()
        sweep_scratch()
        assert Path(folder, "file").exists()
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_killed_process_is_swept(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout
    assert process.stdin
    folder = Path(process.stdout.readline().strip())
    Path(folder, "big").touch()
    sweep_scratch()
    assert Path(folder, "big").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with swept_folder() as own:
        assert [str(path) for path in tmp_path.iterdir()] == [own]


def test_what_is_no_scratch_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "charloom-run-making").mkdir()  # its lock is not there yet
    (tmp_path / "charloom-demo").mkdir()
    sweep_scratch()
    assert len(list(tmp_path.iterdir())) == 2
