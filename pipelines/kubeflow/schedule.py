"""Schedules on Kubeflow Pipelines: recurring runs that charloom made, known by their names.

Kubeflow Pipelines can't change a recurring run, and its names are not unique. So a change makes a
second one and deletes the first, and every command here bears with the two of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import kfp_server_api as api  # type: ignore[import-untyped]

from model.errors import InputError
from pipelines.graph import train_language_model
from pipelines.kubeflow import cron, submit
from pipelines.kubeflow import swap_schedule as replacing
from pipelines.kubeflow.client import Kubeflow
from pipelines.kubeflow.package import Package

ZONE_VARIABLE = "CHARLOOM_KFP_TIME_ZONE"

SHOWN_TIMES = 3
ENABLED = "ENABLED"

_MARK = re.compile(r"Made by charloom schedule\..*Request: ([0-9a-f]{64})", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """When runs start."""

    given: cron.Cron
    """As the user wrote it."""
    given_zone: datetime.tzinfo
    cron: cron.Cron
    """The same by the scheduler's clocks; this one is sent."""
    zone: datetime.tzinfo
    """The scheduler's."""

    def describe(self) -> str:
        """Returns both for people."""
        text = f"{self.given.text} ({self.given_zone})"
        if self.cron.text != self.given.text:
            text += f", sent as {self.cron.text} ({self.zone})"
        return text


def scheduler_zone(name: str) -> datetime.tzinfo:
    """Returns the time zone in which the scheduler reads its schedules.

    Raises:
      InputError: there is no such zone.
    """
    if name:
        return cron.find_zone(name, "--scheduler-zone")
    return cron.find_zone(os.environ.get(ZONE_VARIABLE) or "UTC", f"${ZONE_VARIABLE}")


def read_times(text: str, zone: str, scheduler: str) -> Times:
    """Checks the flags that say when.

    Kubeflow Pipelines has one time zone for all schedules, and `CRON_TZ=` is unknown to its parser.

    Raises:
      InputError: one is wrong, or the scheduler has no such schedule.
    """
    target = scheduler_zone(scheduler)
    source = cron.find_zone(zone, "--time-zone") if zone else target
    given = cron.parse(text)
    now = datetime.datetime.now(cron.UTC)
    converted = cron.convert(given, source, target, now=now)
    return Times(given=given, given_zone=source, cron=converted, zone=target)


def create(
    kubeflow: Kubeflow, package: Package, options: argparse.Namespace, *, times: Times
) -> None:
    """Makes a schedule, or puts it in the place of the one of that name.

    Raises:
      InputError: the name is that of a recurring run that charloom did not make.
      RefusedError, UnavailableError: Kubeflow Pipelines did not take it; the old one stays.
    """
    name = _check_name(options.name)
    present = _find(kubeflow, name)
    body = api.V2beta1RecurringRun(
        display_name=name,
        experiment_id=submit.find_experiment(kubeflow, options.experiment),
        pipeline_version_reference=submit.upload(kubeflow, package),
        runtime_config=api.V2beta1RuntimeConfig(parameters=dict(package.parameters)),
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=times.cron.text)),
        max_concurrency="1",
        no_catchup=True,
        service_account=options.service_account or None,
    )
    digest = _digest(kubeflow, body)
    body.description = f"Made by charloom schedule. Starts: {times.describe()}. Request: {digest}"
    outcome = replacing.replace(
        kubeflow,
        body,
        present,
        is_same=lambda run: _request(run) == digest,
        find=lambda: _find(kubeflow, name),
        zone=times.zone,
    )
    print(f"schedule: {name}, {outcome.text}")
    print(f"starts: {times.describe()}")
    if outcome.enabled:
        _print_times(times.cron, times.given_zone, times.zone)
    else:
        print(f"it is paused; charloom schedule resume {name} starts it")
    print(f"link: {kubeflow.link('recurringrun', 'details', outcome.run_id)}")


def _digest(kubeflow: Kubeflow, body: Any) -> str:
    """Returns what tells one request from another: all of it but the description and the mode."""
    content = kubeflow.rest.sanitize_for_serialization(body)
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _request(run: Any) -> str:
    """Returns the digest of the request that made a recurring run; empty: it isn't ours."""
    found = _MARK.match(run.description or "")
    return found[1] if found else ""


def _check_name(name: str) -> str:
    if not name.strip() or not name.isprintable() or len(name) > 128:
        raise InputError(
            f"the name {name!r} of the schedule must be 1 to 128 characters of one line"
        )
    return name.strip()


def print_schedules(kubeflow: Kubeflow, zone: datetime.tzinfo) -> None:
    """Prints the schedules that charloom made, with the next time of each."""
    runs = [run for run in _recurring_runs(kubeflow) if _request(run)]
    if not runs:
        print("there are no schedules; charloom schedule create makes one")
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
                f"{following:%Y-%m-%d %H:%M:%S %Z}" if following else "-",
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
        print(f"{name} is there more than once: a change was cut off; repeat it, or delete {name}")
    for run in runs:
        _report_former_names(run)


def pause(kubeflow: Kubeflow, name: str) -> None:
    """Lets a schedule start no more runs.

    Raises:
      InputError: there is no such schedule.
    """
    service = kubeflow.client.recurring_runs
    for run in _find(kubeflow, name, needed=True):
        kubeflow.call(service.recurring_run_service_disable_recurring_run, run.recurring_run_id)
    print(f"{name} is paused; charloom schedule resume {name} starts it again")


def resume(kubeflow: Kubeflow, name: str, zone: datetime.tzinfo) -> None:
    """Lets a schedule start runs again.

    Raises:
      InputError: there is no such schedule, or two of them.
    """
    run = _only(_find(kubeflow, name, needed=True), name)
    service = kubeflow.client.recurring_runs
    kubeflow.call(service.recurring_run_service_enable_recurring_run, run.recurring_run_id)
    print(f"{name} is on; if it missed a time while it was paused, one run starts at once")
    text = _cron_text(run)
    if _next_time(text, datetime.datetime.now(cron.UTC), zone):
        _print_times(cron.parse(text), zone, zone)
    _report_former_names(run)


def delete(kubeflow: Kubeflow, name: str) -> None:
    """Deletes a schedule; its runs stay.

    Raises:
      InputError: there is no such schedule.
    """
    for run in _find(kubeflow, name, needed=True):
        replacing.delete(kubeflow, run.recurring_run_id)
    print(f"{name} is deleted; its runs stay")


def run_now(kubeflow: Kubeflow, name: str) -> tuple[str, Mapping[str, Any]]:
    """Starts a run with what a schedule says; returns its id and the pipeline's spec.

    It is not of the schedule: it neither counts as one of its runs nor ends with it.

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


def _recurring_runs(kubeflow: Kubeflow, name: str | None = None) -> list[Any]:
    """Returns the recurring runs of the namespace, or those of a name."""
    scope: dict[str, Any] = {"namespace": kubeflow.namespace} if kubeflow.namespace else {}
    if name is not None:
        scope["filter"] = submit.equals("display_name", name)
    service = kubeflow.client.recurring_runs
    return list(
        kubeflow.pages(service.recurring_run_service_list_recurring_runs, "recurring_runs", **scope)
    )


def _find(kubeflow: Kubeflow, name: str, *, needed: bool = False) -> list[Any]:
    """Returns the schedules of a name: none, one, or two if a change was cut off."""
    runs = _recurring_runs(kubeflow, name)
    foreign = [run for run in runs if not _request(run)]
    if foreign:
        raise InputError(
            f"the recurring run {name} ({foreign[0].recurring_run_id}) was not made by charloom; "
            "take another name, or delete it in the UI"
        )
    if needed and not runs:
        known = sorted(
            {str(run.display_name) for run in _recurring_runs(kubeflow) if _request(run)}
        )
        there = f"there are {', '.join(known)}" if known else "there are none"
        raise InputError(f"there is no schedule {name}; {there}")
    return runs


def _only(runs: Sequence[Any], name: str) -> Any:
    """Returns the one schedule, or of two the one that is on."""
    chosen = [run for run in runs if run.status == ENABLED] if len(runs) > 1 else runs
    if len(chosen) != 1:
        raise InputError(
            f"{name} is there more than once, as a change was cut off; repeat charloom schedule "
            f"create, or delete {name}"
        )
    return chosen[0]


def _report_former_names(run: Any) -> None:
    """Prints a line if a schedule gives parameters that this version's pipeline does not have."""
    given = (run.runtime_config.parameters if run.runtime_config else None) or {}
    former = set(given) - set(train_language_model.pipeline_spec.root.input_definitions.parameters)
    if former:
        print(
            f"{run.display_name} has parameters of an older charloom ({', '.join(sorted(former))}) and "
            "goes on with that version of the pipeline and its image; charloom schedule create --name "
            f"{shlex.quote(run.display_name)} with today's flags replaces it"
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


def _print_times(expression: cron.Cron, shown: datetime.tzinfo, zone: datetime.tzinfo) -> None:
    for time in expression.times(datetime.datetime.now(cron.UTC), zone, SHOWN_TIMES):
        local = time.astimezone(shown)
        other = "" if shown == cron.UTC else f" ({time.astimezone(cron.UTC):%Y-%m-%d %H:%M} UTC)"
        print(f"next: {local:%a %Y-%m-%d %H:%M:%S %Z}{other}")
