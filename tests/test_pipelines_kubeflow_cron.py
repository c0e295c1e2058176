"""Cron expressions: the same times as the scheduler's own library, and messages that help."""

from __future__ import annotations

import datetime
import zoneinfo

import pytest

from model.errors import InputError
from pipelines.kubeflow import cron

SCHEDULER_S_ANSWERS = [
    ("0 30 3 * * *", "UTC", 1750000000, [1750044600, 1750131000, 1750217400, 1750303800]),
    ("0 30 3 * * *", "Asia/Tokyo", 1750000000, [1750012200, 1750098600, 1750185000, 1750271400]),
    ("0 0 22 * * FRI", "UTC", 1750000000, [1750456800, 1751061600, 1751666400, 1752271200]),
    ("0 0 */6 1 * *", "UTC", 1750000000, [1751328000, 1751349600, 1751371200, 1751392800]),
    (
        "5 5/20 8-18/5 ? JAN,jul MON-fri",
        "UTC",
        1750000000,
        [1751357105, 1751358305, 1751359505, 1751375105],
    ),
    ("0 0 0 13 * 5", "UTC", 1750000000, [1750377600, 1750982400, 1751587200, 1752192000]),
    ("0 0 0 */2 * MON", "UTC", 1750000000, [1750636800, 1751846400, 1753056000, 1754870400]),
    ("0 0 0 29 2 *", "UTC", 1750000000, [1835395200, 1961625600, 2087856000, 2214086400]),
    ("0 0 0 30 4 ?", "UTC", 1750000000, [1777507200, 1809043200, 1840665600, 1872201600]),
    ("59 59 23 31 12 *", "UTC", 1750000000, [1767225599, 1798761599, 1830297599, 1861919999]),
    ("0 0 0 1 1 SUN", "UTC", 1750000000, [1767225600, 1767484800, 1768089600, 1768694400]),
    ("7 * * * * *", "UTC", 1750000000, [1750000027, 1750000087, 1750000147, 1750000207]),
    (
        "0 15,45 9-17 1,15 */3 0-2",
        "UTC",
        1750000000,
        [1751361300, 1751363100, 1751364900, 1751366700],
    ),
    ("0 30 2 * * *", "Europe/Berlin", 1774630800, [1774661400, 1774830600, 1774917000, 1775003400]),
    ("0 30 2 * * *", "Europe/Berlin", 1792778400, [1792801800, 1792888200, 1792891800, 1792978200]),
    ("0 0 3 * * *", "Europe/Berlin", 1774630800, [1774663200, 1774746000, 1774832400, 1774918800]),
    ("0 0 3 * * *", "Europe/Berlin", 1792778400, [1792803600, 1792893600, 1792980000, 1793066400]),
    ("0 15 * * * *", "Europe/Berlin", 1774630800, [1774631700, 1774635300, 1774638900, 1774642500]),
    ("0 15 * * * *", "Europe/Berlin", 1792778400, [1792779300, 1792782900, 1792786500, 1792790100]),
    ("0 0 0 * * *", "Europe/Berlin", 1774630800, [1774652400, 1774738800, 1774821600, 1774908000]),
    ("0 0 0 * * *", "Europe/Berlin", 1792778400, [1792792800, 1792879200, 1792969200, 1793055600]),
    ("0 0 0 * * *", "America/Havana", 1772841600, [1772859600, 1773028800, 1773115200, 1773201600]),
    ("0 0 0 * * *", "America/Havana", 1793404800, [1793419200, 1793505600, 1793509200, 1793595600]),
    (
        "0 30 0 * * SUN",
        "America/Havana",
        1772841600,
        [1773549000, 1774153800, 1774758600, 1775363400],
    ),
    (
        "0 15 2 * * *",
        "Australia/Lord_Howe",
        1790784000,
        [1790869500, 1790955900, 1791126900, 1791213300],
    ),
    ("0 0 0 ? * *", "Asia/Beirut", 1774569600, [1774648800, 1774818000, 1774904400, 1774990800]),
]
"""Expression, zone, start, next times: printed by github.com/robfig/cron v1.2.0, Go 1.26."""


@pytest.mark.parametrize(("text", "zone", "start", "times"), SCHEDULER_S_ANSWERS)
def test_times_are_those_of_the_scheduler(
    text: str, zone: str, start: int, times: list[int]
) -> None:
    begin = datetime.datetime.fromtimestamp(start, cron.UTC)
    found = cron.parse(text).times(begin, zoneinfo.ZoneInfo(zone), len(times))
    assert [int(time.timestamp()) for time in found] == times
    assert {time.tzinfo for time in found} == {cron.UTC}


def test_the_one_night_on_which_the_scheduler_differs() -> None:
    """Where clocks go back by half an hour, it leaves out a time that they show once; we show it."""
    begin = datetime.datetime.fromtimestamp(1775130000, cron.UTC)
    zone = zoneinfo.ZoneInfo("Australia/Lord_Howe")
    found = cron.parse("0 15 2 * * *").times(begin, zone, 5)
    scheduler = [1775142900, 1775229300, 1775403900, 1775490300]
    left_out = 1775317500
    assert [int(time.timestamp()) for time in found] == sorted([*scheduler, left_out])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0 9 * * *",
            "five fields, but six are needed, starting with the second; write it as '0 0 9 * * *'",
        ),
        ("@daily", "--cron '@daily' must have six fields; write it as '0 0 0 * * *'"),
        ("@every 1h", "has 2 fields; it must have six: second, minute, hour"),
        ("", "has 0 fields; it must have six"),
        ("CRON_TZ=UTC 0 0 9 * * *", "has 7 fields; it must have six"),
        ("60 * * * * *", "second '60' of --cron: 60 is out of range; second takes 0-59"),
        ("0 61 * * * *", "minute '61' of --cron: 61 is out of range; minute takes 0-59"),
        ("0 0 24 * * *", "hour '24' of --cron: 24 is out of range; hour takes 0-23"),
        (
            "0 0 0 0 * *",
            "day of the month '0' of --cron: 0 is out of range; day of the month takes",
        ),
        ("0 0 0 * 13 *", "month '13' of --cron: 13 is out of range; month takes 1-12 or JAN-DEC"),
        (
            "0 0 0 * * 7",
            "'7' of --cron: 7 is out of range; day of the week takes 0-6 or SUN-SAT (0",
        ),
        ("0 0 0 L * *", "'L' is not a number (L, W and # belong to Quartz, not this scheduler)"),
        ("0 0 5-2 * * *", "hour '5-2' of --cron: '5-2' starts after its end"),
        ("0 */0 * * * *", "the step must not be 0"),
        ("0 1, * * * *", "minute '1,' of --cron: '' is not understood"),
        ("0 0 *-3 * * *", "'*-3' is not understood"),
        ("0 0 x * * *", "hour 'x' of --cron: 'x' is not a number"),
        ("* 0 3 * * *", "the second '*' of --cron would start 60 runs in one minute; write 0"),
        ("0 0 0 30 2 ?", "has no time in the next 5 years; check the day"),
    ],
)
def test_wrong_expressions(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        cron.parse(text)
    assert message in str(error.value)


def test_names_of_zones() -> None:
    for name, hint in (
        ("Berlin", "did you mean Europe/Berlin?"),
        ("", "write it as Europe/Berlin"),
    ):
        with pytest.raises(InputError) as error:
            cron.find_zone(name, "--scheduler-zone")
        assert str(error.value) == f"--scheduler-zone {name!r} is not a time zone; {hint}"
