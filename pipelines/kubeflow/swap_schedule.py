"""Puts one recurring run in the place of another.

The API has no request that changes one, nor one that swaps two, so there are moments between two
requests. The order is chosen by what a broken one leaves behind:

1. The new one is made, off. Broken here: the old one goes on.
2. The new one is switched on. Broken here: both are on, until the same command is given again.
3. The old one is deleted; if that fails, the new one is, and the old one goes on.

So there is never none, however the command ends. Two never start a run at the same time, as nothing
begins within a minute before a start of either: only a crash between 2 and 3 leaves two on, which
`charloom schedule list` says. A new one that is found off from an earlier attempt is made again:
switched on, it would start a run at once for a time that has passed since.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from model.errors import CharloomError, InputError, RestartableError
from pipelines.kubeflow import cron
from pipelines.kubeflow.client import Kubeflow, RefusedError
from pipelines.kubeflow.submit import create_once

MARGIN = datetime.timedelta(seconds=60)
"""No change begins within this before a start; all its requests together take less."""

SWITCH_LIMITS: dict[str, Any] = {"retry_seconds": 5.0, "read_seconds": 15}
"""For each of the two requests that must follow each other closely."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The recurring run that is there now."""

    run_id: str
    enabled: bool
    text: str
    """What happened, for people."""


def replace(
    kubeflow: Kubeflow,
    body: Any,
    present: Sequence[Any],
    *,
    is_same: Callable[[Any], bool],
    find: Callable[[], Sequence[Any]],
    zone: datetime.tzinfo,
) -> Outcome:
    """Makes the recurring run of `body`, in the place of those that are there.

    It is on unless those that are there are all off.

    Args:
      kubeflow: where.
      body: the request, without its mode.
      present: recurring runs of the same name.
      is_same: whether one was made by the same request.
      find: returns those of the same name that are there now.
      zone: that of the scheduler.

    Raises:
      RestartableError: a start is too near.
      RefusedError, UnavailableError: a request failed; what was there still is.
    """
    on = [run for run in present if run.status == "ENABLED"]
    wanted = bool(on) or not present
    same = [run for run in present if is_same(run) and (run.status == "ENABLED") == wanted]
    if same:
        keep, *others = same
        rest = [*others, *(run for run in present if run not in same)]
        for run in rest:
            delete(kubeflow, run.recurring_run_id)
        text = "finished what was cut off" if rest else "nothing to change"
        return Outcome(str(keep.recurring_run_id), wanted, text)
    if on:
        _check_no_start(body, on, zone)
    made = _create(
        kubeflow,
        body,
        present,
        lambda: [run for run in find() if is_same(run)],
        enabled=wanted and not on,
    )
    if on:
        with _unbroken():
            _switch(kubeflow, made, on, name=str(body.display_name))
    for run in present:
        if run not in on:
            delete(kubeflow, run.recurring_run_id)
    kept = _elect(kubeflow, made, find(), enabled=wanted)
    if kept is not None and not is_same(kept):
        raise RestartableError(
            f"another command has made the schedule {body.display_name} at the same time, and its "
            f"recurring run {kept.recurring_run_id} stays; give the same command again to change it"
        )
    made = str(kept.recurring_run_id) if kept is not None else made
    return Outcome(made, wanted, "changed" if present else "new")


def _elect(kubeflow: Kubeflow, made: str, there: Sequence[Any], *, enabled: bool) -> Any:
    """Leaves one of the recurring runs that several commands have made at the same time.

    All who see more than one choose the same, the oldest, and delete the others; whoever comes last
    sees all. One in another state is still being made by a command that will look in its turn.

    Args:
      kubeflow: where.
      made: id of our own.
      there: recurring runs of the name.
      enabled: whether ours is on.

    Returns:
      The one that stays; None if there was no other than ours.
    """
    state = "ENABLED" if enabled else "DISABLED"
    rivals = [run for run in there if run.status == state]
    if all(run.recurring_run_id == made for run in rivals):
        return None
    kept, *others = sorted(rivals, key=lambda run: (run.created_at, run.recurring_run_id))
    for run in others:
        delete(kubeflow, run.recurring_run_id)
    return kept


def delete(kubeflow: Kubeflow, run_id: str, **limits: Any) -> None:
    """Deletes a recurring run; a run of it that is at work goes on.

    By default Kubernetes would delete the pods of such a run with its owner.
    """
    service = kubeflow.client.recurring_runs
    try:
        kubeflow.call(
            service.recurring_run_service_delete_recurring_run,
            run_id,
            propagation_policy="ORPHAN",
            **limits,
        )
    except RefusedError as error:
        if error.status != 404:  # gone is gone
            raise


def _check_no_start(body: Any, on: Sequence[Any], zone: datetime.tzinfo) -> None:
    """Raises RestartableError if a run starts so soon that the change could meet it."""
    now = datetime.datetime.now(cron.UTC)
    for run in [body, *on]:
        schedule = run.trigger.cron_schedule if run.trigger else None
        with contextlib.suppress(InputError):  # made by hand, in a form that we don't take
            start = cron.parse(schedule.cron if schedule else "").after(now, zone)
            if start is not None and start - now < MARGIN:
                raise RestartableError(
                    f"{body.display_name} starts a run at {start:%H:%M:%S %Z}, in less than a "
                    "minute; give the same command again after that, or pause it first"
                )


def _create(
    kubeflow: Kubeflow,
    body: Any,
    present: Sequence[Any],
    find: Callable[[], Sequence[Any]],
    *,
    enabled: bool,
) -> str:
    """Makes the recurring run, once even if an answer is lost; returns its id."""
    body.mode = "ENABLE" if enabled else "DISABLE"
    before = {run.recurring_run_id for run in present}
    service = kubeflow.client.recurring_runs

    def create() -> Any:
        request = service.recurring_run_service_create_recurring_run
        return kubeflow.call(request, body, repeat=False)

    def find_made() -> Any:
        return next((run for run in find() if run.recurring_run_id not in before), None)

    return str(create_once(create, find_made).recurring_run_id)


def _switch(kubeflow: Kubeflow, made: str, on: Sequence[Any], *, name: str) -> None:
    """Switches the new one on and deletes the old; if that fails, the old one stays."""
    service = kubeflow.client.recurring_runs
    gone = 0
    try:
        kubeflow.call(service.recurring_run_service_enable_recurring_run, made, **SWITCH_LIMITS)
        for run in on:
            delete(kubeflow, run.recurring_run_id, **SWITCH_LIMITS)
            gone += 1
    except CharloomError as error:
        again = "give the same command again"
        try:
            if not gone:  # nor may it be that the answer alone was lost
                for run in on:
                    kubeflow.call(
                        service.recurring_run_service_get_recurring_run, run.recurring_run_id
                    )
                delete(kubeflow, made)
                again = "nothing has changed"
        except CharloomError:
            again = f"{name} may be there twice; {again}"
        raise type(error)(f"{error}; {again}", **_status(error)) from None


def _status(error: CharloomError) -> dict[str, int]:
    return {"status": error.status} if isinstance(error, RefusedError) else {}


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """Keeps Ctrl-C and SIGTERM back until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in signals]
    try:
        yield
    finally:
        for which, handler in zip(signals, before, strict=True):
            signal.signal(which, handler)
    for number in came:
        signal.raise_signal(number)
