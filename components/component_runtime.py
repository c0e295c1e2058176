"""Shared by the bodies of all KFP components. No kfp and no TensorFlow here.

Every body is `with reporting_errors(): main.run(...)`. Whoever started the task (a pod, or
`charloom run`) must be able to tell a user's mistake from a defect, and to stop the task together
with its worker processes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import IO, Any

from components.interruption import ending_on_signals
from components.shared_runs import RUNS_FOLDER, note_use
from model.errors import ENDINGS, CharloomError, InputError, ending_for
from model.files import COMPLETED_FILE, is_complete, lock_file, read_json, write_whole

DEFAULT_IMAGE = "charloom:0.1.0"

IMAGE_VARIABLE = "CHARLOOM_IMAGE"
"""Environment variable: the container image that compiled components name."""

ERROR_FILE_VARIABLE = "CHARLOOM_ERROR_FILE"
"""Environment variable: where a failed task writes its message and exit code as JSON."""

OWNER_VARIABLE = "CHARLOOM_OWNER"
"""Environment variable: a file that the `charloom run` that a task belongs to keeps locked."""

GROUP_FILE_VARIABLE = "CHARLOOM_GROUP_FILE"
"""Environment variable: where a task writes the id of the process group that it leads."""

UMASK_VARIABLE = "CHARLOOM_UMASK"
"""Environment variable: which permissions the files of a task lack, in octal. By default those of
the process, and none may be written by others: KFP's Argo runs tasks with a umask of 0, and whoever
mounts the volume could replace a published model."""

MAX_RESTARTS = 3
"""Default number of times a training's workers are restarted after one was lost."""

RUN_VARIABLE = "CHARLOOM_RUN_ID"
"""Environment variable: KFP's id of the run, from a label of the pod. Not a parameter, because it
would become part of the cache key and no task would ever be found in the cache."""

LOCATION_FILE = "LOCATION"
"""File in an artifact whose content is on the shared volume: one line, the folder."""


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Suspends garbage collection while the block imports TensorFlow, which takes a quarter less.

    What was imported is exempt from collection afterwards.
    """
    enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if enabled:
            gc.enable()


def container_image() -> str:
    """Returns the image that components run in: `CHARLOOM_IMAGE`, or the default."""
    return os.environ.get(IMAGE_VARIABLE) or DEFAULT_IMAGE


def in_cluster() -> bool:
    """Whether this process runs in a task's pod started by KFP."""
    return bool(os.environ.get("KFP_POD_NAME") and os.environ.get("KUBERNETES_SERVICE_HOST"))


def run_id() -> str:
    """Returns KFP's id of the run that this pod belongs to.

    Raises:
      InputError: the environment does not contain it.
    """
    name = os.environ.get(RUN_VARIABLE, "")
    if not name or name != os.path.basename(name) or name.startswith("."):
        raise InputError(
            f"the environment variable {RUN_VARIABLE} does not hold a run id ({name!r}); this pipeline "
            "sets it from the pod's label pipeline/runid, so use the one that charloom compile writes"
        )
    return name


def run_folder(mount: str) -> str:
    """Returns this run's folder on the shared volume; empty without a volume.

    Args:
      mount: mount path of the volume in the cluster's pods.
    """
    return os.path.join(mount, RUNS_FOLDER, run_id()) if mount and in_cluster() else ""


def output_folder(artifact_path: str, shared: str, name: str) -> str:
    """Returns the folder for a stage's output.

    Args:
      artifact_path: path of KFP's output artifact.
      shared: the run's folder on the shared volume; the artifact then only records where the
        output is, so that large data do not go through KFP's object store. Empty: the artifact
        itself.
      name: name of the stage's folder in `shared`.

    Raises:
      InputError: the volume can't be written.
    """
    if not shared:
        return artifact_path
    folder = os.path.join(shared, name)
    try:
        os.makedirs(shared, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the shared volume can't be written at {shared} ({error.strerror}); allow user and "
            f"group {os.getuid()}:{os.getgid()} of the pods to write to it"
        ) from None
    os.makedirs(artifact_path, exist_ok=True)
    write_whole(os.path.join(artifact_path, LOCATION_FILE), f"{folder}\n")
    return folder


def describe_output(artifact_path: str, folder: str, *names: str) -> None:
    """Copies small files of a stage's folder into the artifact that records its location."""
    if folder != artifact_path:
        for name in names:
            shutil.copyfile(os.path.join(folder, name), os.path.join(artifact_path, name))


def input_folder(artifact_path: str) -> str:
    """Returns the folder of a stage's output: the artifact itself, or the location it records.

    Raises:
      InputError: the folder is missing, or its stage did not finish.
    """
    try:
        with open(os.path.join(artifact_path, LOCATION_FILE), encoding="utf-8") as file:
            folder = file.read().strip()
    except FileNotFoundError:
        return artifact_path
    if not is_complete(folder):
        problem = f"lacks {COMPLETED_FILE}" if os.path.isdir(folder) else "is gone"
        raise InputError(
            f"the folder {folder}, which an earlier task filled, {problem}; start a run with "
            "caching off to make it again"
        )
    if in_cluster() and os.environ.get(RUN_VARIABLE):
        with contextlib.suppress(OSError):  # it only keeps `charloom runs gc` from removing it
            note_use(folder, run_id())
    return folder


@contextlib.contextmanager
def reporting_errors(*, stoppable: bool = True) -> Iterator[None]:
    """Turns a CharloomError of the body into one line and an exit code, and signals into errors.

    The line goes to the file named by `CHARLOOM_ERROR_FILE`, whose owner shows it, or to stderr.
    Other exceptions propagate, so that the log has their traceback.

    Args:
      stoppable: whether signals end the body; otherwise it handles them itself.

    Raises:
      SystemExit: with the error's exit code, without a traceback.
    """
    _lead_process_group()
    try:
        _set_umask()
        with ending_on_signals(report_error) if stoppable else contextlib.nullcontext():
            yield
    except (CharloomError, KeyboardInterrupt) as error:
        report_error(error)
        raise SystemExit(ending_for(error).code) from None


def _set_umask() -> None:
    given = os.environ.get(UMASK_VARIABLE, "")
    if given and not re.fullmatch("[0-7]{1,4}", given):
        raise InputError(f"{UMASK_VARIABLE} is {given!r}; it must be octal, such as 022")
    before = os.umask(0o022)
    os.umask(int(given, 8) if given else before | 0o022)


def report_error(error: BaseException) -> None:
    """Writes an error's line to the file named by `CHARLOOM_ERROR_FILE`, or to stderr."""
    message = " ".join(str(error).split())
    path = os.environ.get(ERROR_FILE_VARIABLE)
    if path:
        content = {
            "exit_code": ending_for(error).code,
            "kind": type(error).__name__,
            "message": message,
        }
        write_whole(path, json.dumps(content))
    else:
        print(f"error: {message}", file=sys.stderr, flush=True)


def read_error(path: str) -> CharloomError | None:
    """Returns the error that `report_error` wrote to a file; None if there is none."""
    content = read_json(path)
    if "message" not in content:
        return None
    known = [
        ending.error
        for ending in reversed(ENDINGS)
        if ending.code == content.get("exit_code") and issubclass(ending.error, CharloomError)
    ]
    kind = max(known or [CharloomError], key=lambda cls: cls.__name__ == content.get("kind"))
    return kind(content["message"])


def select_numbers(result: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, float]:
    """Selects numbers of a stage's result for KFP to show as metrics.

    Args:
      result: nested mappings, as read from JSON.
      paths: name of a metric -> its dotted path in `result`, such as `splits.test.perplexity`.

    Returns:
      Name -> number. Values that are missing, not numbers or not finite are left out: KFP stores
      metadata as JSON, which has no NaN.
    """
    numbers = {}
    for name, path in paths.items():
        value: Any = result
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            numbers[name] = float(value)
    return numbers


def _lead_process_group() -> None:
    """Makes this process the leader of a new group, so that all it starts can be stopped."""
    path = os.environ.get(GROUP_FILE_VARIABLE)
    if path:
        os.setpgid(0, 0)
        write_whole(path, str(os.getpgrp()))
        owner = os.environ.get(OWNER_VARIABLE)
        if owner:
            file = open(owner, "r+b")
            threading.Thread(target=_end_with_owner, args=(file,), daemon=True).start()


def _end_with_owner(file: IO[bytes]) -> None:
    """Ends the group once its owner is gone, e.g. killed: nobody would use its work.

    Its lock tells. Its process id does not: nobody may have reaped the owner, and later the id may
    be another process's.
    """
    lock_file(file)
    os.killpg(os.getpgrp(), signal.SIGKILL)
