"""The command `charloom runs gc`."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

from components.shared_runs import RUNS_FOLDER
from model.scratch import sweep_scratch
from pipelines import run_folders
from pipelines.cli import flags
from pipelines.cli.kubeflow import connect
from pipelines.cli.shared import Add


def add_commands(add: Add, commands: Any) -> None:
    """Adds the commands; `add` creates a command's parser."""
    runs = commands.add_parser(
        "runs",
        help="Remove the folders of old runs.",
        description="Remove the folders of old runs.",
    )
    actions = runs.add_subparsers(title="commands", metavar="COMMAND", required=True)
    gc = add(
        actions,
        "gc",
        _collect,
        "Remove old runs; running ones and those that something needs stay.",
    )
    place = gc.add_mutually_exclusive_group(required=True)
    place.add_argument("--root", metavar="DIR", help="folder of all output of charloom run")
    place.add_argument(
        "--volume",
        metavar="DIR",
        help="where the shared volume of a cluster is mounted, such as /mnt/charloom; Kubeflow "
        "Pipelines is asked which runs are running",
    )
    gc.add_argument(
        "--keep-days", type=float, metavar="N", help="keep runs used within this many days"
    )
    gc.add_argument("--keep-last", type=int, metavar="N", help="keep this many runs used last")
    gc.add_argument(
        "--registry",
        action="append",
        metavar="DIR",
        help="a registry whose versions keep the runs they were made in; may be repeated (default: "
        "registry/ in the root or volume)",
    )
    gc.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    flags.add_kubeflow(gc)


def _collect(options: argparse.Namespace) -> None:
    limits = run_folders.Limits(days=options.keep_days, last=options.keep_last)
    top = os.path.abspath(options.volume or options.root)
    folder = os.path.join(top, RUNS_FOLDER if options.volume else "pipeline")
    names = run_folders.VOLUME_RUN if options.volume else run_folders.LOCAL_RUN
    runs = run_folders.find_runs(folder, names)
    own = os.path.join(top, "registry")
    registries = options.registry or ([own] if os.path.isdir(own) else [])
    reasons = run_folders.versions_of(runs, registries)
    if options.volume:
        from pipelines.kubeflow import runs_in_use

        use = runs_in_use.ask(connect(options), [run.name for run in runs])
        reasons = {**use.named, **reasons}
        running = dict(use.running)
    else:
        running = _running_here(runs, os.path.join(top, "logs"))
    running |= {run.name: why for run in runs if (why := run_folders.locked_training(run))}
    plan = run_folders.make_plan(runs, limits, running=running, reasons=reasons, now=time.time())
    if not options.dry_run:
        run_folders.sweep_removed(folder)
        run_folders.carry_out(plan, on_volume=bool(options.volume))
        if options.root:
            sweep_scratch()
    _report(plan, total=len(runs), dry_run=options.dry_run)


def _running_here(runs: Sequence[run_folders.RunFolder], logs: str) -> dict[str, str]:
    """Returns the local runs that count as running -> why."""
    since = run_folders.running_since(logs)
    if since is None:
        return {}
    why = "a charloom run that is running may write to it"
    return {run.name: why for run in runs if run.used >= since}


def _report(plan: run_folders.Plan, *, total: int, dry_run: bool) -> None:
    word = "would remove" if dry_run else "removed"
    for name, why in plan.needed.items():
        print(f"{name} stays: {why}")
    for run in plan.remove:
        day = time.strftime("%Y-%m-%d", time.gmtime(run.used))
        print(f"{word} {run.path} ({run.size / 1e9:,.3f} GB, last used {day})")
    for path in plan.stale:
        print(f"{word} {path}, which a dead process left")
    size = sum(run.size for run in plan.remove)
    print(f"{word} {len(plan.remove)} of {total} runs, {size / 1e9:,.3f} GB", flush=True)
