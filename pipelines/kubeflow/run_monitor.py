"""Follows a run on Kubeflow Pipelines until it ends."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from model.errors import CharloomError, InputError, RejectedError, RestartableError
from pipelines.kubeflow.client import Kubeflow, UnavailableError

POLL_SECONDS = 5.0
LOST_SECONDS = 1800.0
"""How long Kubeflow Pipelines may be unreachable before we give up; the run continues without
us."""

REJECTED_TASK = "report-rejection"
"""The task that runs only if the gate rejected the model."""

ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
"""States of a run that has ended."""

_WORDS = {
    "PENDING": "waits",
    "RUNNING": "runs",
    "SUCCEEDED": "done",
    "SKIPPED": "skipped",
    "FAILED": "FAILED",
    "CANCELING": "is being stopped",
    "CANCELED": "stopped",
    "PAUSED": "is paused",
}


def task_names(spec: Mapping[str, Any]) -> dict[str, str]:
    """Returns a pipeline spec's tasks, including those inside conditions: key -> display name."""
    spec = spec.get("pipeline_spec", spec)
    names = {}
    for component in [spec["root"], *spec.get("components", {}).values()]:
        for key, task in component.get("dag", {}).get("tasks", {}).items():
            if not key.startswith("condition-"):
                names[key] = task.get("taskInfo", {}).get("name", key)
    return names


def follow(kubeflow: Kubeflow, run_id: str, tasks: Mapping[str, str]) -> None:
    """Shows the states of a run's tasks until it ends.

    Raises:
      RejectedError: the gate rejected the model.
      CharloomError: the run failed or was stopped.
      RestartableError: Kubeflow Pipelines was unreachable for too long.
      KeyboardInterrupt: the user stopped waiting; the run continues.
    """
    link = kubeflow.link("runs", "details", run_id)
    view = _View(tasks)
    try:
        run = _poll(kubeflow, run_id, view)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped waiting; the run continues; to stop it, press Terminate on {link}"
        ) from None
    except InputError as error:
        raise InputError(f"{error}; the run continues: {link}") from None
    finally:
        view.finish()
    if run.state != "SUCCEEDED":
        raise CharloomError(
            f"the run {'was stopped' if run.state == 'CANCELED' else 'failed'}"
            f"{view.failures()}; its logs: {link}"
        )
    if view.states.get(REJECTED_TASK) == "SUCCEEDED":
        raise RejectedError(f"REJECTED by the gate; report: {link}")
    print("the run is done")


def _poll(kubeflow: Kubeflow, run_id: str, view: _View) -> Any:
    seen = time.monotonic()
    pause = POLL_SECONDS / 5  # states change soon after the start
    while True:
        try:
            run = kubeflow.call(
                kubeflow.client.runs.run_service_get_run, run_id, retry_seconds=POLL_SECONDS
            )
        except UnavailableError as error:
            away = time.monotonic() - seen
            if away > LOST_SECONDS:
                link = kubeflow.link("runs", "details", run_id)
                raise RestartableError(
                    f"{error} (for {away / 60:.0f} minutes); the run continues: {link}"
                ) from None
            view.status(f"no connection for {away:.0f} s; the run continues")
        else:
            seen = time.monotonic()
            view.update(run)
            if run.state in ENDED:
                return run
        time.sleep(pause)
        pause = min(POLL_SECONDS, pause * 1.5)


class _View:
    """Shows one line per change of a task's state; on a terminal, also what is running."""

    def __init__(self, tasks: Mapping[str, str]) -> None:
        self._tasks = tasks
        self.states: dict[str, str] = {}
        self._errors: dict[str, str] = {}
        self._begun = time.monotonic()
        self._interactive = sys.stdout.isatty()
        self._open = False

    def update(self, run: Any) -> None:
        """Shows what has changed."""
        details = (run.run_details.task_details if run.run_details else None) or []
        for task in details:
            # a retried task also has a node per attempt: train(0)
            name = str(task.display_name or "")
            if name not in self._tasks or not task.state:
                continue
            state = str(task.state)
            if task.error and task.error.message:
                self._errors[name] = " ".join(task.error.message.split())[:200]
            if self.states.get(name) != state:
                self.states[name] = state
                self._line(f"{self._tasks[name]}: {_WORDS.get(state, state.lower())}")
        now = [self._tasks[name] for name, state in self.states.items() if state == "RUNNING"]
        word = ", ".join(now) or _WORDS.get(str(run.state), "waits")
        self.status(f"{word}, {time.monotonic() - self._begun:.0f} s")

    def status(self, text: str) -> None:
        """Shows a line that the next one replaces; only on a terminal."""
        if self._interactive:
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write(f"\r\x1b[K{text[:width]}")
            sys.stdout.flush()
            self._open = True

    def failures(self) -> str:
        """Returns the failed tasks, with known reasons, for a message."""
        failed = [name for name, state in self.states.items() if state == "FAILED"]
        parts = [
            self._tasks[name] + (f" ({self._errors[name]})" if name in self._errors else "")
            for name in failed
        ]
        return f" at {', '.join(parts)}" if parts else ""

    def finish(self) -> None:
        """Ends a line that would be replaced."""
        if self._open:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()
            self._open = False

    def _line(self, text: str) -> None:
        self.finish()
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
