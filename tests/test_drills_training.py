"""Drills: trainings of three worker processes that are disturbed, and what becomes of them.

Whatever happens, the weights at the end are those of the undisturbed run, bit for bit.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_processes import free_hosts, wait_for, worker_pids

from components.component_runtime import ERROR_FILE_VARIABLE
from components.preprocess.main import run as prepare
from model.checkpointing.checkpoints import list_checkpoints, newest_checkpoint, read_checkpoint
from model.config import to_json, with_overrides
from model.distributed.tf_config import format_tf_config
from model.metrics import read_metrics
from model.presets import tiny

pytestmark = [pytest.mark.drills, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "train.lanes": 6,  # which one, two and three workers can share
    "train.steps": 400,
    "train.log_steps": 20,
    "train.valid_steps": 100,
    "train.checkpoint_steps": 50,
    "train.average_last": 0.8,
}
FLAGS = [f"--set={name}={value}" for name, value in SETTINGS.items()]

Process = subprocess.Popen[str]


def start(
    records: str, workdir: Path, *flags: str, workers: int = 3, path: Path | None = None
) -> Process:
    """Starts `charloom train`; `path` comes first where Python looks for modules."""
    command = [
        sys.executable,
        "-m",
        "pipelines.cli.main",
        "train",
        "--preset",
        "tiny",
        *FLAGS,
        *flags,
    ]
    command += ["--records", records, "--workdir", str(workdir), "--workers", str(workers)]
    paths = [str(part) for part in (path, ROOT) if part]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        preexec_fn=_keep_to_permissions,
    )


def _keep_to_permissions() -> None:
    """Makes a child that is root mind the permissions of files as everyone does."""
    drop, override, read_search = 24, 1, 2
    for capability in (override, read_search):
        ctypes.CDLL(None).prctl(drop, capability)


def finish(process: Process, code: int) -> tuple[str, str]:
    output, errors = process.communicate(timeout=400)
    assert process.returncode == code, (output, errors)
    return output, errors


def newest_step(workdir: Path) -> int:
    paths = list_checkpoints(str(workdir))
    return int(paths[0][-8:]) if paths else 0


def results(workdir: Path | str) -> tuple[dict[int, float], dict[int, float]]:
    """Returns training losses and validation log-likelihoods by step."""
    rows = read_metrics(str(workdir))
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    valid = [(row["step"], row["valid_log_likelihood"]) for row in rows if "valid_words" in row]
    assert len(dict(losses)) == len(losses)  # no step twice
    assert len(dict(valid)) == len(valid)
    return dict(losses), dict(valid)


def assert_same(workdir: Path, undisturbed: Path) -> None:
    ours, theirs = (Path(list_checkpoints(str(path))[0]) for path in (workdir, undisturbed))
    assert (ours.name, theirs.name) == ("step-00000400",) * 2
    assert (ours / "arrays.npz").read_bytes() == (theirs / "arrays.npz").read_bytes()
    assert read_checkpoint(str(ours)).meta == read_checkpoint(str(theirs)).meta
    assert results(workdir) == results(undisturbed)
    assert (workdir / "COMPLETED").read_text() == "400\n"


@pytest.fixture(scope="module")
def undisturbed(tiny_records: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed") / "workdir"
    finish(start(tiny_records, workdir), 0)
    losses, valid = results(workdir)
    assert list(losses) == list(range(20, 401, 20))
    assert list(valid) == [100, 200, 300, 400]
    return workdir


def cut_back(undisturbed: Path, target: Path, *, to: int) -> Path:
    """Copies a finished training as one that was killed after step `to`."""
    shutil.copytree(undisturbed, target)
    (target / "COMPLETED").unlink()
    for path in map(Path, list_checkpoints(str(target))):
        if int(path.name[-8:]) > to:
            shutil.rmtree(path)
    return target


def test_a_lost_worker(tiny_records: str, undisturbed: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "workdir"
    process = start(tiny_records, workdir)
    wait_for(lambda: newest_step(workdir) >= 50, "step 50")
    os.kill(worker_pids(workdir)[1], signal.SIGKILL)
    output, _ = finish(process, 0)
    (line,) = re.findall(r"^restarting .*$", output, re.MULTILINE)
    reason = r"\(1 of 3\): worker 1 was ended by SIGKILL"
    assert re.fullmatch(rf"restarting from step \d+ {reason}", line), line
    assert_same(workdir, undisturbed)


KILLED_WHILE_WRITING = """
import os, signal
rename = os.rename
def killing(source, target):
    mark = os.environ["DRILL_MARK"]
    if str(target).endswith("/checkpoints/step-00000300") and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.rename = killing
"""


@pytest.mark.extra
def test_lost_frozen_and_stopped_workers(
    tiny_records: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(KILLED_WHILE_WRITING)
    monkeypatch.setenv("DRILL_MARK", str(tmp_path / "mark"))
    workdir = tmp_path / "workdir"
    process = start(tiny_records, workdir, "--max-restarts=4", path=tmp_path / "path")
    for step, rank, number in (
        (50, 1, signal.SIGKILL),
        (100, 0, signal.SIGKILL),
        (150, 2, signal.SIGSTOP),
        (200, 1, signal.SIGTERM),
    ):
        wait_for(lambda step=step: newest_step(workdir) >= step, f"step {step}")
        workers = worker_pids(workdir)
        os.kill(workers[rank], number)
        gone = set(workers.values())
        wait_for(lambda gone=gone: not gone & set(worker_pids(workdir).values()), "the group's end")
    output, _ = finish(process, 0)
    reasons = [
        r"\(1 of 4\): worker 1 was ended by SIGKILL",
        r"\(2 of 4\): worker 0 was ended by SIGKILL",
        r"\(3 of 4\): worker \d lost (worker 2|its peers) in .*",
        r"\(not counted\): stopped and saved at step \d+",
        r"\(4 of 4\): worker 0 was ended by SIGKILL",
    ]
    lines = re.findall(r"^restarting .*$", output, re.MULTILINE)
    assert len(lines) == len(reasons), lines
    for line, reason in zip(lines, reasons, strict=True):
        assert re.fullmatch(rf"restarting from step \d+ {reason}", line), line
    saved = re.search(r"stopped and saved at step (\d+)", lines[3])
    assert saved
    assert f"restarting from step {saved[1]} (" in lines[3]  # nothing is lost
    assert "restarting from step 250 (" in lines[4]  # the one being written is not there
    assert (tmp_path / "mark").exists()
    assert_same(workdir, undisturbed)


@pytest.mark.extra
def test_a_second_training_in_one_workdir_is_refused(tiny_records: str, tmp_path: Path) -> None:
    workdir = tmp_path / "workdir"
    first = start(tiny_records, workdir)
    wait_for((workdir / "logs" / "worker-0.log").exists, "the first launcher")  # heeds signals now
    # Paused, it can't end before the second, however long that one takes to start.
    first.send_signal(signal.SIGSTOP)
    try:
        _, refused = finish(start(tiny_records, workdir), 2)
    finally:
        first.send_signal(signal.SIGCONT)
    assert f"another training is running in workdir {workdir}" in refused
    first.send_signal(signal.SIGTERM)
    finish(first, 75)
    assert not worker_pids(workdir)


@pytest.mark.extra
def test_stopped_while_compiling_and_while_evaluating(
    tiny_records: str, undisturbed: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "workdir"
    log = workdir / "logs" / "worker-2.log"
    process = start(tiny_records, workdir)
    wait_for(lambda: log.exists() and "rank 2 of 3" in log.read_text(), "the group")
    process.send_signal(signal.SIGTERM)
    _, errors = finish(process, 75)
    message = r"charloom: stopped by SIGTERM; continue from step {} with: charloom train .*"
    assert re.fullmatch(message.format(r"\d+"), errors.strip().splitlines()[-1])
    assert not worker_pids(workdir)
    assert newest_step(workdir) < 100

    process = start(tiny_records, workdir)
    wait_for(lambda: any(row["step"] == 100 for row in read_metrics(str(workdir))), "step 100")
    process.send_signal(signal.SIGTERM)
    _, errors = finish(process, 75)
    told = re.fullmatch(message.format(r"(\d+)"), errors.strip().splitlines()[-1])
    assert told
    assert int(told[1]) == newest_step(workdir)
    assert not (workdir / "COMPLETED").exists()
    finish(start(tiny_records, workdir), 0)
    assert_same(workdir, undisturbed)


def start_worker(
    records: str, folder: Path, *, hosts: list[str], rank: int, seconds: float
) -> Process:
    """Starts a worker without a launcher."""
    config = folder / "config.json"
    config.write_text(to_json(with_overrides(tiny(), ["train.lanes=6"])))
    command = [sys.executable, "-m", "components.train.worker", "--records", records]
    command += ["--workdir", str(folder / "workdir"), "--config", str(config)]
    command += ["--peer-seconds", str(seconds)]
    environment = {
        "TF_CONFIG": format_tf_config(hosts, rank),
        ERROR_FILE_VARIABLE: str(folder / f"{rank}.json"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def test_a_peer_that_never_starts(tiny_records: str, tmp_path: Path) -> None:
    hosts = free_hosts(3)
    for worker in [
        start_worker(tiny_records, tmp_path, hosts=hosts, rank=rank, seconds=8) for rank in (0, 1)
    ]:
        finish(worker, 75)
    errors = [json.loads((tmp_path / f"{rank}.json").read_text())["message"] for rank in (0, 1)]
    missing = f"worker 2 ({hosts[2]})"
    # Who gives up first names it; the other one may see that one leave.
    assert f"{missing} did not arrive within 8 s" in errors
    assert all(missing in error for error in errors)


def test_a_peer_that_leaves_while_tensorflow_joins(tiny_records: str, tmp_path: Path) -> None:
    """TensorFlow then waits an hour and keeps Python's lock: no thread of ours could end it."""
    hosts = free_hosts(2)
    with socket.create_server(("127.0.0.1", int(hosts[1].split(":")[1]))):
        worker = start_worker(tiny_records, tmp_path, hosts=hosts, rank=0, seconds=8)
        address = ("127.0.0.1", int(hosts[0].split(":")[1]))
        line = None

        def call() -> bool:
            nonlocal line
            with contextlib.suppress(ConnectionRefusedError):
                line = socket.create_connection(address)
            return line is not None

        wait_for(call, "the worker")
        assert line is not None
        line.sendall(b"charloom worker 1 of 2\nall\n")
        line.close()
        finish(worker, 75)
    assert not (tmp_path / "0.json").exists()


@pytest.mark.extra
def test_checkpoints_damaged_at_any_byte(
    tiny_records: str, undisturbed: Path, tmp_path: Path
) -> None:
    workdir = cut_back(undisturbed, tmp_path / "workdir", to=350)
    newest, older = list_checkpoints(str(workdir))[:2]
    for name in ("arrays.npz", "meta.json"):
        path = Path(newest, name)
        whole = path.read_bytes()
        for offset in range(0, len(whole), -(-len(whole) // 20)):
            path.write_bytes(whole[:offset])
            assert newest_checkpoint(str(workdir)) == older
            damaged = bytearray(whole)
            damaged[offset] ^= 0x20
            path.write_bytes(damaged)
            assert newest_checkpoint(str(workdir)) == older
        path.write_bytes(whole)
        assert newest_checkpoint(str(workdir)) == newest
    path = Path(newest, "arrays.npz")
    path.write_bytes(path.read_bytes()[:-1])
    output, _ = finish(start(tiny_records, workdir), 0)
    assert "continuing from step 300 (" in output
    assert_same(workdir, undisturbed)


@pytest.mark.extra
@pytest.mark.parametrize("workers", [1, 2])
def test_resumed_by_fewer_workers(
    tiny_records: str, undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    workdir = cut_back(undisturbed, tmp_path / "workdir", to=300)
    finish(start(tiny_records, workdir, workers=workers), 0)
    for ours, theirs in zip(results(workdir), results(undisturbed), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.extra
def test_what_is_refused(
    corpus: Path, tiny_records: str, undisturbed: Path, tmp_path: Path
) -> None:
    workdir = cut_back(undisturbed, tmp_path / "workdir", to=300)
    others = shutil.copytree(corpus, tmp_path / "corpus")
    (others / "more.txt").write_text("One more text.\n")
    records = str(tmp_path / "records")
    prepare(inputs=[str(others)], records=records, config=tiny().data)
    _, errors = finish(start(records, workdir), 2)
    assert errors.strip() == (
        f"charloom: workdir {workdir} was trained on other records than {records}; choose another"
    )
    folder = workdir / "checkpoints"
    folder.chmod(0)
    try:
        _, errors = finish(start(tiny_records, workdir), 2)
    finally:
        folder.chmod(0o755)
    assert errors.strip() == (
        f"charloom: folder of checkpoints {folder} can't be read (Permission denied); "
        "make it readable, or choose another --workdir"
    )
    assert newest_step(workdir) == 300


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for a few checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size=32m,uid={os.geteuid()},mode=755"
    mount = [*sudo, "mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run([*sudo, "umount", str(folder)], check=True)


@pytest.mark.extra
def test_a_full_disk(tiny_records: str, small_disk: Path) -> None:
    workdir = small_disk / "workdir"
    process = start(tiny_records, workdir)
    wait_for(lambda: newest_step(workdir) >= 100, "step 100")
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    _, errors = finish(process, 1)
    assert re.fullmatch(
        r"charloom: a checkpoint needs \d+\.\d MB, 0\.\d MB are free in .*; free some and run the "
        "same command to continue from the previous checkpoint",
        errors.strip().splitlines()[-1],
    )
    assert newest_checkpoint(str(workdir)) == list_checkpoints(str(workdir))[0]
    assert not [name for name in os.listdir(workdir / "checkpoints") if ".tmp-" in name]
