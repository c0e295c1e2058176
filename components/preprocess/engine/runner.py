"""Sets up Apache Beam for `prepare`: runner, number of workers, quiet output."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence

from components.preprocess.beam_setup import quiet_beam, quiet_import, sample_often
from components.preprocess.engine.resources import count_workers
from components.preprocess.engine.worker_pool import WORKER_ENDED, WorkerPool
from model.errors import CharloomError, InputError, RestartableError

with quiet_import():
    import apache_beam as beam
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import (
        DirectOptions,
        PipelineOptions,
        PortableOptions,
        StandardOptions,
    )
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners import create_runner
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    from components.preprocess.engine.pool_environment import PoolEnvironment

sample_often()

__all__ = ["beam", "check_options", "has_one_worker", "open_pipeline", "quiet_import"]

_RUNNER = "FnApiRunner"
_LOG_LINES = 20
_EXCEPTION = re.compile(r"(Caused by: )?[\w.$]*(Error|Exception|Failure)\b")
_PATIENCE_S = 5.0


def check_options(workers: int, extra: Sequence[str]) -> list[str]:
    """Returns the flags for Beam; the user's flags come last and take precedence.

    Args:
      workers: processes; 1 runs in this process, 0 as many as there is room for.
      extra: options as on Beam's command line.

    Raises:
      InputError: an invalid number or option.
    """
    if workers < 0:
        raise InputError(f"--beam-workers is {workers}; it must be 0 (all cores) or more")
    workers = workers or count_workers()
    flags = [
        # Named explicitly: `DirectRunner` may delegate to Prism, which downloads a program.
        f"--runner={_RUNNER}",
        f"--direct_running_mode={'in_memory' if workers == 1 else 'multi_processing'}",
        f"--direct_num_workers={workers}",
        *extra,
    ]
    if not extra:
        return flags
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), quiet_beam():
            options = PipelineOptions(flags)
            known = options.get_all_options()
            every = options.get_all_options(retain_unknown_options=True)
    except SystemExit:  # raised by argparse after printing its help
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise InputError(f"Beam does not understand --beam-options: {reason}") from None
    unknown = sorted(set(every) - set(known))
    if unknown and _is_local(options):  # others get more options from their server
        raise InputError(
            f"Beam has no option --{unknown[0]}; remove it from --beam-options, or name the "
            "runner that has it"
        )
    if options.view_as(StandardOptions).no_wait_until_finish:
        raise InputError("--no_wait_until_finish: the records need the job's results; remove it")
    _check_runner(options)
    FileSystems.set_options(options)  # files are listed before a pipeline exists
    return flags


def _check_runner(options: PipelineOptions) -> None:
    """Raises InputError if the runner does not exist, or needs a job server but none is given."""
    name = options.view_as(StandardOptions).runner
    try:
        create_runner(name)
    except (AttributeError, ImportError, ValueError) as error:
        raise InputError(f"--runner={name} can't be used: {error}") from None
    if name == "PortableRunner":
        _check_job_server(options)


def _check_job_server(options: PipelineOptions) -> None:
    """Raises InputError if no job server answers; Beam would wait 5 minutes for it."""
    endpoint = options.view_as(PortableOptions).job_endpoint
    host, _, port = (endpoint or "").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(
            f"--runner=PortableRunner needs --job_endpoint=HOST:PORT, not {endpoint!r}; name the "
            "job server in --beam-options"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise InputError(
            f"no job server answers at --job_endpoint={endpoint} ({error}); start it, or correct "
            "the address"
        ) from None


@contextlib.contextmanager
def open_pipeline(
    flags: Sequence[str], log_path: str, *, elements: int | None = None
) -> Iterator[beam.Pipeline]:
    """Yields a pipeline that runs at the end of the block.

    Args:
      flags: result of `check_options`.
      log_path: receives the worker processes' stderr; its end is shown on failure.
      elements: maximum number of useful workers.

    Raises:
      RestartableError: a worker process ended early.
    """
    running = False
    try:
        with quiet_beam():
            options = PipelineOptions(list(flags))
            with (
                _workers(options, log_path, elements) as runner,
                _stderr_of_workers(options, log_path),
            ):
                pipeline = beam.Pipeline(runner=runner, options=options)
                try:
                    with pipeline:
                        yield pipeline
                        running = True
                except BaseException as error:
                    if _is_interrupt(error) or isinstance(error, SystemExit):  # Ctrl-C, SIGTERM
                        _cancel(pipeline)
                    raise
    except Exception as error:
        if _is_interrupt(error):  # Beam wraps it like any other
            raise KeyboardInterrupt from None
        if running and not _is_local(options):
            raise CharloomError(_describe_failure(error, options)) from error
        if os.path.exists(log_path):
            with open(log_path, encoding="utf-8", errors="replace") as file:
                print("".join(file.readlines()[-_LOG_LINES:]), file=sys.stderr, end="")
        if "Channel closed prematurely" in str(error):  # Beam has no specific class for it
            raise RestartableError(WORKER_ENDED) from error
        raise


def has_one_worker(pipeline: beam.Pipeline) -> bool:
    """Returns whether a single local worker runs the pipeline, so that nothing is distributed."""
    workers = pipeline.options.view_as(DirectOptions).direct_num_workers
    return _is_local(pipeline.options) and workers == 1


@contextlib.contextmanager
def _workers(
    options: PipelineOptions, log_path: str, elements: int | None
) -> Iterator[FnApiRunner | None]:
    """Yields a runner with workers from our pool if the options ask for local processes."""
    direct = options.view_as(DirectOptions)
    if not _is_local(options) or direct.direct_running_mode != "multi_processing":
        yield None
        return
    direct.direct_running_mode = "in_memory"  # "as the runner is made"
    workers = min(direct.direct_num_workers or count_workers(), elements or sys.maxsize)
    direct.direct_num_workers = workers
    if workers == 1:
        yield None
        return
    pool = WorkerPool.shared()
    well = False
    try:
        with _watch(pool):
            yield FnApiRunner(
                default_environment=PoolEnvironment(log_path), provision_info=_provision(options)
            )
        well = True
    finally:
        if pool.process.poll() is not None:
            print(pool.read_log(), file=sys.stderr, end="")
        pool.end_workers(_PATIENCE_S if well else 0.0)


def _provision(options: PipelineOptions) -> ExtendedProvisionInfo:
    """Passes options to worker processes, which Beam's local runner does not do; S3 needs them."""
    given = options.get_all_options(drop_default=True)
    encoded = JobServiceHandle.encode_pipeline_options(given)
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return ExtendedProvisionInfo(info)


@contextlib.contextmanager
def _watch(pool: WorkerPool) -> Iterator[None]:
    """Raises RestartableError in the main thread soon after a worker of the pool has failed.

    Beam notices when a connected worker ends, but waits forever for one that ended earlier.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main:
        yield
        return

    def stop(*unused: object) -> None:
        raise RestartableError(WORKER_ENDED)

    def watch() -> None:
        while not done.wait(0.5):
            if pool.has_failed():
                if not done.wait(_PATIENCE_S) and main.ident:
                    signal.pthread_kill(main.ident, signal.SIGUSR1)  # interrupts its wait
                return

    before = signal.signal(signal.SIGUSR1, stop)
    done = threading.Event()
    watcher = threading.Thread(target=watch, name="watch-beam-workers", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


@contextlib.contextmanager
def _stderr_of_workers(options: PipelineOptions, log_path: str) -> Iterator[None]:
    """Redirects error output of LOOPBACK workers, which are threads here, to the log."""
    if _is_local(options):
        yield
        return
    with open(log_path, "a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
        yield


def _cancel(pipeline: beam.Pipeline) -> None:
    """Cancels a job that runs elsewhere; a local one has already ended."""
    result = getattr(pipeline, "result", None)  # set once the job was accepted
    if result is not None:
        with contextlib.suppress(Exception):  # the job or its server may have ended
            result.cancel()


def _describe_failure(error: Exception, options: PipelineOptions) -> str:
    """Summarises in one line what a remote runner reports: a traceback, possibly inside Java's."""
    runner = options.view_as(StandardOptions).runner or "PortableRunner"  # which removes the option
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    ends = [place for place, line in enumerate(said) if "[while running" in line]
    until = ends[-1] + 1 if ends else len(said)
    begins = [place for place, line in enumerate(said[:until]) if _EXCEPTION.match(line)]
    if begins:
        cause = " ".join(said[begins[-1] : until if ends else begins[-1] + 1])
    else:
        cause = f"{type(error).__name__}: {' '.join(said)}"
    return f"the job failed on {runner}: {cause[:300]}; --debug and the runner's log show more"


def _is_interrupt(error: BaseException | None) -> bool:
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _is_local(options: PipelineOptions) -> bool:
    return bool(options.view_as(StandardOptions).runner == _RUNNER)
