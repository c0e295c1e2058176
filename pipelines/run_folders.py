"""Removes the folders of old runs, below the root of local runs or on a shared volume.

A run stays if it is recent, if it is running, and if something needs it: a published version that
was made in it, a schedule that names it, or a run that stays and uses its output through KFP's
cache. Runs on a volume are those of Kubeflow Pipelines, which is asked what is running.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence

from components.export.manifest import made_of
from components.export.registry import RegisteredModel
from components.shared_runs import note_removal, read_fingerprint, read_uses
from model.errors import CharloomError, InputError
from model.files import TEMPORARY_MARK, read_json, remove_path

DAY = 24 * 3600.0
STALE_SECONDS = DAY
"""An unfinished file or folder that has not changed for this long belongs to a dead process."""

RUN_LOG = re.compile(r"run-(\d{8}-\d{6})-\d+\.log")
"""Names of the logs of local runs; each is locked while its run lasts."""

LOCAL_RUN = re.compile(r"[\w-]+-\d{4}(-\d\d){5}-\d{6}")
"""Names of runs' folders that kfp.local makes: the pipeline's name and the time."""

VOLUME_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Names of runs' folders on a volume: KFP's ids."""

_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_MARK)}[0-9a-f]{{32}}$")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run."""

    path: str
    used: float
    """When something in it last changed, in seconds since the epoch."""
    size: int
    """Bytes of its files."""

    @property
    def name(self) -> str:
        """Its name; on a volume, KFP's id of the run."""
        return os.path.basename(self.path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Which runs stay because they are recent.

    Raises:
      InputError: a limit is out of range, or there is none.
    """

    days: float | None = None
    """Those used within this many days."""
    last: int | None = None
    """This many of those used last."""

    def __post_init__(self) -> None:
        if self.days is None and self.last is None:
            raise InputError(
                "nothing says which runs to keep; give --keep-days, --keep-last or both"
            )
        for flag, value in (("--keep-days", self.days), ("--keep-last", self.last)):
            if value is not None and not value >= 0:
                raise InputError(f"{flag} is {value}; it must be 0 or more")

    def keep(self, runs: Sequence[RunFolder], now: float) -> set[str]:
        """Returns the names of the runs that stay."""
        newest = sorted(runs, key=lambda run: run.used, reverse=True)
        kept = {run.name for run in newest[: self.last or 0]}
        if self.days is not None:
            kept |= {run.name for run in runs if now - run.used < self.days * DAY}
        return kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is removed, and what stays though it is old."""

    remove: Sequence[RunFolder]
    needed: Mapping[str, str]
    """Name of a run that stays -> why."""
    stale: Sequence[str]
    """Unfinished files and folders of dead processes."""


def find_runs(folder: str, names: re.Pattern[str]) -> list[RunFolder]:
    """Returns the runs in a folder, whose names match a pattern, by name; whatever else is not ours.

    Raises:
      InputError: there is no such folder.
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is not there; name the folder that the runs were made in")
    paths = [
        os.path.join(folder, one) for one in sorted(os.listdir(folder)) if names.fullmatch(one)
    ]
    return [_look_at(path) for path in paths if os.path.isdir(path) and not os.path.islink(path)]


def make_plan(
    runs: Sequence[RunFolder],
    limits: Limits,
    *,
    running: Mapping[str, str],
    reasons: Mapping[str, str],
    now: float,
) -> Plan:
    """Chooses the runs to remove.

    Args:
      runs: all of them.
      limits: what is recent.
      running: name of a run that counts as running -> why.
      reasons: name of a run that is needed -> why.
      now: seconds since the epoch.
    """
    recent = limits.keep(runs, now)
    texts = {read_fingerprint(run.path): run.name for run in runs if run.name in running} | {"": ""}
    needed = {run.name: running.get(run.name) or reasons.get(run.name, "") for run in runs}
    for run in runs:
        user = texts.get(read_fingerprint(run.path))
        if user and not needed[run.name]:
            needed[run.name] = f"KFP's cache may give its output to {user}, which is running"
    by_name = {run.name: run for run in runs}
    waiting = [name for name in by_name if name in recent or needed[name]]
    for name in waiting:  # grows
        for used in read_uses(by_name[name].path):
            if used in by_name and used not in waiting:
                needed[used] = f"{name} uses its output through KFP's cache"
                waiting.append(used)
    return Plan(
        remove=[run for run in runs if run.name not in waiting],
        needed={name: why for name, why in needed.items() if why and name not in recent},
        stale=[
            path
            for run in runs
            if run.name in waiting and run.name not in running
            for path in _find_stale(run.path, now)
        ],
    )


def carry_out(plan: Plan, *, on_volume: bool) -> None:
    """Removes what a plan says.

    Each run is renamed first, so that nobody sees half of it.

    Raises:
      CharloomError: a folder can't be removed.
    """
    for run in plan.remove:
        try:
            if on_volume:
                note_removal(run.path)
            hidden = f"{run.path}{TEMPORARY_MARK}{uuid.uuid4().hex}"
            os.rename(run.path, hidden)
            shutil.rmtree(hidden)
        except FileNotFoundError:  # by another removal
            continue
        except OSError as error:
            raise CharloomError(
                f"{run.path} can't be removed ({error.strerror}); run the command as the user who "
                "owns it"
            ) from None
    for path in plan.stale:
        remove_path(path)


def sweep_removed(folder: str) -> None:
    """Removes what an earlier, interrupted removal has renamed in a folder of runs."""
    for name in os.listdir(folder):
        if _TEMPORARY.search(name):
            remove_path(os.path.join(folder, name))


def versions_of(runs: Sequence[RunFolder], registries: Sequence[str]) -> dict[str, str]:
    """Returns the runs in which published versions were made: name -> which version.

    Raises:
      InputError: a registry is not there.
    """
    made: dict[str, str] = {}
    for registry in registries:
        if not os.path.isdir(registry):
            raise InputError(f"the registry {registry} is not there; name the one of the runs")
        for name in sorted(os.listdir(registry)):
            model = RegisteredModel(registry, name)
            for version in model.versions():
                digest = made_of(model.version_folder(version))
                if digest is not None:
                    made[digest] = f"version {model.version_folder(version)} was made in it"
    return {run.name: made[one] for run in runs for one in _checkpoints(run.path) if one in made}


def _checkpoints(run: str) -> Iterator[str]:
    """Yields the digests of the checkpoints that a run's reports are about."""
    for path in _inside(run, "report.json"):
        about = read_json(path).get("checkpoint")
        if isinstance(about, dict) and isinstance(about.get("digest"), str):
            yield about["digest"]


def locked_training(run: RunFolder) -> str:
    """Returns why a run counts as running: a training holds its workdir; empty: none does."""
    locked = any(_is_locked(path) for path in _inside(run.path, ".lock"))
    return "a training is running in it" if locked else ""


def running_since(logs: str) -> float | None:
    """Returns when the oldest local run that is still running began; None: none is running."""
    begun = []
    for name in os.listdir(logs) if os.path.isdir(logs) else []:
        match = RUN_LOG.fullmatch(name)
        if match and _is_locked(os.path.join(logs, name)):
            begun.append(time.mktime(time.strptime(match[1], "%Y%m%d-%H%M%S")))
    return min(begun, default=None)


def _inside(run: str, name: str) -> list[str]:
    """Returns the files of a name in a run's stages: `<stage>` or `<task>/<artifact>`."""
    base = glob.escape(run)
    return [path for stage in ("*", "*/*") for path in glob.glob(os.path.join(base, stage, name))]


def _is_locked(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held, or not known here
        return True
    return False


def _look_at(path: str) -> RunFolder:
    used, size = os.lstat(path).st_mtime, 0
    for parent, folders, names in os.walk(path):
        for name in (*folders, *names):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                status = os.lstat(os.path.join(parent, name))
                used, size = max(used, status.st_mtime), size + status.st_size
    return RunFolder(path, used, size)


def _find_stale(run: str, now: float) -> Iterator[str]:
    for parent, folders, names in os.walk(run):
        for name in [name for name in (*folders, *names) if _TEMPORARY.search(name)]:
            path = os.path.join(parent, name)
            if now - _look_at(path).used > STALE_SECONDS:
                yield path
        folders[:] = [name for name in folders if not _TEMPORARY.search(name)]
