"""The commands for Kubeflow Pipelines: `charloom submit` and `charloom schedule`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pipelines.cli import flags
from pipelines.cli.shared import Add
from pipelines.cli.streams import IS_PRODUCT

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Kubeflow

CRON_HELP = """\
The six fields of --cron, from left to right:
  second              0-59, one value, usually 0
  minute              0-59
  hour                0-23
  day of the month    1-31
  month               1-12 or JAN-DEC
  day of the week     0-6 or SUN-SAT; 0 is Sunday
Each but the first also accepts * (all), lists 1,3, ranges 1-5 and steps */2. If both days are given,
neither with *, it is enough for one of them to match.
  '0 30 3 * * *'      each day at 03:30
  '0 0 22 * * FRI'    on Fridays at 22:00
  '0 0 */6 1 * *'     on the first of each month, every six hours
"""


def add_commands(add: Add, commands: Any) -> None:
    """Adds the commands; `add` creates a command's parser."""
    submit = add(commands, "submit", _submit, "Run the pipeline on Kubeflow Pipelines.")
    flags.add_kubeflow(submit)
    flags.add_submission(submit)
    submit.add_argument("--name", default="", help="the run's name (default: includes the time)")
    _add_wait(submit)

    schedule = commands.add_parser(
        "schedule",
        help="Run the pipeline on Kubeflow Pipelines regularly.",
        description="Run the pipeline on Kubeflow Pipelines regularly.",
    )
    verbs = schedule.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = add(verbs, "create", _create, "Create a schedule, or change the one with that name.")
    create.formatter_class = argparse.RawDescriptionHelpFormatter
    create.epilog = CRON_HELP
    flags.add_kubeflow(create)
    create.add_argument(
        "--name", default="charloom", help="the schedule's name (default: charloom)"
    )
    create.add_argument(
        "--cron",
        required=True,
        metavar="'S M H DoM Mon DoW'",
        help="when to run, by the scheduler's clock; see below",
    )
    flags.add_scheduler_zone(create)
    flags.add_submission(create)
    for verb, function, text in (
        ("list", _list, "Show the schedules and their next times."),
        ("pause", _pause, "Stop starting runs; one in progress continues."),
        ("resume", _resume, "Start runs again; if a time was missed, one starts immediately."),
        ("delete", _delete, "Delete a schedule; its runs stay, and one in progress continues."),
        ("run-now", _run_now, "Start a run of the schedule immediately."),
    ):
        parser = add(verbs, verb, function, text)
        if verb != "list":
            parser.add_argument("schedule", metavar="NAME", help="the schedule's name")
        flags.add_kubeflow(parser)
        if verb == "list":
            parser.set_defaults(**{IS_PRODUCT: True})
        if verb in ("list", "resume"):
            flags.add_scheduler_zone(parser)
        if verb == "run-now":
            _add_wait(parser)


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        action="store_true",
        help="follow the run until it ends; exit 0 if it published a model, 1 if it failed, "
        "3 if the gate rejected it, 130 if it was terminated",
    )


def connect(options: argparse.Namespace) -> Kubeflow:
    """Connects to the Kubeflow Pipelines that the flags of `add_kubeflow` name."""
    from pipelines.kubeflow import client

    return client.connect(
        options.host,
        namespace=options.namespace,
        token_file=options.token_file,
        cookie_file=options.cookie_file,
        ca_cert=options.ca_cert,
        insecure=options.insecure,
    )


def _submit(options: argparse.Namespace) -> None:
    from pipelines.kubeflow import run_monitor, submit
    from pipelines.kubeflow.package import compiled

    with compiled(options) as package:  # finds local errors before any request
        kubeflow = connect(options)
        run = submit.submit(kubeflow, package, options)
    if options.wait:
        run_monitor.follow(kubeflow, run, run_monitor.task_names(package.spec))


def _create(options: argparse.Namespace) -> None:
    from pipelines.kubeflow import cron, schedule
    from pipelines.kubeflow.package import compiled

    zone = schedule.scheduler_zone(options.scheduler_zone)
    expression = cron.parse(options.cron)
    with compiled(options) as package:
        schedule.create(connect(options), package, options, expression=expression, zone=zone)


def _list(options: argparse.Namespace) -> None:
    from pipelines.kubeflow import schedule

    zone = schedule.scheduler_zone(options.scheduler_zone)
    schedule.print_schedules(connect(options), zone)


def _pause(options: argparse.Namespace) -> None:
    from pipelines.kubeflow import schedule

    schedule.pause(connect(options), options.schedule)


def _resume(options: argparse.Namespace) -> None:
    from pipelines.kubeflow import schedule

    zone = schedule.scheduler_zone(options.scheduler_zone)
    schedule.resume(connect(options), options.schedule, zone)


def _delete(options: argparse.Namespace) -> None:
    from pipelines.kubeflow import schedule

    schedule.delete(connect(options), options.schedule)


def _run_now(options: argparse.Namespace) -> None:
    from pipelines.kubeflow import run_monitor, schedule

    kubeflow = connect(options)
    run, spec = schedule.run_now(kubeflow, options.schedule)
    if options.wait:
        run_monitor.follow(kubeflow, run, run_monitor.task_names(spec))
