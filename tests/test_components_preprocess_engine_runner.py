from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.utils.counters import CounterFactory
from listening import listening, strangers_reach
from planted import plant
from volume import keep_first
from worker_processes import wait_for

from components.preprocess.engine import runner
from components.preprocess.engine.runner import check_options
from model.errors import EXIT_RESTARTABLE


def test_one_worker_works_in_this_process() -> None:
    assert check_options(1, []) == [
        "--runner=FnApiRunner",
        "--direct_running_mode=in_memory",
        "--direct_num_workers=1",
    ]


@pytest.mark.parametrize("workers", [2, 7])
def test_more_workers_are_processes(workers: int) -> None:
    assert check_options(workers, [])[1:] == [
        "--direct_running_mode=multi_processing",
        f"--direct_num_workers={workers}",
    ]


def test_by_default_there_are_as_many_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "count_workers", lambda: 5)
    assert check_options(0, []) == check_options(5, [])


def test_options_of_the_user_come_last() -> None:
    assert check_options(1, ["--direct_num_workers=3"])[-1] == "--direct_num_workers=3"


def test_another_runner_may_have_options_of_its_own() -> None:
    extra = ["--runner=FlinkRunner", "--some_flink_option=1"]
    assert check_options(1, extra)[-2:] == extra


def test_importing_beam_leaves_logging_as_it_was() -> None:
    assert logging.root.manager.disable == logging.NOTSET
    assert logging.getLogger("apache_beam").level == logging.NOTSET


CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from components.preprocess.main import run
from model.config import DataConfig
from model.errors import CharloomError
try:
    run(
        inputs=[sys.argv[1]],
        records=sys.argv[2],
        config=DataConfig(record_words=40, document="line"),
        beam_workers=int(sys.argv[3]),
    )
except CharloomError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start(
    inputs: Path, folder: Path, workers: int, *, current: Path | None = None, **variables: str
) -> subprocess.Popen[str]:
    """Starts the stage in a session of its own and waits until its folder is there."""
    arguments = [str(inputs), str(folder / "records"), str(workers)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", CODE, *arguments],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        cwd=current,
        env=os.environ | variables,
    )
    wait_for(lambda: list(folder.iterdir()), "the folder", seconds=300)
    return process


def children(process_id: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for task in Path(f"/proc/{process_id}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text().split())
    return found


def pool_of(process_id: int) -> tuple[int, list[int]]:
    """Waits for the pool and its two workers; what it imports starts other processes, one by one."""

    def find() -> tuple[int, list[int]] | None:
        found = [(pool, children(pool)) for pool in children(process_id)]
        return found[0] if [len(workers) for _, workers in found] == [2] else None

    pool = wait_for(find, "the pool's workers", seconds=300)
    assert pool
    return pool


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A text of several blocks, which takes some seconds."""
    lines = "".join(file.read_text(encoding="utf-8") for file in sorted(corpus.iterdir()))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(lines * 500, encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "working"), keep_first([(2, True), (1, False), (2, False)]))
def test_ctrl_c_leaves_nothing(text: Path, tmp_path: Path, workers: int, working: bool) -> None:
    """Once the pool's workers are there, or as early as the folder is."""
    process = start(text, tmp_path, workers)
    if working:
        pool_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGINT, said[-2000:]
    assert list(tmp_path.iterdir()) == []
    wait_for(lambda: not session_of(process.pid), "the end of all", seconds=300)


@pytest.mark.slow
@pytest.mark.parametrize("victim", keep_first(["worker", "pool"]))
def test_a_process_that_ends_early_is_no_hang(text: Path, tmp_path: Path, victim: str) -> None:
    process = start(text, tmp_path, 2)
    pool, workers = pool_of(process.pid)
    os.kill(pool if victim == "pool" else workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == EXIT_RESTARTABLE, said[-2000:]
    assert said.splitlines()[-1].startswith("a Beam worker process ended before its work")
    assert list(tmp_path.iterdir()) == []
    wait_for(lambda: not session_of(process.pid), "the end of all", seconds=300)


@pytest.mark.slow
def test_the_pool_ends_with_its_process(text: Path, tmp_path: Path) -> None:
    process = start(text, tmp_path, 2)
    pool, workers = pool_of(process.pid)
    assert listening(process.pid)
    assert [strangers_reach(one) for one in (process.pid, pool, *workers)] == [[]] * 4
    process.kill()
    process.communicate(timeout=300)
    wait_for(lambda: not session_of(process.pid), "the end of all", seconds=300)


@pytest.mark.slow
def test_neither_the_current_folder_nor_a_proxy_gets_in_between(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    process = start(
        text, out, 2, current=plant(tmp_path / "planted"), http_proxy="http://127.0.0.1:9"
    )
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-2000:]
    assert (out / "records" / "COMPLETED").exists()


def session_of(session: int) -> list[str]:
    """Returns the processes of a session that are there."""
    rows = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    fields = [row.rpartition(")")[2].split() for row in rows]
    return [
        row
        for row, (state, _, _, own, *_) in zip(rows, fields, strict=True)
        if int(own) == session and state != "Z"
    ]


def test_a_bundle_does_not_wait_long_for_beam_s_sampler() -> None:
    sampler = StateSampler("test", CounterFactory())
    assert sampler.sampling_period_ms == 10


def test_who_hands_out_the_work_needs_no_tensorflow() -> None:
    code = "import sys, components.preprocess.main; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.call([sys.executable, "-c", code]) == 0
