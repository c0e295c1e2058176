"""`charloom runs gc`, for local runs and with Kubeflow Pipelines."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp_server import Server, isolate, serve
from run_trees import make_run, make_version

from pipelines.cli.main import main
from pipelines.kubeflow import client

IDS = [f"0000000{number}-0000-4000-8000-000000000000" for number in range(6)]
LOCAL = [f"train-language-model-2026-11-0{day}-02-00-00-000000" for day in range(1, 5)]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(client, "_PAUSES", (0.0,))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path) as running:
        yield running


def test_local_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "pipeline"
    for days, name in zip((40, 30, 20, 0), LOCAL, strict=True):
        make_run(runs, name, days=days, checkpoint=name, now=time.time())
    version = make_version(tmp_path / "registry", checkpoint=LOCAL[0])
    (tmp_path / "logs").mkdir()
    started = time.strftime("run-%Y%m%d-%H%M%S-7.log", time.localtime(time.time() - 3600))
    arguments = ["runs", "gc", "--root", str(tmp_path), "--keep-last", "0"]
    with open(tmp_path / "logs" / started, "w") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert main([*arguments, "--dry-run"]) == 0
        assert len(list(runs.iterdir())) == 4
        assert main(arguments) == 0
    assert [path.name for path in sorted(runs.iterdir())] == [LOCAL[0], LOCAL[3]]
    shown = capsys.readouterr().out
    assert f"{LOCAL[3]} stays: a charloom run that is running may write to it\n" in shown
    assert main(arguments) == 0
    assert [path.name for path in runs.iterdir()] == [LOCAL[0]]
    assert version.exists()


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "pipeline"
    for days, name in zip((40, 30, 20), LOCAL[:3], strict=True):
        make_run(runs, name, days=days, checkpoint=name, now=time.time())
    version = make_version(tmp_path / "registry", checkpoint=LOCAL[0])
    day = time.strftime("%Y-%m-%d", time.gmtime((runs / LOCAL[1]).stat().st_mtime))
    for flag, word in (("--dry-run", "would remove"), ("--debug", "removed")):
        assert main(["runs", "gc", "--root", str(tmp_path), "--keep-days", "25", flag]) == 0
        assert capsys.readouterr().out == (
            f"{LOCAL[0]} stays: version {version} was made in it\n"
            f"{word} {runs / LOCAL[1]} (0.000 GB, last used {day})\n"
            f"{word} 1 of 3 runs, 0.000 GB\n"
        )


def test_a_volume(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for days, run_id in enumerate(IDS):
        make_run(runs, run_id, days=10 * days, now=time.time())
    (runs / "by-hand").mkdir()
    settings = {"settings": [f"run.compare_to=/mnt/charloom/runs/{IDS[2]}/records"]}
    source = {"pipeline_version_reference": {"pipeline_id": "p"}}
    for run_id, state in ((IDS[0], "SUCCEEDED"), (IDS[1], "PENDING"), (IDS[3], "FAILED")):
        made = {"run_id": run_id, "state": state, "display_name": run_id, "experiment_id": "e"}
        config = {"runtime_config": {"parameters": settings if state == "PENDING" else {}}}
        server.store.put("runs", run_id, {**made, **source, **config})
    arguments = ["runs", "gc", "--volume", str(tmp_path), "--keep-last", "1", "--host", server.host]
    assert main(arguments) == 0
    left = sorted(path.name for path in runs.iterdir())
    assert left == [".removed", *IDS[:3], "by-hand"]
    server.set_run(IDS[1], "CANCELED")
    assert main(arguments) == 0
    assert sorted(path.name for path in runs.iterdir()) == [".removed", IDS[0], "by-hand"]


def test_nothing_is_removed_if_kubeflow_cannot_be_asked(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "runs", IDS[0], days=90, now=time.time())
    server.faults["GET runs/[^/]+"] = [403]
    arguments = ["runs", "gc", "--volume", str(tmp_path), "--keep-days", "1", "--host", server.host]
    assert main(arguments) == 2
    assert "403" in capsys.readouterr().err
    assert (tmp_path / "runs" / IDS[0] / "records").exists()


def test_a_place_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["runs", "gc", "--root", str(tmp_path)]
    for more, message in (
        (["--keep-last", "1"], "pipeline is not there; name the folder that the runs were made in"),
        ([], "nothing says which runs to keep; give --keep-days, --keep-last or both"),
    ):
        assert main([*arguments, *more]) == 2
        assert message in capsys.readouterr().err
