"""Four workers as on a cluster: each in a network namespace, with the host names of a JobSet."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import netns
import pytest
from surroundings import lacking
from worker_processes import wait_for

from model.checkpointing.checkpoints import list_checkpoints, read_checkpoint
from model.config import to_json, with_overrides
from model.metrics import read_metrics
from model.presets import tiny

pytestmark = [pytest.mark.netns, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
JOBSET = "train-0b7e5a1c-3d52-4c4e-9a68-2f6c1de80b9a"  # of the greatest length
WORKERS = 4
STEPS = 300
SETTINGS = {
    "train.lanes": WORKERS,
    "train.steps": STEPS,
    "train.log_steps": 20,
    "train.valid_steps": 100,
    "train.checkpoint_steps": 50,
}

Process = subprocess.Popen[str]


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    missing = netns.missing_program()
    if missing:
        lacking(f"there is no {missing} on the PATH")
    reason = netns.why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def network() -> Iterator[netns.Network]:
    with netns.Network(JOBSET, workers=WORKERS) as network:
        yield network


def start(
    network: netns.Network, records: str, workdir: Path, index: int, *, seconds: float = 120
) -> Process:
    """Starts a worker with what a JobSet's pod has, and a proxy that is not there."""
    workdir.mkdir(exist_ok=True)  # as the launcher does
    config = workdir.parent / f"{workdir.name}-{index}.json"
    config.write_text(
        to_json(with_overrides(tiny(), [f"{name}={value}" for name, value in SETTINGS.items()]))
    )
    command = [sys.executable, "-m", "components.train.worker", "--records", records]
    command += ["--workdir", str(workdir), "--config", str(config)]
    command += ["--host-pattern", network.host("{index}"), "--workers", str(WORKERS)]
    command += ["--peer-seconds", str(seconds)]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    environment |= {"JOB_COMPLETION_INDEX": str(index), "RESTART_ATTEMPT": "0"}
    environment |= {"PYTHONPATH": str(ROOT), "http_proxy": "http://10.99.0.99:3128"}
    return network.start(index, command, environment)


def finish(workers: list[Process], code: int, *, seconds: float = 240) -> list[str]:
    """Waits until all have ended with one code; returns what they said."""
    deadline = time.monotonic() + seconds
    outputs = [worker.communicate(timeout=deadline - time.monotonic())[0] for worker in workers]
    ends = "\n".join(output[-1500:] for output in outputs)
    assert [worker.returncode for worker in workers] == [code] * len(workers), ends
    return outputs


def newest_step(workdir: Path) -> int:
    paths = list_checkpoints(str(workdir))
    return int(paths[0][-8:]) if paths else 0


def losses(workdir: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(str(workdir)) if "loss" in row}


@pytest.fixture(scope="module")
def undisturbed(tiny_records: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed") / "workdir"
    with netns.Network(JOBSET, workers=WORKERS) as network:
        network.name(*range(WORKERS))
        finish([start(network, tiny_records, workdir, index) for index in range(WORKERS)], 0)
    assert list(losses(workdir)) == list(range(20, STEPS + 1, 20))
    return workdir


def assert_same(workdir: Path, undisturbed: Path) -> None:
    ours, theirs = (Path(list_checkpoints(str(path))[0]) for path in (workdir, undisturbed))
    assert (ours.name, theirs.name) == (f"step-{STEPS:08d}",) * 2
    assert (ours / "arrays.npz").read_bytes() == (theirs / "arrays.npz").read_bytes()
    assert read_checkpoint(str(ours)).meta == read_checkpoint(str(theirs)).meta
    assert losses(workdir) == losses(undisturbed)


@pytest.mark.extra
def test_one_is_cut_off_and_all_start_again(
    network: netns.Network, tiny_records: str, undisturbed: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "workdir"
    network.name(0, 1, 2)
    workers = [start(network, tiny_records, workdir, index) for index in range(WORKERS)]
    for worker in workers:
        wait_for(lambda worker=worker: netns.listens(worker, 2222), "a worker")
    time.sleep(2)  # the others ask for a name that is not there yet, again and again
    assert [worker.poll() for worker in workers] == [None] * WORKERS
    assert not list(workdir.iterdir())
    network.name(3)
    wait_for(lambda: newest_step(workdir) >= 100, "step 100")
    network.cut_off(2)
    for output in finish(workers, 75, seconds=300):
        error = output[output.rindex("error: ") :]
        assert re.match(r"error: worker \d lost (worker \d|its peers) in step \d+", error), output
    reached = newest_step(workdir)
    assert 100 <= reached < STEPS

    network.rejoin(2)
    finish([start(network, tiny_records, workdir, index) for index in range(WORKERS)], 0)
    assert_same(workdir, undisturbed)


@pytest.mark.extra
def test_one_is_asked_to_stop_and_all_save_the_same_step(
    network: netns.Network, tiny_records: str, undisturbed: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "workdir"
    network.name(*range(WORKERS))
    workers = [start(network, tiny_records, workdir, index) for index in range(WORKERS)]
    wait_for(lambda: newest_step(workdir) >= 50, "step 50")
    workers[2].send_signal(signal.SIGTERM)
    told = {output[output.rindex("error: ") :] for output in finish(workers, 75, seconds=300)}
    assert told == {f"error: stopped and saved at step {newest_step(workdir)}\n"}
    finish([start(network, tiny_records, workdir, index) for index in range(WORKERS)], 0)
    assert_same(workdir, undisturbed)


def test_who_is_missing_and_why(network: netns.Network, tiny_records: str, tmp_path: Path) -> None:
    network.name(0, 1, 2)
    workers = [start(network, tiny_records, tmp_path / "w", index, seconds=8) for index in (0, 1)]
    missing = f"worker 2 ({network.host(2)}:2222), worker 3 ({network.host(3)}:2222)"
    reasons = (
        "worker 2's port does not answer (Connection refused); worker 3's name does not resolve"
    )
    outputs = finish(workers, 75)
    assert f"error: {missing} did not arrive within 8 s; {reasons}\n" in "".join(outputs)
    for output in outputs:
        assert missing in output
        assert reasons in output
