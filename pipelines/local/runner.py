"""Runs the compiled graph on this machine, with `kfp.local`.

Each task is a process of its own, as on a cluster. docs/decisions/0003-kfp-local.md says
what kfp.local does not do and how this module makes up for it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import re
import shlex
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp import dsl, local

from components.component_runtime import ERROR_FILE_VARIABLE, GROUP_FILE_VARIABLE, OWNER_VARIABLE
from components.evaluate.gate import PASSED
from components.export.registry import CHAMPION_FILE, check_name
from components.run_settings import DEFAULTS, RunSettings
from model.config import Config, to_json
from model.errors import CharloomError, InputError, RejectedError, RestartableError
from pipelines.graph import train_language_model
from pipelines.local.output import RunOutput
from pipelines.local.stop_tasks import StoppableTasks

MAX_INPUT_BYTES = 100_000
"""kfp passes all arguments as one word of a command line; Linux allows 128 KiB for a word."""


UNKNOWN_PLACEHOLDERS = (
    dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER,
    dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER,
)
"""Of KFP, and not known to kfp.local."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """What one run of the graph came to, and where its parts are."""

    verdict: str
    """PASSED or REJECTED."""
    reasons: tuple[str, ...]
    """Why the gate rejected the model; what it checked, if the model passed."""
    registry_version: str | None
    """Folder of the published version; None if the model was rejected."""
    records: str
    """Folder of encoded text, vocabulary and dataset.json."""
    workdir: str
    """Folder of checkpoints, TensorBoard events and worker logs."""
    report_json: str
    """File of the report."""
    report_html: str
    """File of the report as a page."""
    log: str
    """File of everything that KFP and the tasks said."""


def run_pipeline(
    *,
    inputs: Sequence[str],
    root: str,
    config: Config,
    workers: int,
    model_name: str,
    settings: RunSettings = DEFAULTS,
) -> RunResult:
    """Prepares, trains, evaluates, and publishes what passes the gate.

    Args:
      inputs: file names and glob patterns of the text; relative ones are looked up from
        the current folder.
      root: folder for everything that is made: pipeline/, registry/, logs/.
      config: the whole configuration.
      workers: number of training processes.
      model_name: name of the model in the registry.
      settings: the run's settings.

    Raises:
      InputError: an argument, or what a task said about its input.
      RejectedError: the words have drifted above a limit.
      RestartableError: a task stopped through no fault of its input, or SIGTERM or SIGHUP came.
      CharloomError: a task failed otherwise.
      KeyboardInterrupt: Ctrl-C; the tasks have ended.
    """
    arguments = {
        "corpus": json.dumps(list(inputs)),
        "preset": to_json(config),
        "settings": settings.to_settings(),
        "model_registry": os.path.join(os.path.abspath(root), "registry"),
        "model_name": model_name,
        "workers": workers,
    }
    check_name(model_name)
    if len(json.dumps(arguments["corpus"])) > MAX_INPUT_BYTES:
        raise InputError(
            f"--input lists {len(inputs)} names, too many for one command line; give a pattern "
            "in quotes, as --input 'folder/*.txt'"
        )
    if workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1")
    log = _make_folders(os.path.abspath(root))
    with (
        tempfile.TemporaryDirectory(prefix="charloom-", ignore_cleanup_errors=True) as scratch,
        _saying_how_to_go_on(os.path.join(os.path.abspath(root), "registry", model_name)),
    ):
        outputs = _execute(arguments, root=os.path.abspath(root), scratch=scratch, log=log)
    return _read_result(outputs, log)


@contextlib.contextmanager
def _saying_how_to_go_on(model: str) -> Iterator[None]:
    """Completes what an interruption says: the graph itself can't go on where it was.

    Args:
      model: the model's folder in the registry.
    """
    try:
        yield
    except (RestartableError, KeyboardInterrupt) as stop:
        text = str(stop)
        if "charloom train " in text:  # the command with which the training goes on
            registry, name = os.path.split(model)
            champion = os.path.exists(os.path.join(model, CHAMPION_FILE))
            compared = f" --champion {shlex.quote(model)}" if champion else ""
            text += (
                f" (then, with the same --records and --workdir, charloom evaluate{compared}, and "
                f"charloom export --registry {shlex.quote(registry)} --name {name}; charloom run "
                "begins anew)"
            )
        else:
            text += "; charloom run begins anew"
        raise type(stop)(text) from None


def _make_folders(root: str) -> str:
    """Makes the folders below `root`; returns the name of this run's log."""
    try:
        for name in ("pipeline", "registry", "logs"):
            os.makedirs(os.path.join(root, name), exist_ok=True)
        log = os.path.join(root, "logs", time.strftime(f"run-%Y%m%d-%H%M%S-{os.getpid()}.log"))
        open(log, "a", encoding="utf-8").close()
        return log
    except OSError as error:
        raise InputError(
            f"can't write to --root {root} ({error.strerror}); choose another folder"
        ) from None


def _execute(arguments: Mapping[str, Any], *, root: str, scratch: str, log: str) -> dict[str, Any]:
    """Runs the graph and returns its declared outputs.

    In kfp 2.17.3 a local run hands out all of them, artifacts as objects with a path, and
    `dsl.OneOf` of a parameter as the value of the branch that ran. (`dsl.OneOf` of an
    artifact raises "Expected 1 artifact in ArtifactSelectorSpec", so the branches return
    strings.) Hence no folder below the pipeline root has to be guessed or searched.
    """
    environment = _task_environment(scratch)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=os.path.join(root, "pipeline"),
        workspace_root=os.path.join(scratch, "workspace"),
        raise_on_error=True,
    )
    with (
        open(log, "a", encoding="utf-8") as file,
        StoppableTasks(environment[GROUP_FILE_VARIABLE]) as tasks,
        _environment(environment),
        _quiet_kfp(RunOutput(sys.stdout, file, muted=lambda: tasks.stopped)),
    ):
        failure = None
        try:
            outputs: dict[str, Any] = _graph_for_here()(**arguments).outputs
        except Exception as error:
            failure = error
    tasks.raise_if_stopped(_read_error(environment[ERROR_FILE_VARIABLE]))
    if failure is not None:
        raise _describe_failure(failure, environment[ERROR_FILE_VARIABLE], log) from failure
    return outputs


def _graph_for_here() -> Any:
    """Returns the graph without what kfp.local 2.17.3 does to a run on a laptop.

    It would wait a minute and start a task again that says that its input is bad, and it
    fails at the placeholders of times, which it does not know.
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
    """Checks the graph's outputs: no version without PASSED, and none missing with it."""
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


def _read_error(error_file: str) -> CharloomError | None:
    """Returns the error that a task reported, if one did."""
    try:
        with open(error_file, encoding="utf-8") as file:
            reported = json.load(file)
        classes = {cls.exit_code: cls for cls in (InputError, RejectedError, RestartableError)}
        return classes.get(reported["exit_code"], CharloomError)(reported["message"])
    except (OSError, ValueError, KeyError):
        return None


def _describe_failure(error: Exception, error_file: str, log: str) -> CharloomError:
    """Returns the error that a task reported, or one that says which task failed."""
    reported = _read_error(error_file)
    if reported is not None:
        return reported
    # kfp: Pipeline 'p' finished with status FAILURE. Inner task failed: 'a' inside 'b'.
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    failed = re.search(r"Inner task failed: '([^']+)'", text)
    if failed:
        return CharloomError(f"task {failed[1]} failed; the end of {log} says why")
    return CharloomError(f"the pipeline failed ({' '.join(text.split())}); see {log}")


def _task_environment(scratch: str) -> dict[str, str]:
    """Returns the environment variables of the tasks.

    kfp.local puts sys.executable in place of every `python3` of a task's command line, in
    a task's arguments too, and unquoted: a folder named python3 in an argument, or a space
    in the interpreter's path, would break the task. So tasks are started by a program
    named `python3` that runs this interpreter, and `_quiet_kfp` makes the replacement void.
    """
    programs = os.path.join(scratch, "bin")
    os.makedirs(programs)
    starter = os.path.join(programs, "python3")
    with open(starter, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    os.chmod(starter, 0o755)
    # kfp's shell script leaves a folder behind for every task: let it be inside scratch.
    temporary = os.path.join(scratch, "tmp")
    os.makedirs(temporary)
    variables = {
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
        "TMPDIR": temporary,
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1"),
        ERROR_FILE_VARIABLE: os.path.join(scratch, "error.json"),
        GROUP_FILE_VARIABLE: os.path.join(scratch, "group"),
        OWNER_VARIABLE: str(os.getpid()),
    }
    code = str(Path(os.path.abspath(__file__)).parents[2])
    if code not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths = [code, os.environ.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return variables


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables.

    kfp.local has no other way to hand them to a task than the compiled spec, which is the
    cluster's too.
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
    """Sends what kfp prints to `output` and silences warnings that don't apply here."""
    executable = sys.executable
    with warnings.catch_warnings(), contextlib.redirect_stdout(output):
        # The image's name has no "python" in it, and display names, memory and processors of
        # pods have no effect: but there are no pods here.
        warnings.filterwarnings("ignore", "You may be attemping to run", RuntimeWarning)
        warnings.filterwarnings("ignore", r"Task '.*': settings \[", UserWarning)
        sys.executable = "python3"  # see _task_environment
        try:
            yield
        finally:
            sys.executable = executable
            output.finish()
