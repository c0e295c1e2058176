"""The launcher as a process of its own, as a task's pod runs it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from envtest import end_with_parent, eventually
from envtest_cluster import Cluster

PACE = {"tick": 0.1, "first_wait": 0.1, "longest_wait": 1.0, "stop": 3.0}
"""So that the tests are quick."""


def own_mounts() -> list[str]:
    """Returns the command that runs a shell script with mounts of its own; skips without."""
    command = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-ec"]
    script = _MOUNT_SECRETS.format(shlex.quote(os.path.dirname(__file__)))
    try:
        done = subprocess.run([*command, script], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1)")
    if done.returncode:
        pytest.skip(f"mounts can't be made here: {done.stderr.strip()}")
    return command


_SECRETS = "/var/run/secrets/kubernetes.io/serviceaccount"
_MOUNT_SECRETS = f"mount -t tmpfs none /var/run; mkdir -p {_SECRETS}; mount --bind {{}} {_SECRETS}"


class Process:
    """A Python program that finds the API server as one in a pod does."""

    def __init__(
        self,
        folder: Path,
        program: str,
        given: Any,
        *,
        environment: Mapping[str, str],
        secrets: Path | None = None,
    ):
        """Starts it.

        Args:
          folder: of its output.
          program: its source.
          given: what it finds as JSON in its first argument.
          environment: added to what it inherits, which is little.
          secrets: a folder that it sees where a pod has those of its service account.
        """
        name = f"process-{uuid.uuid4().hex[:8]}"
        self._output, self._errors = folder / f"{name}.out", folder / f"{name}.err"
        keep = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "TF_CPP_MIN_LOG_LEVEL")
        inherited = {name: os.environ[name] for name in keep if name in os.environ}
        python = shlex.join([sys.executable, "-W", "ignore", "-c", program, json.dumps(given)])
        command = ["sh", "-c", f"exec {python}"]
        if secrets:
            mount = _MOUNT_SECRETS.format(shlex.quote(str(secrets)))
            command = [*own_mounts(), f"{mount}; exec {python}"]
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=inherited | {"PYTHONUNBUFFERED": "1"} | dict(environment),
                cwd=Path(__file__).parents[1],
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *unused: object) -> None:
        self.kill()

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def error(self) -> str:
        """The last line of its standard error."""
        return (self._errors.read_text(encoding="utf-8").splitlines() or [""])[-1]

    def wait_for(self, text: str) -> None:
        """Returns once it has printed a text."""

        def found() -> bool:
            assert self.process.poll() is None or text in self.output, (self.output, self.error)
            return text in self.output

        eventually(found, f"{text!r} in:\n{self.output}")

    def kill(self) -> None:
        """Ends it as a lost node does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ended(self) -> int:
        """Returns its exit code, once it has ended."""
        try:
            return self.process.wait(timeout=300)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it runs still:\n{self.output}") from None


class Launcher(Process):
    """Runs `launch_jobset`."""

    def __init__(self, folder: Path, options: Mapping[str, Any], **arguments: Any):
        """Starts it.

        Args:
          folder: of its output.
          options: fields of `JobSetOptions`.
          arguments: of `TrainingJob`, or of `Process`, or `pace`.
        """
        own = {
            name: arguments.pop(name) for name in ("environment", "secrets") if name in arguments
        }
        given = {
            "records": "/mnt/charloom/runs/r/records",
            "workdir": "/mnt/charloom/runs/r/work",
            "workers": 2,
            "options": {"lease_seconds": 4} | dict(options),
            "pace": PACE,
        }
        super().__init__(folder, _LAUNCH, given | arguments, **own)


_LAUNCH = """
import json, sys
from components.component_runtime import reporting_errors
from components.train.cluster.api import Pace
from components.train.cluster.launcher import launch_jobset
from components.train.cluster.manifest import JobSetOptions
from components.train.training_job import TrainingJob

given = json.loads(sys.argv[1])
options, pace = JobSetOptions(**given.pop("options")), Pace(**given.pop("pace"))
with reporting_errors():
    launch_jobset(TrainingJob(**given), options, pace=pace)
"""


def renewed(cluster: Cluster, before: Any) -> Any:
    """Returns a lease, once it is another than before."""

    def look() -> Any:
        lease = cluster.lease(before.metadata.name)
        return (
            lease if lease.metadata.resource_version != before.metadata.resource_version else None
        )

    return eventually(look, "a renewal of the lease")
