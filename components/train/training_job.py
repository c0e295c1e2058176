"""A worker group's job: one training and its limits. No TensorFlow here."""

from __future__ import annotations

import dataclasses
import os
import shlex

from components.component_runtime import MAX_RESTARTS
from model.distributed.rendezvous import PEER_SECONDS
from model.distributed.watchdog import STALL_SECONDS
from model.errors import InputError
from model.training.profiler import ProfileSteps

CONFIG_FILE = "config.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training, as it is started and restarted."""

    records: str
    """Folder written by prepare; on a cluster, on a volume mounted by the workers."""
    workdir: str
    """Folder of the training, on such a volume too; its config.json is the whole config."""
    workers: int = 1
    """Processes or pods that share each global batch."""
    warm_start: str = ""
    """Folder of a published version whose weights training starts from; empty: random ones."""
    profile: ProfileSteps | None = None
    """The steps for worker 0 to trace."""
    max_restarts: int = MAX_RESTARTS
    """Maximum restarts of all workers from the newest checkpoint after one was lost. A worker that
    was asked to stop does not count, but on one machine 0 means never to restart."""
    peer_seconds: float = PEER_SECONDS
    """How long a worker waits for the others at the start."""
    stall_seconds: float = STALL_SECONDS
    """Maximum time without progress before a worker ends."""

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
          InputError: a value is out of range.
        """
        for name, least in (("workers", 1), ("max_restarts", 0)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{_flag(name)} is {value}; it must be at least {least}")

    @property
    def config_file(self) -> str:
        """JSON file of the whole config."""
        return os.path.join(self.workdir, CONFIG_FILE)

    def absolute(self) -> TrainingJob:
        """Returns the same job with absolute paths."""
        paths = {name: getattr(self, name) for name in ("records", "workdir", "warm_start")}
        return dataclasses.replace(
            self, **{name: os.path.abspath(path) for name, path in paths.items() if path}
        )

    def worker_arguments(self) -> list[str]:
        """Returns the arguments of `python -m components.train.worker`, the same for all workers.

        Differences between workers are in their environment. The weights of a warm start are in the
        workdir.
        """
        arguments = ["--records", self.records, "--workdir", self.workdir]
        arguments += ["--config", self.config_file]
        arguments += ["--peer-seconds", f"{self.peer_seconds:g}"]
        arguments += ["--stall-seconds", f"{self.stall_seconds:g}"]
        return arguments + (["--profile", str(self.profile)] if self.profile else [])

    def command(self) -> str:
        """Returns the shell command that resumes the training."""
        words = ["charloom", "train", "--records", self.records, "--workdir", self.workdir]
        words += ["--config", self.config_file, "--workers", str(self.workers)]
        words += ["--warm-start", self.warm_start] if self.warm_start else []
        for name in ("max_restarts", "peer_seconds", "stall_seconds"):
            value = getattr(self, name)
            words += [_flag(name), f"{value:g}"] if value != getattr(TrainingJob, name) else []
        return shlex.join(words)


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"
