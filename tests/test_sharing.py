from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = """
import sys
sys.path.insert(0, {tests!r})
import pytest
from sharing import share

@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    def make(path):
        assert list(path.iterdir()) == []
        with open(path.parent / "calls", "a") as calls:
            calls.write("call ")
        (path / "half").touch()
        if (path.parent / "calls").read_text() == "call ":
            raise OSError("the disk is full")
        (path / "half").rename(path / "whole")

    return share(tmp_path_factory, "it", make)
"""


def test_a_folder_is_made_again_after_a_failure_only(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.format(tests=str(Path(__file__).parent)))
    for number in range(6):
        (tmp_path / f"test_{number}.py").write_text(
            "def test_it(folder): assert [path.name for path in folder.iterdir()] == ['whole']"
        )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "3", "-p", "no:cacheprovider"]
    environment = {key: value for key, value in os.environ.items() if "XDIST" not in key}
    done = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "base"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert (tmp_path / "base" / "calls").read_text() == "call " * 2, done.stdout
