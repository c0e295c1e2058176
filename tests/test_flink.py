"""The `prepare` stage on engines that run outside of it, through Beam's job API.

`-m flink` runs them all: Flink with the mini-cluster in its job server's jar, where that jar is
(see docs/running-beam-on-flink.md); Prism, Beam's engine in Go, where it is; and always Beam's job
server in Python, to which `prepare` speaks just as it does to Flink's.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_corpus import CONFIG, contents, write_corpus
from flink_server import (
    FLINK_JAR,
    PRISM,
    JobServer,
    beam_command,
    find_flink_jar,
    find_prism,
    flink_command,
    free_port,
    prism_command,
    run_job_server,
)

from components.preprocess.engine.runner import beam, check_options, open_pipeline
from components.preprocess.main import run
from model.data.records import Dataset
from model.errors import CharloomError, InputError

pytestmark = [pytest.mark.flink, pytest.mark.slow]

ENDED = {"DONE", "FAILED", "CANCELLED"}


def command_of(engine: str, port: int, folder: Path) -> list[str]:
    """Returns the command of an engine's job server; skips if it is not there."""
    if engine == "beam":
        return beam_command(port)
    if engine == "prism":
        prism = find_prism()
        if not prism:
            pytest.skip(f"no Prism: {PRISM} names none, and there is none on the path")
        return prism_command(prism, port)
    jar = find_flink_jar()
    if not jar:
        pytest.skip(
            f"no job server of Flink: {FLINK_JAR} names no jar and Maven's local repository has none"
        )
    return flink_command(jar, port, folder)


@pytest.fixture(scope="module", params=["flink", "prism", "beam"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JobServer]:
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    command = command_of(request.param, port, folder)
    with run_job_server(request.param, command, port, folder / "log") as server:
        failed = request.session.testsfailed
        yield server
        if request.session.testsfailed > failed:
            print(server.log_end())


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("texts") / "in")


@pytest.fixture(scope="module")
def local_records(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    records = tmp_path_factory.mktemp("local") / "records"
    run(inputs=[str(texts)], records=str(records), config=CONFIG)
    return contents(records)


def test_an_engine_gives_the_same_bytes(
    server: JobServer,
    texts: Path,
    local_records: dict[str, bytes],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = set(server.jobs())
    records = tmp_path / "records"
    options = [*server.options, "--parallelism=2"]
    capfd.readouterr()
    run(inputs=[str(texts)], records=str(records), config=CONFIG, beam_options=options)
    said = capfd.readouterr().err
    states = {state for job, state in server.jobs().items() if job not in before}
    assert states == {"DONE"}  # the engine did it, not this process alone
    found = contents(records)
    assert sorted(found) == sorted(local_records)
    assert [name for name in found if found[name] != local_records[name]] == []
    assert "beam" not in said.lower(), said
    with Dataset.open(str(records)) as dataset:
        assert len(dataset.info["splits"]["train"]["shards"]) > 2


def fail_on_seven(number: int) -> int:
    if number == 7:
        raise ArithmeticError("seven is no good")
    return number


def test_a_failed_job_is_one_line(
    server: JobServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = check_options(1, server.options)
    capfd.readouterr()
    with (
        pytest.raises(CharloomError) as failed,
        open_pipeline(flags, str(tmp_path / "log")) as pipeline,
    ):
        _ = pipeline | beam.Create(range(9)) | beam.Reshuffle() | "Fail" >> beam.Map(fail_on_seven)
    message = str(failed.value)
    assert message.startswith("the job failed on PortableRunner: ArithmeticError: seven is no good")
    assert "Fail" in message
    assert "\n" not in message
    assert len(message) < 400
    said = capfd.readouterr().err
    assert not said, said


CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda *unused: sys.exit(75))
sys.path.insert(0, sys.argv[1])
from engine_corpus import CONFIG
from components.preprocess.main import run
run(inputs=[sys.argv[2]], records=sys.argv[3], config=CONFIG, beam_options=sys.argv[4:])
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 75)]
)
def test_a_signal_stops_the_job(
    server: JobServer, texts: Path, tmp_path: Path, number: int, code: int
) -> None:
    if server.name == "prism":
        pytest.skip("Prism 2.77 itself ends, now and then, when a job is cancelled")
    if server.name == "beam":
        pytest.skip("Beam's job server in Python can't cancel a job")
    before = set(server.jobs())
    here = str(Path(__file__).parent)
    arguments = [here, str(texts), str(tmp_path / "records"), *server.options]
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_state(server, before, {"RUNNING"})
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code, said[-2000:]
    assert wait_for_state(server, before, ENDED) == {"CANCELLED"}
    assert list(tmp_path.iterdir()) == []


def wait_for_state(server: JobServer, before: set[str], states: set[str]) -> set[str]:
    """Waits until all new jobs, one at least, are in one of `states`; returns theirs."""
    deadline = time.monotonic() + 300
    while True:
        found = {state for job, state in server.jobs().items() if job not in before}
        if found and found <= states:
            return found
        assert time.monotonic() < deadline, f"{found}\n{server.log_end()}"
        time.sleep(0.05)


# Options that can't work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--runner=PortableRunner needs --job_endpoint=HOST:PORT"),
        (["--job_endpoint=localhost"], "needs --job_endpoint=HOST:PORT, not 'localhost'"),
        (["--job_endpoint=localhost:1"], "no job server answers at --job_endpoint=localhost:1"),
    ],
)
def test_a_job_server_that_is_not_there(options: list[str], message: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=message):
        check_options(1, ["--runner=PortableRunner", *options])
    assert time.monotonic() - began < 60


def test_a_pipeline_is_waited_for() -> None:
    with pytest.raises(InputError, match="--no_wait_until_finish"):
        check_options(1, ["--no_wait_until_finish"])


@pytest.mark.parametrize("runner", ["FlinkRuner", "no_such_module.Runner", "json.Runner"])
def test_a_runner_that_is_not_there(runner: str) -> None:
    with pytest.raises(InputError, match=f"--runner={runner} can't be used: "):
        check_options(1, [f"--runner={runner}"])
