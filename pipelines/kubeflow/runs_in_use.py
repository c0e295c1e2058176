"""Which runs' folders on a volume Kubeflow Pipelines still needs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.kubeflow.client import Kubeflow, RefusedError
from pipelines.kubeflow.run_monitor import ENDED
from pipelines.kubeflow.schedule import list_recurring_runs


@dataclasses.dataclass(frozen=True)
class RunsInUse:
    """Runs that Kubeflow Pipelines needs: id -> why."""

    running: Mapping[str, str]
    """Those that have not ended."""
    named: Mapping[str, str]
    """Those that a schedule or a running run names, for instance to compare its records."""


def ask(kubeflow: Kubeflow, run_ids: Sequence[str]) -> RunsInUse:
    """Asks about runs; those that KFP does not know have ended.

    Raises:
      RefusedError, UnavailableError: KFP can't be asked.
    """
    found = {run_id: _get(kubeflow, run_id) for run_id in run_ids}
    open_ = {run_id: run for run_id, run in found.items() if run and run.state not in ENDED}
    users = {f"the run {run_id}, which is running,": run for run_id, run in open_.items()}
    users |= {f"the schedule {one.display_name}": one for one in list_recurring_runs(kubeflow)}
    texts = {
        user: json.dumps(one.runtime_config.parameters or {})
        for user, one in users.items()
        if one.runtime_config
    }
    return RunsInUse(
        running={
            run_id: f"Kubeflow Pipelines says that it is {run.state}"
            for run_id, run in open_.items()
        },
        named={
            run_id: f"{user} names it"
            for run_id in run_ids
            for user, text in texts.items()
            if run_id in text
        },
    )


def _get(kubeflow: Kubeflow, run_id: str) -> Any:
    try:
        return kubeflow.call(kubeflow.client.runs.run_service_get_run, run_id)
    except RefusedError as error:
        if error.status == 404:
            return None
        raise
