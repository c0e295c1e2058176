"""Parses cron expressions like the scheduler of Kubeflow Pipelines.

The scheduler uses github.com/robfig/cron v1.2.0: six fields, of which the first is the second.
Given five, it uses the first as both second and minute, so `0 9 * * *` would start a run every
hour; here they are rejected. Everything `parse` accepts has the same meaning there:
`tests/test_pipelines_kubeflow_cron.py` has results of that library, and the one night of a year on
which our next times differ, on Lord Howe Island.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import re
import zoneinfo

from model.errors import InputError

UTC = datetime.UTC
YEARS = 5
"""Years without a matching time after which the scheduler considers a schedule to have none."""

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
    """One of the six fields: its name and allowed values."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def describe(self) -> str:
        """Describes the field's allowed values."""
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
    """Whether it is enough for one of the two day fields to match: both are given, neither with
    *."""

    def after(self, start: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime | None:
        """Returns the first time after `start`, in UTC; None: there is none for `YEARS` years.

        Args:
          start: a time with a time zone.
          zone: the scheduler's time zone. Times that its clocks skip are left out; repeated ones
            occur twice.
        """
        _, minutes, hours, _, months, _ = self.values
        (second,) = self.values[0]
        day = start.astimezone(zone).date()
        last_year = day.year + YEARS
        while day.year <= last_year:
            if day.month in months and self._matches(day):
                clocks = (
                    datetime.time(hour, minute, second) for hour in hours for minute in minutes
                )
                found = [time for clock in clocks for time in _instants(day, clock, zone)]
                following = min((time for time in found if time > start), default=None)
                if following is not None:
                    return following
            day += datetime.timedelta(days=1)
        return None

    def times(
        self, start: datetime.datetime, zone: datetime.tzinfo, count: int
    ) -> list[datetime.datetime]:
        """Returns the next times after `start`, in UTC, at most `count`."""
        found: list[datetime.datetime] = []
        while len(found) < count:
            following = self.after(found[-1] if found else start, zone)
            if following is None:
                break
            found.append(following)
        return found

    def _matches(self, day: datetime.date) -> bool:
        of_month = day.day in self.values[3]
        of_week = day.isoweekday() % 7 in self.values[5]
        return (of_month or of_week) if self.either_day else (of_month and of_week)


def parse(text: str) -> Cron:
    """Checks a cron expression.

    Raises:
      InputError: the scheduler would reject it, or interpret it in an unexpected way.
    """
    fields = text.split()
    if fields and fields[0].lower() in _DESCRIPTORS and len(fields) == 1:
        written = _DESCRIPTORS[fields[0].lower()]
        raise InputError(f"--cron {text!r} must have six fields; write it as '{written}'")
    if len(fields) == 5 and not text.strip().startswith("@"):
        fixed = " ".join(["0", *fields])
        raise InputError(
            f"--cron {text!r} has five fields, but six are needed, starting with the second; "
            f"write it as '{fixed}'"
        )
    if len(fields) != 6:
        raise InputError(
            f"--cron {text!r} has {len(fields)} fields; it must have six: second, minute, hour, "
            "day of the month, month, day of the week, such as '0 30 3 * * MON-FRI'"
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
            raise _wrong(part, field, f"{piece!r} starts after its end")
        if step is not None and int(step) == 0:
            raise _wrong(part, field, "the step must not be 0")
        found.update(range(low, high + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str, part: str, field: _Field) -> int:
    if text.upper() in field.names:
        return field.names.index(text.upper()) + field.low
    if not text.isdigit() or not text.isascii() or len(text) > 9:
        raise _wrong(part, field, f"{text!r} is not a number")
    if not field.low <= int(text) <= field.high:
        raise _wrong(part, field, f"{int(text)} is out of range")
    return int(text)


def _wrong(part: str, field: _Field, reason: str) -> InputError:
    if field.name.startswith("day") and re.search(r"\b(?:\d*[LW])\b|#", part.upper()):
        reason += " (L, W and # belong to Quartz, not this scheduler)"
    return InputError(f"{field.name} {part!r} of --cron: {reason}; {field.describe()}")


def _instants(
    day: datetime.date, clock: datetime.time, zone: datetime.tzinfo
) -> list[datetime.datetime]:
    """Returns when the clocks of a zone show a time, in UTC: usually once, rarely never or twice."""
    shown = datetime.datetime.combine(day, clock)
    times = {shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return [time for time in times if time.astimezone(zone).replace(tzinfo=None) == shown]


def find_zone(name: str, flag: str) -> datetime.tzinfo:
    """Returns the time zone with a name.

    Raises:
      InputError: there is no such zone.
    """
    if name == "UTC":
        return UTC  # works without installed zones
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        known = zoneinfo.available_timezones()
        near = [zone for zone in sorted(known) if name.lower() in zone.lower()] if name else []
        near = near or difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near[:3])}?" if near else "write it as Europe/Berlin"
        raise InputError(f"{flag} {name!r} is not a time zone; {hint}") from None
