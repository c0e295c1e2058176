"""Runs the compiled graph on this machine, with `kfp.local`.

Each task is a separate process, as on a cluster. docs/decisions/0003-kfp-local.md describes what
kfp.local lacks and how this module compensates.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import fcntl
import json
import os
import re
import shlex
import sys
import sysconfig
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp import dsl, local

from components.component_runtime import (
    ERROR_FILE_VARIABLE,
    GROUP_FILE_VARIABLE,
    OWNER_VARIABLE,
    read_error,
)
from components.evaluate.gate import PASSED
from components.export.registry import RegisteredModel, check_name
from components.run_settings import DEFAULTS, RunSettings
from model.config import Config, to_json
from model.errors import CharloomError, InputError, RestartableError
from model.files import lock_file, scratch_folder
from model.scratch import swept_folder
from pipelines.graph import train_language_model
from pipelines.local.output import RunOutput
from pipelines.local.stop_tasks import StoppableTasks

MAX_INPUT_BYTES = 100_000
"""kfp passes all arguments as one command-line word; Linux allows 128 KiB per word."""


UNKNOWN_PLACEHOLDERS = (
    dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER,
    dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER,
)
"""Exceptions of KFP unknown to kfp.local."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """Result of a run of the graph, and where its outputs are."""

    verdict: str
    """PASSED or REJECTED."""
    reasons: tuple[str, ...]
    """Why the gate rejected the model, or what it checked if the model passed."""
    registry_version: str | None
    """Folder of the published version; None if the model was rejected."""
    records: str
    """Folder of encoded text, vocabulary and dataset.json."""
    workdir: str
    """Folder of checkpoints, TensorBoard events and worker logs."""
    report_json: str
    """File of the report."""
    report_html: str
    """File of the report as an HTML page."""
    log: str
    """File with all output of KFP and the tasks."""


def run_pipeline(
    *,
    inputs: Sequence[str],
    root: str,
    config: Config,
    workers: int,
    model_name: str,
    settings: RunSettings = DEFAULTS,
) -> RunResult:
    """Prepares, trains, evaluates, and publishes the model if it passes the gate.

    Args:
      inputs: file names and glob patterns of the text; relative ones are resolved from the current
        folder.
      root: folder for all output: pipeline/, registry/, logs/.
      config: the whole configuration.
      workers: number of training processes.
      model_name: name of the model in the registry.
      settings: the run's settings.

    Raises:
      InputError: a bad argument, or bad input reported by a task.
      RejectedError: the vocabulary drift exceeds a limit.
      RestartableError: a task stopped through no fault of its input, or on SIGTERM or SIGHUP.
      CharloomError: a task failed otherwise.
      KeyboardInterrupt: Ctrl-C; the tasks have ended.
    """
    model = RegisteredModel(os.path.join(os.path.abspath(root), "registry"), model_name)
    arguments = {
        "corpus": json.dumps(list(inputs)),
        "preset": to_json(config),
        "settings": settings.to_settings(),
        "model_registry": model.registry,
        "model_name": model_name,
        "workers": workers,
    }
    check_name(model_name)
    if len(json.dumps(arguments["corpus"])) > MAX_INPUT_BYTES:
        raise InputError(
            f"--input lists {len(inputs)} names, too many for one command line; pass a pattern "
            "in quotes, such as --input 'folder/*.txt'"
        )
    if workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1")
    log = _make_folders(os.path.abspath(root))
    with (
        swept_folder() as scratch,
        _starter(scratch, os.path.abspath(root)) as programs,
        _adding_how_to_continue(model),
    ):
        outputs = _execute(
            arguments, root=os.path.abspath(root), scratch=scratch, programs=programs, log=log
        )
    return _read_result(outputs, log)


@contextlib.contextmanager
def _adding_how_to_continue(model: RegisteredModel) -> Iterator[None]:
    """Adds to an interruption's message how to continue: the graph itself can't resume."""
    try:
        yield
    except (RestartableError, KeyboardInterrupt) as stop:
        text = str(stop) or "stopped"
        if "charloom train " in text:  # the command that resumes the training
            compared = f" --champion {shlex.quote(model.folder)}" if model.has_pointer() else ""
            text += (
                f" (then, with the same --records and --workdir, charloom evaluate{compared}, and "
                f"charloom export --registry {shlex.quote(model.registry)} --name {model.name}; "
                "charloom run starts over)"
            )
        else:
            text += "; charloom run starts over"
        raise type(stop)(text) from None


def _make_folders(root: str) -> str:
    """Creates the folders below `root`; returns the name of this run's log."""
    try:
        for name in ("pipeline", "registry", "logs"):
            os.makedirs(os.path.join(root, name), exist_ok=True)
        started = time.strftime("run-%Y%m%d-%H%M%S")
        log = os.path.join(root, "logs", f"{started}-{uuid.uuid4().hex[:8]}.log")
        open(log, "x", encoding="utf-8").close()
        return log
    except OSError as error:
        raise InputError(
            f"can't write to --root {root} ({error.strerror}); choose another folder"
        ) from None


def _execute(
    arguments: Mapping[str, Any], *, root: str, scratch: str, programs: str, log: str
) -> dict[str, Any]:
    """Runs the graph and returns its declared outputs.

    In kfp 2.17.3 a local run returns all of them, artifacts as objects with a path, and `dsl.OneOf`
    of a parameter as the value of the branch that ran. (`dsl.OneOf` of an artifact raises "Expected
    1 artifact in ArtifactSelectorSpec", so the branches return strings.) So nothing below the
    pipeline root needs to be searched.
    """
    environment = _task_environment(scratch, programs)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=os.path.join(root, "pipeline"),
        workspace_root=os.path.join(scratch, "workspace"),
        raise_on_error=True,
    )
    with (
        open(log, "a", encoding="utf-8") as file,
        _locked(environment[OWNER_VARIABLE]),
        StoppableTasks(environment[GROUP_FILE_VARIABLE]) as tasks,
        _environment(environment),
        _quiet_kfp(RunOutput(sys.stdout, file, muted=lambda: tasks.stopped)),
    ):
        with contextlib.suppress(OSError):  # no locks here
            fcntl.flock(file, fcntl.LOCK_EX)  # `charloom runs gc` sees that this run is running
        failure = None
        try:
            outputs: dict[str, Any] = _graph_for_here()(**arguments).outputs
        except Exception as error:
            failure = error
    tasks.raise_if_stopped(read_error(environment[ERROR_FILE_VARIABLE]))
    if failure is not None:
        raise _describe_failure(failure, environment[ERROR_FILE_VARIABLE], log) from failure
    return outputs


def _graph_for_here() -> Any:
    """Returns the graph adapted to kfp.local 2.17.3.

    kfp.local would wait a minute and retry a task that reported bad input, and it fails on time
    placeholders, which it does not know.
    """
    graph = copy.deepcopy(train_language_model)
    spec = graph.pipeline_spec
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            task.ClearField("retry_policy")
            for value in task.inputs.parameters.values():
                constant = value.runtime_value.constant
                if constant.string_value in UNKNOWN_PLACEHOLDERS:
                    constant.string_value = ""
    return graph


def _read_result(outputs: Mapping[str, Any], log: str) -> RunResult:
    """Checks the graph's outputs: a version exactly when PASSED."""
    report = outputs["report"].path
    report_json = os.path.join(report, "report.json")
    with open(report_json, encoding="utf-8") as file:
        reasons = tuple(str(reason) for reason in json.load(file)["verdict"]["reasons"])
    verdict, version = outputs["verdict"], outputs["version"] or None
    if (verdict == PASSED) != (version is not None):
        raise CharloomError(f"verdict {verdict} and version {version} do not agree; see {log}")
    return RunResult(
        verdict=verdict,
        reasons=reasons,
        registry_version=version,
        records=outputs["records"].path,
        workdir=outputs["workdir"].path,
        report_json=report_json,
        report_html=os.path.join(report, "report.html"),
        log=log,
    )


def _describe_failure(error: Exception, error_file: str, log: str) -> CharloomError:
    """Returns the error that a task reported, or one that names the failed task."""
    reported = read_error(error_file)
    if reported is not None:
        return reported
    # kfp: Pipeline 'p' finished with status FAILURE. Inner task failed: 'a' inside 'b'.
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    failed = re.search(r"Inner task failed: '([^']+)'", text)
    if failed:
        return CharloomError(f"task {failed[1]} failed; see the end of {log}")
    return CharloomError(f"the pipeline failed ({' '.join(text.split())}); see {log}")


@contextlib.contextmanager
def _starter(*places: str) -> Iterator[str]:
    """Yields a folder with a program named `python3` that runs this interpreter.

    kfp.local replaces every `python3` in a task's command line by sys.executable, even in arguments
    and unquoted: a folder named python3 in an argument, or a space in the interpreter's path, would
    break the task. So tasks are started by this program, and `_quiet_kfp` neutralises the
    replacement.

    Args:
      *places: where to create the folder: the first from which programs can be started.

    Raises:
      InputError: programs can't be started from any of them; the tasks would be run by any other
        `python3`.
    """
    for place in places:
        with scratch_folder(place) as folder:
            starter = os.path.join(folder, "python3")
            with open(starter, "w", encoding="utf-8") as file:
                file.write(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
            os.chmod(starter, 0o755)
            if os.access(starter, os.X_OK):
                yield folder
                return
    raise InputError(
        f"programs can't be started from {' or '.join(places)} (mounted noexec); set TMPDIR to a "
        "folder from which they can"
    )


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Creates a file and locks it for the duration of the block."""
    with open(path, "w", encoding="utf-8") as file:
        lock_file(file)
        yield


def _task_environment(scratch: str, programs: str) -> dict[str, str]:
    """Returns the environment variables of the tasks.

    Args:
      scratch: a temporary folder.
      programs: folder of `_starter`.
    """
    # kfp's shell script leaves a folder behind for every task: put it inside scratch.
    temporary = os.path.join(scratch, "tmp")
    os.makedirs(temporary)
    variables = {
        "PYTHONSAFEPATH": "1",  # kfp.local's `python3 -m` would import from the current folder
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
        "TMPDIR": temporary,
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1"),
        ERROR_FILE_VARIABLE: os.path.join(scratch, "error.json"),
        GROUP_FILE_VARIABLE: os.path.join(scratch, "group"),
        OWNER_VARIABLE: os.path.join(scratch, "owner"),
    }
    code = str(Path(os.path.abspath(__file__)).parents[2])
    if code not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths = [code, os.environ.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return variables


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the duration of the context.

    The only other way to pass them to a task is the compiled spec, which is the cluster's too.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet_kfp(output: RunOutput) -> Iterator[None]:
    """Redirects kfp's output to `output` and silences warnings that don't apply here."""
    executable = sys.executable
    with warnings.catch_warnings(), contextlib.redirect_stdout(output):
        # The image's name lacks "python", and display names, memory and processors of pods have no
        # effect: but there are no pods here.
        warnings.filterwarnings("ignore", "You may be attemping to run", RuntimeWarning)
        warnings.filterwarnings("ignore", r"Task '.*': settings \[", UserWarning)
        sys.executable = "python3"  # see _starter
        try:
            yield
        finally:
            sys.executable = executable
            output.finish()
