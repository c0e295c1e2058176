"""Beam job servers as subprocesses: Flink's, with its embedded mini-cluster, and two that need no Flink."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

FLINK_JAR = "CHARLOOM_FLINK_JOB_SERVER"
"""Environment variable: path of a `beam-runners-flink-*-job-server-*.jar`."""
PRISM = "CHARLOOM_PRISM"
"""Environment variable: path of Beam's Prism, built with `go install`."""
LOG_LINES = 40
START_S = 120.0


@dataclasses.dataclass(frozen=True)
class JobServer:
    """A job server that answers."""

    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def options(self) -> list[str]:
        """The Beam options of a pipeline that runs on it, its workers in the process that asks."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self.port}",
            "--environment_type=LOOPBACK",
        ]

    def jobs(self) -> dict[str, str]:
        """Returns the state of each job, by its id."""
        with grpc.insecure_channel(f"localhost:{self.port}") as channel:
            stub = beam_job_api_pb2_grpc.JobServiceStub(channel)
            answer = stub.GetJobs(beam_job_api_pb2.GetJobsRequest(), timeout=20)
        names = beam_job_api_pb2.JobState.Enum
        return {job.job_id: names.Name(job.state) for job in answer.job_info}

    def log_end(self) -> str:
        """Returns the last lines that the server wrote."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])


def find_flink_jar() -> Path | None:
    """Returns the jar that the environment names, else the newest in Maven's local repository.

    Raises:
      FileNotFoundError: the environment names a file that is not there.
    """
    named = os.environ.get(FLINK_JAR)
    if named:
        if not Path(named).is_file():
            raise FileNotFoundError(f"{FLINK_JAR} is {named}, which is no file")
        return Path(named)
    repository = Path.home() / ".m2" / "repository" / "org" / "apache" / "beam"
    jars = repository.glob(
        "beam-runners-flink-*-job-server/*/beam-runners-flink-*-job-server-*.jar"
    )
    return max(jars, key=lambda jar: jar.stat().st_mtime, default=None)


def find_prism() -> str | None:
    """Returns the path of Prism, if it is there."""
    return os.environ.get(PRISM) or shutil.which("prism")


def flink_command(jar: Path, port: int, folder: Path) -> list[str]:
    """Returns the command of Flink's job server, which runs jobs on a Flink inside it."""
    return [
        "java",
        "-Xmx2g",
        f"-Djava.io.tmpdir={folder}",
        # Flink and Arrow reach into the JDK; from Java 17 on that has to be allowed.
        "--add-opens=java.base/java.lang=ALL-UNNAMED",
        "--add-opens=java.base/java.nio=ALL-UNNAMED",
        "--add-opens=java.base/java.util=ALL-UNNAMED",
        "-jar",
        str(jar),
        "--flink-master=[local]",
        "--job-host=localhost",
        f"--job-port={port}",
        "--artifact-port=0",
        "--expansion-port=0",
        f"--artifacts-dir={folder / 'artifacts'}",
    ]


def beam_command(port: int) -> list[str]:
    """Returns the command of Beam's own job server, in Python: one machine, no engine."""
    module = "apache_beam.runners.portability.local_job_service_main"
    return [sys.executable, "-m", module, f"--port={port}"]


def prism_command(prism: str, port: int) -> list[str]:
    """Returns the command of Prism, Beam's own engine in Go: one machine."""
    return [prism, f"-job_port={port}", "-serve_http=false", "-log_kind=text"]


def free_port() -> int:
    """Returns a port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def run_job_server(name: str, command: Sequence[str], port: int, log: Path) -> Iterator[JobServer]:
    """Starts a job server, gives it when it answers, and stops its process group at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = JobServer(name, port, log, process)
    try:
        _wait_until_it_answers(server)
        yield server
    finally:
        _stop(process)


def _wait_until_it_answers(server: JobServer) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            server.jobs()
        except grpc.RpcError as error:
            code = server.process.poll()
            if code is None and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            why = f"ended with {code}" if code is not None else f"no answer in {START_S:.0f} s"
            raise RuntimeError(f"the job server: {why} ({error})\n{server.log_end()}") from None
        return


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=300)
            break
