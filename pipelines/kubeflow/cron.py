"""Cron expressions as the scheduler of Kubeflow Pipelines reads them.

It parses with github.com/robfig/cron v1.2.0: six fields, of which the first is the second. With
five it takes the first for the second as well, so that `0 9 * * *` would start a run every hour;
here they are refused. Everything that `parse` takes means the same there, day light saving
included: `tests/test_pipelines_kubeflow_cron.py` holds answers of that very library.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import itertools
import re
import zoneinfo
from collections.abc import Callable
from typing import NamedTuple

from model.errors import InputError

UTC = datetime.UTC
YEARS = 5
"""A schedule that has no time for so long has none, says the scheduler."""

_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * SUN",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


@dataclasses.dataclass(frozen=True)
class _Field:
    """One of the six fields: its name and what it takes."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def describe(self) -> str:
        """Returns what the field takes."""
        names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        sunday = " (0 and SUN are Sunday)" if self.names and self.low == 0 else ""
        return (
            f"{self.name} takes {self.low}-{self.high}{names}{sunday}, as a number, a range 1-3, "
            "a list 1,3, a step */2, or * for all"
        )


FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, tuple(_MONTHS)),
    _Field("day of the week", 0, 6, tuple(_DAYS)),
)


@dataclasses.dataclass(frozen=True)
class Cron:
    """A checked expression."""

    text: str
    """The six fields with one space between them."""
    values: tuple[frozenset[int], ...]
    """What each field matches."""
    either_day: bool
    """Whether one of the two fields of the day is enough: both are given, and neither with *."""

    def after(self, start: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime | None:
        """Returns the first time after `start`, in `zone`; None: there is none for years.

        Days on which the clocks change are treated as by the scheduler: a time that is left out
        is left out, one that comes twice is taken twice.
        """
        return _after(self, start.replace(microsecond=0), zone)

    def times(
        self, start: datetime.datetime, zone: datetime.tzinfo, count: int
    ) -> list[datetime.datetime]:
        """Returns the next times after `start`, at most `count`."""
        found: list[datetime.datetime] = []
        while len(found) < count:
            following = self.after(found[-1] if found else start, zone)
            if following is None:
                break
            found.append(following)
        return found


def parse(text: str) -> Cron:
    """Checks a cron expression.

    Raises:
      InputError: the scheduler would refuse it, or would do something else than what is meant.
    """
    fields = text.split()
    if fields and fields[0].lower() in _DESCRIPTORS and len(fields) == 1:
        written = _DESCRIPTORS[fields[0].lower()]
        raise InputError(f"--cron {text!r} must have six fields; write it as '{written}'")
    if len(fields) == 5 and not text.strip().startswith("@"):
        fixed = " ".join(["0", *fields])
        raise InputError(
            f"--cron {text!r} has five fields, but the first of six is the second; "
            f"write it as '{fixed}'"
        )
    if len(fields) != 6:
        raise InputError(
            f"--cron {text!r} has {len(fields)} fields; it must have six: second, minute, hour, "
            "day of the month, month, day of the week, as in '0 30 3 * * MON-FRI'"
        )
    values = tuple(_values(part, field) for part, field in zip(fields, FIELDS, strict=True))
    if len(values[0]) > 1:
        raise InputError(
            f"the second {fields[0]!r} of --cron would start {len(values[0])} runs in one minute; "
            "write 0"
        )
    cron = Cron(" ".join(fields), values, not _starred(fields[3]) and not _starred(fields[5]))
    if cron.after(datetime.datetime.now(UTC), UTC) is None:
        raise InputError(f"--cron {text!r} has no time in the next {YEARS} years; check the day")
    return cron


def _starred(part: str) -> bool:
    return any(piece[0] in "*?" for piece in part.split(","))


def _values(part: str, field: _Field) -> frozenset[int]:
    """Returns what a field matches."""
    found: set[int] = set()
    for piece in part.split(","):
        shape = re.fullmatch(r"([*?]|\w+)(?:-(\w+))?(?:/(\d{1,9}))?", piece, re.ASCII)
        if not shape or (shape[1] in "*?" and shape[2]):
            raise _wrong(part, field, f"{piece!r} is not understood")
        first, last, step = shape.groups()
        if first in "*?":
            low, high = field.low, field.high
        else:
            low = _number(first, part, field)
            # "5/10" is "5-59/10" there
            high = _number(last, part, field) if last else (field.high if step else low)
        if low > high:
            raise _wrong(part, field, f"{piece!r} begins after its end")
        if step is not None and int(step) == 0:
            raise _wrong(part, field, "a step of 0 leads nowhere")
        found.update(range(low, high + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str, part: str, field: _Field) -> int:
    if text.upper() in field.names:
        return field.names.index(text.upper()) + field.low
    if not text.isdigit() or not text.isascii() or len(text) > 9:
        raise _wrong(part, field, f"{text!r} is no number")
    if not field.low <= int(text) <= field.high:
        raise _wrong(part, field, f"{int(text)} is out of range")
    return int(text)


def _wrong(part: str, field: _Field, reason: str) -> InputError:
    if field.name.startswith("day") and re.search(r"\b(?:\d*[LW])\b|#", part.upper()):
        reason += " (L, W and # are of Quartz, not of this scheduler)"
    return InputError(f"{field.name} {part!r} of --cron: {reason}; {field.describe()}")


def _day_matches(cron: Cron, day: datetime.datetime) -> bool:
    of_month = day.day in cron.values[3]
    of_week = day.isoweekday() % 7 in cron.values[5]
    return (of_month or of_week) if cron.either_day else (of_month and of_week)


class _Step(NamedTuple):
    """How one field is brought to a value that matches."""

    matches: Callable[[datetime.datetime], bool]
    begin: Callable[[datetime.datetime], datetime.datetime]
    """Sets the lesser fields to their beginning."""
    add: Callable[[datetime.datetime], datetime.datetime]
    rolled_over: Callable[[datetime.datetime], bool]


def _after(cron: Cron, start: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime | None:
    """Searches step by step like the scheduler, so that both agree when clocks change.

    A field that doesn't match is counted up; when it rolls over, all begins again at the month.
    Hours, minutes and seconds are added to the instant, months and days to what a clock shows.
    """
    seconds, minutes, hours, _, months, _ = cron.values
    steps = (
        _Step(
            lambda t: t.month in months,
            lambda t: _local(t, day=1, hour=0, minute=0, second=0),
            lambda t: _local(t, month=t.month + 1),
            lambda t: t.month == 1,
        ),
        _Step(
            lambda t: _day_matches(cron, t),
            lambda t: _local(t, hour=0, minute=0, second=0),
            lambda t: _local(t, day=t.day + 1),
            lambda t: t.day == 1,
        ),
        _Step(
            lambda t: t.hour in hours,
            lambda t: _local(t, minute=0, second=0),
            lambda t: _plus(t, 3600),
            lambda t: t.hour == 0,
        ),
        _Step(
            lambda t: t.minute in minutes,
            lambda t: _plus(t, -t.second),
            lambda t: _plus(t, 60),
            lambda t: t.minute == 0,
        ),
        _Step(
            lambda t: t.second in seconds,
            lambda t: t,
            lambda t: _plus(t, 1),
            lambda t: t.second == 0,
        ),
    )
    time, begun = _plus(start.astimezone(zone), 1), False
    last_year = time.year + YEARS
    while time.year <= last_year:
        for step in steps:
            while not step.matches(time):
                time, begun = step.add(time if begun else step.begin(time)), True
                if step.rolled_over(time):
                    break
            else:
                continue
            break
        else:
            return time
    return None


def _plus(time: datetime.datetime, seconds: int) -> datetime.datetime:
    """Adds to the instant, whatever the clocks do."""
    return (time.astimezone(UTC) + datetime.timedelta(seconds=seconds)).astimezone(time.tzinfo)


def _local(time: datetime.datetime, **fields: int) -> datetime.datetime:
    """Returns the time with other fields; a month or a day too many leads on.

    A time that the clocks leave out becomes one beside it, that which Go's time.Date takes.
    """
    values = {
        name: getattr(time, name) for name in ("year", "month", "day", "hour", "minute", "second")
    }
    values |= fields
    if values["month"] > 12:
        values |= {"year": values["year"] + 1, "month": 1}
    extra, values["day"] = values["day"] - 1, 1
    shown = datetime.datetime(**values, tzinfo=UTC) + datetime.timedelta(days=extra)
    zone = time.tzinfo
    guess = shown - _offset(shown, zone)
    return (shown - _offset(guess, zone)).astimezone(zone)


def _offset(instant: datetime.datetime, zone: datetime.tzinfo | None) -> datetime.timedelta:
    return instant.astimezone(zone).utcoffset() or datetime.timedelta(0)


def find_zone(name: str, flag: str) -> datetime.tzinfo:
    """Returns the time zone of that name.

    Raises:
      InputError: there is none.
    """
    if name == "UTC":
        return UTC  # also where no zones are installed
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        known = zoneinfo.available_timezones()
        near = [zone for zone in sorted(known) if name.lower() in zone.lower()] if name else []
        near = near or difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near[:3])}?" if near else "write it as Europe/Berlin"
        raise InputError(f"{flag} {name!r} is no time zone; {hint}") from None


def convert(
    cron: Cron, source: datetime.tzinfo, target: datetime.tzinfo, *, now: datetime.datetime
) -> Cron:
    """Returns the expression by the clocks of `target` for one that is meant by those of `source`.

    Raises:
      InputError: there is none: the clocks don't always differ by the same, or the days don't fit.
    """
    days = [now + datetime.timedelta(days=day) for day in range(366 * YEARS)]
    shifts = {_offset(day, target) - _offset(day, source) for day in days}
    advice = (
        f"give the time by the scheduler's own clocks, with --time-zone {target}, or let the "
        f"administrator set cronScheduleTimezone of Kubeflow Pipelines to {source} and say so "
        f"with --scheduler-zone {source}"
    )
    if len(shifts) > 1:
        raise InputError(
            f"--time-zone {source}: its clocks and those of the scheduler ({target}) do not always "
            f"differ by the same, and one schedule can't follow both; {advice}"
        )
    shift = int(shifts.pop().total_seconds()) // 60
    if not shift:
        return cron
    shifted = {
        hour * 60 + minute + shift
        for hour, minute in itertools.product(cron.values[2], cron.values[1])
    }
    other_days = {moment // (24 * 60) for moment in shifted}
    clock = {moment % (24 * 60) for moment in shifted}
    hours, minutes = {moment // 60 for moment in clock}, {moment % 60 for moment in clock}
    parts = cron.text.split()
    every = [values >= _all(field) for values, field in zip(cron.values, FIELDS, strict=True)]
    if other_days != {0} and not all(every[3:]):
        if len(other_days) > 1 or not (every[3] and every[4]):
            raise InputError(
                f"--cron {cron.text!r} in {source} is on other days in {target}, where the "
                f"scheduler is; {advice}"
            )
        moved = {(day + min(other_days)) % 7 for day in cron.values[5]}
        parts[5] = _write(moved, FIELDS[5])
    if len(hours) * len(minutes) != len(clock):
        raise InputError(
            f"--cron {cron.text!r} in {source} is no single schedule in {target}, where the "
            f"scheduler is; {advice}"
        )
    parts[1], parts[2] = _write(minutes, FIELDS[1]), _write(hours, FIELDS[2])
    return parse(" ".join(parts))


def _all(field: _Field) -> frozenset[int]:
    return frozenset(range(field.low, field.high + 1))


def _write(values: set[int], field: _Field) -> str:
    """Writes a field: * for all, else its values as a list."""
    if values >= _all(field):
        return "*"
    return ",".join(field.names[value] if field.names else str(value) for value in sorted(values))
