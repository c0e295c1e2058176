"""What a worker group is asked to do: one training, and within what limits. No TensorFlow here."""

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
    """A training, as it is started and started again."""

    records: str
    """Folder that prepare made; on a cluster, on a volume that the workers mount."""
    workdir: str
    """Folder of the training, on such a volume too; its config.json is the whole config."""
    workers: int = 1
    """Processes or pods that share each global batch."""
    warm_start: str = ""
    """Folder of a published version with whose weights training begins; empty: random ones."""
    profile: ProfileSteps | None = None
    """The steps that worker 0 traces."""
    max_restarts: int = MAX_RESTARTS
    """How often all workers are restarted from the newest checkpoint after one was lost. A worker
    that was asked to stop does not count, but on one machine 0 means never to restart."""
    peer_seconds: float = PEER_SECONDS
    """How long a worker waits for the others at the start."""
    stall_seconds: float = STALL_SECONDS
    """How long a worker may make no progress before it ends."""

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
          InputError: one is out of its range.
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
        """Returns the same job with paths that hold in any current folder."""
        paths = {name: getattr(self, name) for name in ("records", "workdir", "warm_start")}
        return dataclasses.replace(
            self, **{name: os.path.abspath(path) for name, path in paths.items() if path}
        )

    def worker_arguments(self) -> list[str]:
        """Returns the arguments of `python -m components.train.worker`, the same for all workers.

        What tells the workers from one another is in their environment. They find the weights of
        a warm start in the workdir.
        """
        arguments = ["--records", self.records, "--workdir", self.workdir]
        arguments += ["--config", self.config_file]
        arguments += ["--peer-seconds", f"{self.peer_seconds:g}"]
        arguments += ["--stall-seconds", f"{self.stall_seconds:g}"]
        return arguments + (["--profile", str(self.profile)] if self.profile else [])

    def command(self) -> str:
        """Returns the shell command with which the training goes on."""
        words = ["charloom", "train", "--records", self.records, "--workdir", self.workdir]
        words += ["--config", self.config_file, "--workers", str(self.workers)]
        words += ["--warm-start", self.warm_start] if self.warm_start else []
        for name in ("max_restarts", "peer_seconds", "stall_seconds"):
            value = getattr(self, name)
            words += [_flag(name), f"{value:g}"] if value != getattr(TrainingJob, name) else []
        return shlex.join(words)


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"
