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

SETTLE_SECONDS = 120.0
"""How long the states of the tasks may come later than that of their run, which Kubeflow Pipelines
stores first."""

EXPORT_TASK, REJECTED_TASK = "export", "report-rejection"
"""The tasks of which exactly one runs: if the gate let the model pass, and if it rejected it."""

ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
"""States of a run, or of a task, that has ended."""

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
      CharloomError: the run failed, or it is not known whether it published a model.
      RestartableError: Kubeflow Pipelines was unreachable for too long.
      KeyboardInterrupt: the user stopped waiting, and the run continues; or somebody terminated it.
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
    if was_terminated(run):
        raise KeyboardInterrupt(f"the run was terminated; its logs: {link}")
    if run.state != "SUCCEEDED":
        raise CharloomError(f"the run failed{view.failures()}; its logs: {link}")
    if view.states.get(REJECTED_TASK) == "SUCCEEDED":
        raise RejectedError(f"REJECTED by the gate; report: {link}")
    if not view.is_settled("SUCCEEDED"):
        raise CharloomError(
            f"the run has succeeded, but Kubeflow Pipelines does not say whether it published a model; "
            f"see {link}"
        )
    print("the run is done")


def was_terminated(run: Any) -> bool:
    """Whether somebody stopped a run that has ended: KFP 2.17 calls such a run failed."""
    history = [str(status.state) for status in run.state_history or ()]
    return run.state == "CANCELED" or (run.state != "SUCCEEDED" and "CANCELING" in history)


def _poll(kubeflow: Kubeflow, run_id: str, view: _View) -> Any:
    seen, ended = time.monotonic(), None
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
                ended = ended or seen
                if view.is_settled(run.state) or seen - ended > SETTLE_SECONDS:
                    return run
                pause = POLL_SECONDS / 5
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

    def is_settled(self, state: str) -> bool:
        """Whether the tasks' states are those at the end of a run that has ended in a state."""
        if state == "SUCCEEDED" and EXPORT_TASK in self._tasks:
            return "SUCCEEDED" in (self.states.get(EXPORT_TASK), self.states.get(REJECTED_TASK))
        return all(one in ENDED for one in self.states.values())

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
