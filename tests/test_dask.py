"""The `prepare` stage on a Dask cluster of two worker processes, by Beam's own DaskRunner.

Needs `distributed`, of the extra `dev`. That runner (of Beam 2.77) asks more of a pipeline than Beam
does: it computes the last step and what leads to it, leaves out what `finish_bundle` gives, mixes
up tagged outputs, and computes a side input, with all steps before it, once more. So these tests
also see to it that the stage's steps can be run again, and that none of those things comes in.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import distributed
import pytest
from engine_corpus import CONFIG, contents, write_corpus

from components.preprocess.engine.runner import beam, check_options, open_pipeline
from components.preprocess.main import run
from model.errors import CharloomError

pytestmark = [pytest.mark.flink, pytest.mark.slow, pytest.mark.extra("test_flink.py")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    """Two worker processes, one thread each, that find the modules of this folder."""
    here = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", here, prepend=os.pathsep)
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0
        ) as cluster:
            yield cluster


@pytest.fixture(autouse=True)
def closed_clients() -> Iterator[None]:
    """Beam leaves its client open, which would then look for a cluster that is gone."""
    yield
    with contextlib.suppress(ValueError):  # there is none
        while True:
            distributed.default_client().close()


def options_of(cluster: distributed.LocalCluster) -> list[str]:
    return [
        "--runner=apache_beam.runners.dask.dask_runner.DaskRunner",
        f"--dask_client_address={cluster.scheduler_address}",
        "--dask_npartitions=8",
    ]


def worker_pids(cluster: distributed.LocalCluster) -> set[int]:
    with distributed.Client(cluster) as client:
        return set(client.run(os.getpid).values())


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("texts") / "in")


@pytest.fixture(scope="module")
def local_records(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    records = tmp_path_factory.mktemp("local") / "records"
    run(inputs=[str(texts)], records=str(records), config=CONFIG)
    return contents(records)


def differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    return [
        name for name in sorted(found.keys() | expected) if found.get(name) != expected.get(name)
    ]


def test_dask_gives_the_same_bytes(
    cluster: distributed.LocalCluster,
    texts: Path,
    local_records: dict[str, bytes],
    tmp_path: Path,
) -> None:
    records = tmp_path / "records"
    options = options_of(cluster)
    run(inputs=[str(texts)], records=str(records), config=CONFIG, beam_options=options)
    assert differing(contents(records), local_records) == []


def test_a_worker_that_dies_changes_nothing(
    cluster: distributed.LocalCluster,
    texts: Path,
    local_records: dict[str, bytes],
    tmp_path: Path,
) -> None:
    """Dask runs again what the dead worker had done, and what it was doing."""
    before = worker_pids(cluster)
    assert len(before) == 2
    done = threading.Event()

    def kill() -> None:
        """Kills a worker as soon as it has left something in the folder."""
        while not done.wait(0.02):
            if any(path.name.endswith(".pieces") for path in tmp_path.rglob("*")):
                os.kill(min(before), signal.SIGKILL)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run(
            inputs=[str(texts)],
            records=str(tmp_path / "records"),
            config=CONFIG,
            beam_options=options_of(cluster),
        )
    finally:
        done.set()
        killer.join()
    assert differing(contents(tmp_path / "records"), local_records) == []
    deadline = time.monotonic() + 300
    while len(after := worker_pids(cluster)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(before & after) == 1  # one was killed


def fail_on_seven(number: int) -> int:
    if number == 7:
        raise ArithmeticError("seven is no good")
    return number


def test_a_failed_step_is_one_line(cluster: distributed.LocalCluster, tmp_path: Path) -> None:
    flags = check_options(1, options_of(cluster))
    with (
        pytest.raises(CharloomError) as failed,
        open_pipeline(flags, str(tmp_path / "log")) as pipeline,
    ):
        _ = pipeline | beam.Create(range(9)) | beam.Reshuffle() | "Fail" >> beam.Map(fail_on_seven)
    assert "seven is no good" in str(failed.value)
    assert "\n" not in str(failed.value)
