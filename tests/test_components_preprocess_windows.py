"""Windows of days: dates in patterns, and the names that files get."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from dated_files import NOON, write

from components.preprocess.inputs.find import (
    expand_dates,
    find_inputs,
    fingerprint,
    start_time,
)
from components.preprocess.inputs.listing import find_files
from components.preprocess.inputs.split_names import mark_root, split_mark
from components.preprocess.main import run
from model.config import DataConfig
from model.data.records import Dataset
from model.errors import InputError


def test_the_first_time_that_is_one_counts() -> None:
    placeholder = "{{$.pipeline_job_schedule_time_utc}}"
    scheduled = datetime.datetime(2026, 3, 2, 1, 30, tzinfo=datetime.UTC)
    assert start_time(["2026-03-02T01:30:00Z", "2026-05-01T00:00:00Z"]) == scheduled
    assert start_time(["", placeholder, "2026-03-02T03:30:00+02:00"]) == scheduled
    assert start_time(["2026-03-02T01:30:00"]) == scheduled  # UTC, as KFP means it
    before = datetime.datetime.now(datetime.UTC)
    assert before <= start_time([placeholder, ""]) <= datetime.datetime.now(datetime.UTC)
    with pytest.raises(InputError, match="'yesterday' is not a time"):
        start_time(["yesterday"])


def test_a_window_ends_the_day_before(tmp_path: Path) -> None:
    write(tmp_path, *(f"2026/02/{day}/a.txt" for day in (25, 26, 28)), "2026/03/01/a.txt")
    write(tmp_path, "2026/03/02/a.txt", "2026/03/03/a.txt", "base.txt")
    pattern = f"{tmp_path}/{{date:%Y/%m/%d}}/*.txt"
    base = f"{tmp_path}/base.txt"
    assert expand_dates([base, pattern], days=4, end=NOON) == [
        base,
        f"{tmp_path}/./2026/02/26/*.txt",
        f"{tmp_path}/./2026/02/28/*.txt",  # the 27th has none
        f"{tmp_path}/./2026/03/01/*.txt",
    ]
    assert expand_dates([pattern], days=1, end=NOON) == [f"{tmp_path}/./2026/03/01/*.txt"]
    unmarked = expand_dates([pattern], days=1, end=NOON, mark=False)
    assert unmarked == [f"{tmp_path}/2026/03/01/*.txt"]
    own = expand_dates([f"{tmp_path}/{{date:%Y}}/./{{date:%m}}/*"], days=1, end=NOON)
    assert own == [f"{tmp_path}/2026/./03/*"]  # where the user says


def test_a_dated_folder_that_is_empty_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "2026-02-27/a.txt", "2026-02-28/.hidden", "2026-03-01/sub/.hidden")
    pattern = f"{tmp_path}/{{date:%Y-%m-%d}}"
    assert expand_dates([pattern], days=4, end=NOON) == [f"{tmp_path}/./2026-02-27"]
    assert capsys.readouterr().out == f"{pattern}: 3 of 4 dates have no file\n"
    with pytest.raises(InputError, match="on any day from 2026-03-01 to 2026-03-01"):
        expand_dates([pattern], days=1, end=NOON)


@pytest.mark.parametrize(
    ("pattern", "marked"),
    [
        ("/data/{date:%Y/%m/%d}.txt", "/data/./{date:%Y/%m/%d}.txt"),
        ("/data/part-{date:%Y}/*", "/data/./part-{date:%Y}/*"),
        ("/data/*/{date:%Y}", "/data/./*/{date:%Y}"),
        ("/{date:%Y}", "/./{date:%Y}"),
        ("{date:%Y}/a", "././{date:%Y}/a"),
        ("s3://b/t/{date:%Y}", "s3://b/t/./{date:%Y}"),
        ("s3://{date:%Y}/a", "s3://./{date:%Y}/a"),
        ("/data/./a/{date:%Y}", "/data/./a/{date:%Y}"),
        ("@/lists/{date:%Y}", "@/lists/{date:%Y}"),
    ],
)
def test_names_begin_at_the_first_date_or_wildcard(pattern: str, marked: str) -> None:
    assert mark_root(pattern) == marked
    plain, root = split_mark(marked)
    assert root is None or plain.startswith(root)
    assert mark_root(marked) == marked


def test_a_source_root_names_files_in_both_steps(tmp_path: Path) -> None:
    write(tmp_path, "in/2026-02-28/a.txt", "in/2026-03-01/a.txt")
    pattern, root = f"{tmp_path}/in/{{date:%Y-%m-%d}}/*.txt", str(tmp_path)
    given = {"window_days": 2, "times": [NOON.isoformat()]}
    listing = str(tmp_path / "listing")
    settings = [f"run.source_root={root}"]
    found = find_inputs(pattern, settings=settings, listing=listing, **given)  # type: ignore[arg-type]
    inputs = [f"{root}/in/{day}/*.txt" for day in ("2026-02-28", "2026-03-01")]
    assert found.fingerprint == fingerprint(find_files(inputs, source_root=root))
    assert found.fingerprint != find_inputs(pattern, **given).fingerprint  # type: ignore[arg-type]
    config = DataConfig(min_count=1, valid_fraction=0.0, test_fraction=0.0)
    records = f"{root}/records"
    info = run(listing=listing, source_root=root, records=records, config=config, beam_workers=1)
    assert info["input"]["source_root"] == root
    with Dataset.open(records) as dataset:
        sources = sorted(dataset.read("train", at).source for at in range(2))
    assert sources == ["in/2026-02-28/a.txt:0", "in/2026-03-01/a.txt:0"]


def test_a_month_is_named_once_and_per_cent_signs_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "2026-02/100%d.txt", "2026-03/100%d.txt")
    pattern = f"{tmp_path}/{{date:%Y-%m}}/100%d.txt"
    assert expand_dates([pattern], days=9, end=NOON) == [
        f"{tmp_path}/./2026-02/100%d.txt",
        f"{tmp_path}/./2026-03/100%d.txt",
    ]


def test_the_name_of_a_list_may_hold_a_date(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.txt")
    for day, name in (("2026-02-27", "a.txt"), ("2026-03-01", "b.txt")):
        (tmp_path / f"{day}.list").write_text(f"{tmp_path}/{name}\n")
    pattern = f"@{tmp_path}/{{date:%Y-%m-%d}}.list"
    time = NOON.isoformat()
    found = find_inputs(json.dumps([pattern]), window_days=9, times=[time])
    assert found.fingerprint == fingerprint(find_files([f"{tmp_path}/*.txt"]))
    (tmp_path / "2026-03-01.list").write_text(f"{tmp_path}/a.txt\n")
    assert find_inputs(pattern, window_days=9, times=[time]).fingerprint != found.fingerprint


def test_a_window_without_any_file_is_bad_input(tmp_path: Path) -> None:
    pattern = f"{tmp_path}/{{date:%Y-%m-%d}}.txt"
    with pytest.raises(InputError, match="on any day from 2026-02-27 to 2026-03-01"):
        expand_dates([pattern], days=3, end=NOON)
    for days in (0, 3661):
        with pytest.raises(InputError, match=f"window_days is {days}"):
            expand_dates([pattern], days=days, end=NOON)
