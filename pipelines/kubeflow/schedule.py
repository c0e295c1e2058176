"""Schedules on Kubeflow Pipelines: recurring runs created by charloom, identified by name.

Kubeflow Pipelines can't change a recurring run, and its names are not unique. So a change creates a
new one, then deletes the old one. Between the two requests both are on; if both start a run, the
run's identity prevents publishing the same model twice. If the second request fails, both remain,
which every command here reports.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import kfp_server_api as api  # type: ignore[import-untyped]

from model.errors import CharloomError, InputError, RestartableError
from pipelines.graph import train_language_model
from pipelines.kubeflow import cron, submit
from pipelines.kubeflow.client import Kubeflow, RefusedError
from pipelines.kubeflow.package import Package

ZONE_VARIABLE = "CHARLOOM_KFP_TIME_ZONE"

SHOWN_TIMES = 3
ENABLED = "ENABLED"

_MARK = re.compile(
    r"Made by charloom schedule\..*Request: ([0-9a-f]{64})(?:\. Revision: (\d+))?", re.DOTALL
)


def scheduler_zone(name: str) -> datetime.tzinfo:
    """Returns the time zone in which the scheduler interprets schedules.

    Raises:
      InputError: there is no such zone.
    """
    if name:
        return cron.find_zone(name, "--scheduler-zone")
    return cron.find_zone(os.environ.get(ZONE_VARIABLE) or "UTC", f"${ZONE_VARIABLE}")


def create(
    kubeflow: Kubeflow,
    package: Package,
    options: argparse.Namespace,
    *,
    expression: cron.Cron,
    zone: datetime.tzinfo,
) -> None:
    """Creates a schedule, or replaces the one with the same name.

    Args:
      kubeflow: the connection.
      package: the pipeline and its parameters.
      options: name, experiment and service account.
      expression: when to start runs, by the scheduler's clock: Kubeflow Pipelines has one time zone
        for all schedules, and its parser does not support `CRON_TZ=`.
      zone: the scheduler's time zone.

    Raises:
      InputError: charloom did not create the recurring run with this name.
      RefusedError, UnavailableError: a request failed; the message describes the resulting state.
      RestartableError: another command changed the schedule at the same time.
    """
    name = _check_name(options.name)
    present = _find(kubeflow, name)
    body = api.V2beta1RecurringRun(
        display_name=name,
        experiment_id=submit.find_experiment(kubeflow, options.experiment),
        pipeline_version_reference=submit.upload(kubeflow, package),
        runtime_config=api.V2beta1RuntimeConfig(parameters=dict(package.parameters)),
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=expression.text)),
        max_concurrency="1",
        no_catchup=True,
        service_account=options.service_account or None,
    )
    digest = _digest(kubeflow, body)
    starts = f"{expression.text} ({zone})"
    body.description = f"Made by charloom schedule. Starts: {starts}. Request: {digest}"
    run, outcome = _replace(kubeflow, body, present, digest=digest)
    print(f"schedule: {name}, {outcome}")
    print(f"starts: {starts}")
    if run.status == ENABLED:
        _print_times(expression, zone)
    else:
        print(f"it is paused; charloom schedule resume {name} starts it")
    print(f"link: {kubeflow.link('recurringrun', 'details', str(run.recurring_run_id))}")


def _replace(
    kubeflow: Kubeflow, body: Any, present: Sequence[Any], *, digest: str
) -> tuple[Any, str]:
    """Creates the recurring run of `body`, then deletes all others with its name.

    It is enabled unless all existing ones are paused. Several simultaneous commands all keep the
    recurring run of the highest revision, so that none deletes it.

    Args:
      kubeflow: the connection.
      body: the request.
      present: existing recurring runs with the same name.
      digest: digest of the request.

    Returns:
      The remaining recurring run, and what happened.
    """
    name = str(body.display_name)
    on = not present or any(run.status == ENABLED for run in present)
    newest = max(present, key=_revision, default=None)
    outcome = "nothing to change" if len(present) == 1 else "completed an interrupted change"
    made = newest is not None and _request(newest) == digest and (newest.status == ENABLED) == on
    try:
        if not made:
            outcome = "changed" if present else "new"
            number = _revision(newest)[0] + 1 if newest else 1
            body.mode = "ENABLE" if on else "DISABLE"
            body.description += f". Revision: {number}"
            _make(kubeflow, body)
            made = True
            present = _find(kubeflow, name)
            newest = max(present, key=_revision, default=None)
        for run in present:
            if run is not newest:
                _delete(kubeflow, run)
    except (CharloomError, KeyboardInterrupt) as error:
        if made or not isinstance(error, RefusedError):
            new = f"the new schedule {name} {'exists' if made else 'may exist'}"
            former = ", and the old one may still exist" if present else ""
            again = "repeat the command to keep only the new one"
            error.args = (f"{str(error) or 'stopped'}; {new}{former}; {again}",)
        raise
    if newest is None or _request(newest) != digest:
        raise RestartableError(
            f"another command has changed the schedule {name} at the same time; run the same "
            "command again to change it once more"
        )
    return newest, outcome


def _make(kubeflow: Kubeflow, body: Any) -> None:
    """Creates a recurring run, only once even if an answer is lost."""
    request = kubeflow.client.recurring_runs.recurring_run_service_create_recurring_run

    def find() -> Any:
        runs = _find(kubeflow, body.display_name)
        return next((run for run in runs if run.description == body.description), None)

    submit.create_once(lambda: kubeflow.call(request, body, repeat=False), find)


def _delete(kubeflow: Kubeflow, run: Any) -> None:
    """Deletes a recurring run; a run of it in progress continues.

    By default Kubernetes would delete the pods of such a run with its owner.
    """
    request = kubeflow.client.recurring_runs.recurring_run_service_delete_recurring_run
    try:
        kubeflow.call(request, run.recurring_run_id, propagation_policy="ORPHAN")
    except RefusedError as error:
        if error.status != 404:  # already deleted
            raise


def _digest(kubeflow: Kubeflow, body: Any) -> str:
    """Returns the digest of a request, without its description and mode."""
    content = kubeflow.rest.sanitize_for_serialization(body)
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _request(run: Any) -> str:
    """Returns the digest of a recurring run's request; empty if it isn't ours."""
    found = _MARK.match(run.description or "")
    return found[1] if found else ""


def _revision(run: Any) -> tuple[int, str]:
    """Returns a sort key for recurring runs with the same name; the highest is kept."""
    found = _MARK.match(run.description or "")
    return int(found[2] or 0) if found else 0, str(run.recurring_run_id)


def _check_name(name: str) -> str:
    if not name.strip() or not name.isprintable() or len(name) > 128:
        raise InputError(
            f"the name {name!r} of the schedule must be 1 to 128 characters of one line"
        )
    return name.strip()


def print_schedules(kubeflow: Kubeflow, zone: datetime.tzinfo) -> None:
    """Prints the schedules created by charloom, with their next times."""
    runs = [run for run in list_recurring_runs(kubeflow) if _request(run)]
    if not runs:
        print("there are no schedules; charloom schedule create creates one")
        return
    now = datetime.datetime.now(cron.UTC)
    rows = [("NAME", "STATE", "CRON", "NEXT", "ID")]
    for run in sorted(runs, key=lambda one: str(one.display_name)):
        text = _cron_text(run)
        state = "on" if run.status == ENABLED else "paused"
        following = _next_time(text, now, zone) if state == "on" else None
        rows.append(
            (
                str(run.display_name),
                state,
                text,
                f"{following:%Y-%m-%d %H:%M:%S} UTC" if following else "-",
                str(run.recurring_run_id),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    names = [row[0] for row in rows[1:]]
    for name in sorted({name for name in names if names.count(name) > 1}):
        print(
            f"{name} exists more than once: a change was interrupted; repeat it, or delete {name}"
        )
    for run in runs:
        _report_former_names(run)


def pause(kubeflow: Kubeflow, name: str) -> None:
    """Stops a schedule from starting runs.

    Raises:
      InputError: there is no such schedule.
    """
    service = kubeflow.client.recurring_runs
    for run in _find(kubeflow, name, needed=True):
        kubeflow.call(service.recurring_run_service_disable_recurring_run, run.recurring_run_id)
    print(f"{name} is paused; charloom schedule resume {name} restarts it")


def resume(kubeflow: Kubeflow, name: str, zone: datetime.tzinfo) -> None:
    """Makes a schedule start runs again.

    Raises:
      InputError: there is no such schedule, or two of them.
    """
    run = _only(_find(kubeflow, name, needed=True), name)
    service = kubeflow.client.recurring_runs
    kubeflow.call(service.recurring_run_service_enable_recurring_run, run.recurring_run_id)
    print(f"{name} is on; if it missed a time while it was paused, one run starts immediately")
    text = _cron_text(run)
    if _next_time(text, datetime.datetime.now(cron.UTC), zone):
        _print_times(cron.parse(text), zone)
    _report_former_names(run)


def delete(kubeflow: Kubeflow, name: str) -> None:
    """Deletes a schedule; its runs stay.

    Raises:
      InputError: there is no such schedule.
    """
    for run in _find(kubeflow, name, needed=True):
        _delete(kubeflow, run)
    print(f"{name} was deleted; its runs stay")


def run_now(kubeflow: Kubeflow, name: str) -> tuple[str, Mapping[str, Any]]:
    """Starts a run with a schedule's settings; returns its id and the pipeline's spec.

    The run is independent: it does not count as one of the schedule's runs or end with it.

    Raises:
      InputError: there is no such schedule, or two of them.
    """
    found = _only(_find(kubeflow, name, needed=True), name)
    reference = found.pipeline_version_reference
    version = kubeflow.call(
        kubeflow.client.pipelines.pipeline_service_get_pipeline_version,
        reference.pipeline_id,
        reference.pipeline_version_id,
    )
    _report_former_names(found)
    now = datetime.datetime.now().astimezone()
    run = api.V2beta1Run(
        display_name=f"{name} {now:%Y-%m-%d %H-%M-%S}",
        experiment_id=found.experiment_id,
        pipeline_version_reference=reference,
        runtime_config=found.runtime_config,
        service_account=found.service_account,
    )
    return submit.create_run(
        kubeflow, run, f"Made by charloom schedule run-now {name}."
    ), version.pipeline_spec


def list_recurring_runs(kubeflow: Kubeflow, name: str | None = None) -> list[Any]:
    """Returns the recurring runs, made by charloom or not; with `name`, those of that name."""
    scope: dict[str, Any] = {"namespace": kubeflow.namespace} if kubeflow.namespace else {}
    if name is not None:
        scope["filter"] = submit.equals("display_name", name)
    service = kubeflow.client.recurring_runs
    return list(
        kubeflow.pages(service.recurring_run_service_list_recurring_runs, "recurring_runs", **scope)
    )


def _find(kubeflow: Kubeflow, name: str, *, needed: bool = False) -> list[Any]:
    """Returns the schedules with a name: none, one, or two after an interrupted change."""
    runs = list_recurring_runs(kubeflow, name)
    foreign = [run for run in runs if not _request(run)]
    if foreign:
        raise InputError(
            f"the recurring run {name} ({foreign[0].recurring_run_id}) was not made by charloom; "
            "choose another name, or delete it in the UI"
        )
    if needed and not runs:
        known = sorted(
            {str(run.display_name) for run in list_recurring_runs(kubeflow) if _request(run)}
        )
        there = f"there are {', '.join(known)}" if known else "there are none"
        raise InputError(f"there is no schedule {name}; {there}")
    return runs


def _only(runs: Sequence[Any], name: str) -> Any:
    if len(runs) != 1:
        raise InputError(
            f"{name} exists more than once, as a change was interrupted; repeat charloom schedule "
            f"create, or delete {name}"
        )
    return runs[0]


def _report_former_names(run: Any) -> None:
    """Prints a line if a schedule uses parameters that this version's pipeline lacks."""
    given = (run.runtime_config.parameters if run.runtime_config else None) or {}
    former = set(given) - set(train_language_model.pipeline_spec.root.input_definitions.parameters)
    if former:
        print(
            f"{run.display_name} has parameters from an older charloom ({', '.join(sorted(former))}) and "
            "still uses that version of the pipeline and its image; charloom schedule create --name "
            f"{shlex.quote(run.display_name)} with the current flags replaces it"
        )


def _cron_text(run: Any) -> str:
    trigger = run.trigger.cron_schedule if run.trigger else None
    return str(trigger.cron) if trigger else "-"


def _next_time(
    text: str, start: datetime.datetime, zone: datetime.tzinfo
) -> datetime.datetime | None:
    try:
        return cron.parse(text).after(start, zone)
    except InputError:
        return None


def _print_times(expression: cron.Cron, zone: datetime.tzinfo) -> None:
    for time in expression.times(datetime.datetime.now(cron.UTC), zone, SHOWN_TIMES):
        print(f"next: {time:%a %Y-%m-%d %H:%M:%S} UTC")
