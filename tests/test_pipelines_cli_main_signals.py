"""Signals that reach a command in the middle of its work."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from components.preprocess.passes import scan
from model import files
from pipelines.cli.main import main


@pytest.mark.parametrize("place", [(scan, "save_pieces"), (files, "flush_tree")])
@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("SIGINT", 130, "charloom: stopped\n"),
        ("SIGTERM", 75, "charloom: stopped by SIGTERM; run the same command again\n"),
        ("SIGHUP", 75, "charloom: stopped by SIGHUP; run the same command again\n"),
    ],
)
def test_prepare_leaves_nothing(
    tmp_path: Path,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: tuple[Any, str],
    name: str,
    code: int,
    line: str,
) -> None:
    """In a thread of Beam, and between the last file and the folder's name."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    before = getattr(*place)

    def stopped(*given: Any) -> Any:
        os.kill(os.getpid(), getattr(signal, name))
        return before(*given)

    command = ["prepare", "--input", str(corpus), "--preset", "tiny"]
    command += ["--records", str(tmp_path / "records"), "--beam-workers", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(*place, stopped)
        assert main(command) == code
    assert capsys.readouterr().err == line
    assert os.listdir(tmp_path) == ["tmp"]
    assert os.listdir(tmp_path / "tmp") == []
