"""Which runs are removed, which stay, and why."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

import pytest
from run_trees import DAY, NOW, make_run, make_version, set_age

from components import shared_runs
from model.errors import CharloomError, InputError
from pipelines.run_folders import (
    Limits,
    Plan,
    carry_out,
    find_runs,
    locked_training,
    make_plan,
    running_since,
    sweep_removed,
    versions_of,
)

NAMES = re.compile(r"run-[a-z]")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs a to e, used 1, 10, 20, 30 and 40 days ago."""
    folder = tmp_path / "runs"
    for days, name in zip((1, 10, 20, 30, 40), "abcde", strict=True):
        make_run(folder, f"run-{name}", days=days, checkpoint=name)
    return folder


def plan(runs: Path, limits: Limits, **known: dict[str, str]) -> Plan:
    found = find_runs(str(runs), NAMES)
    reasons = {"running": {}, "reasons": {}, **known}
    return make_plan(found, limits, now=NOW, **reasons)


def removed(made: Plan) -> str:
    return "".join(run.name[-1] for run in made.remove)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(days=15), "cde"),
        (Limits(days=10), "bcde"),  # exactly so old is too old
        (Limits(last=2), "cde"),
        (Limits(days=15, last=4), "e"),
        (Limits(days=35, last=1), "e"),
        (Limits(last=0), "abcde"),
        (Limits(days=0), "abcde"),
        (Limits(last=9), ""),
    ],
)
def test_recent_runs_stay(runs: Path, limits: Limits, expected: str) -> None:
    assert removed(plan(runs, limits)) == expected


@pytest.mark.parametrize(
    ("days", "last", "message"),
    [
        (None, None, "nothing says which runs to keep; give --keep-days, --keep-last or both"),
        (-1.0, None, "--keep-days is -1.0; it must be 0 or more"),
        (float("nan"), None, "--keep-days is nan; it must be 0 or more"),
        (None, -1, "--keep-last is -1; it must be 0 or more"),
    ],
)
def test_limits_that_make_no_sense(days: float | None, last: int | None, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        Limits(days=days, last=last)


def test_a_run_counts_as_used_when_anything_in_it_changes(runs: Path) -> None:
    file = runs / "run-d" / "report" / "report.json"
    os.utime(file, (NOW - DAY, NOW - DAY))
    found = {run.name: run for run in find_runs(str(runs), NAMES)}
    assert found["run-d"].used == NOW - DAY
    assert found["run-d"].size >= file.stat().st_size + len("digest\na 1\n{}")
    assert removed(plan(runs, Limits(days=15))) == "ce"


def test_what_is_no_run_is_left_alone(runs: Path) -> None:
    (runs / "shared-words").mkdir()
    (runs / "run-x").write_text("a file")
    (runs / "run-y").symlink_to(runs / "run-e")
    assert removed(plan(runs, Limits(last=0))) == "abcde"
    with pytest.raises(InputError, match="nowhere is not there; name the folder"):
        find_runs(str(runs / "nowhere"), NAMES)


def test_the_run_of_a_published_version_stays(runs: Path, tmp_path: Path) -> None:
    version = make_version(tmp_path / "registry", checkpoint="d")
    found = find_runs(str(runs), NAMES)
    reasons = versions_of(found, [str(tmp_path / "registry")])
    assert reasons == {"run-d": f"version {version} was made in it"}
    made = plan(runs, Limits(last=1), reasons=reasons)
    assert (removed(made), made.needed) == ("bce", reasons)
    with pytest.raises(InputError, match=r"the registry .*/other is not there"):
        versions_of(found, [str(tmp_path / "other")])


def test_output_that_a_run_has_from_the_cache_stays(runs: Path) -> None:
    for user, owner in (("a", "d"), ("d", "e"), ("c", "b")):
        shared_runs.note_use(str(runs / f"run-{owner}" / "records"), f"run-{user}")
    for days, name in zip((1, 10, 20, 30, 40), "abcde", strict=True):
        set_age(runs / f"run-{name}", days)
    made = plan(runs, Limits(last=1))
    assert removed(made) == "bc"
    assert made.needed == {
        "run-d": "run-a uses its output through KFP's cache",
        "run-e": "run-d uses its output through KFP's cache",
    }


def test_output_that_a_running_run_may_get_from_the_cache_stays(runs: Path) -> None:
    for name, text in (("b", "one"), ("c", "one"), ("d", "two")):
        shared_runs.register(str(runs / f"run-{name}"), text)
        set_age(runs / f"run-{name}", 50)
    made = plan(runs, Limits(last=0), running={"run-c": "it is RUNNING"})
    assert removed(made) == "ade"
    assert made.needed == {
        "run-b": "KFP's cache may give its output to run-c, which is running",
        "run-c": "it is RUNNING",
    }


def test_a_training_that_was_resumed_by_hand_counts_as_running(runs: Path) -> None:
    for name, place in (("b", "workdir"), ("c", "train/workdir"), ("d", "workdir")):
        (runs / f"run-{name}" / place).mkdir(parents=True)
        (runs / f"run-{name}" / place / ".lock").touch()
    found = {run.name[-1]: run for run in find_runs(str(runs), NAMES)}
    with (
        open(runs / "run-b/workdir/.lock", "w") as one,
        open(runs / "run-c/train/workdir/.lock", "w") as other,
    ):
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(other, fcntl.LOCK_EX)
        locked = {name for name, run in found.items() if locked_training(run)}
    assert locked == {"b", "c"}
    assert not any(locked_training(run) for run in found.values())


def test_local_runs_are_seen_by_their_logs(tmp_path: Path) -> None:
    assert running_since(str(tmp_path / "none")) is None
    names = ("run-20261130-020000-7.log", "run-20261130-010000-9.log", "run-20261101-000000-1.log")
    for name in (*names, "notes.log"):
        (tmp_path / name).touch()
    assert running_since(str(tmp_path)) is None
    with open(tmp_path / names[0], "a") as one, open(tmp_path / names[1], "a") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        first = running_since(str(tmp_path))
        fcntl.flock(other, fcntl.LOCK_EX)
        both = running_since(str(tmp_path))
    assert first is not None
    assert both is not None
    assert first - both == 3600


def test_what_dead_processes_left_is_swept(runs: Path) -> None:
    left = f".tmp-{'0' * 32}"
    for name in "abe":
        (runs / f"run-{name}" / f"records{left}" / "scratch").mkdir(parents=True)
        set_age(runs / f"run-{name}", 3)
        (runs / f"run-{name}" / "workdir").mkdir()
        (runs / f"run-{name}" / "workdir" / f"fresh{left}").touch()
        os.utime(runs / f"run-{name}" / "workdir" / f"fresh{left}", (NOW, NOW))
    half = runs / f"run-f{left}"
    (half / "records").mkdir(parents=True)
    made = plan(runs, Limits(days=100), running={"run-a": "it runs"})
    assert made.stale == [str(runs / f"run-{name}" / f"records{left}") for name in "be"]
    sweep_removed(str(runs))
    carry_out(made, on_volume=False)
    assert not half.exists()
    assert [(runs / f"run-{name}" / f"records{left}").exists() for name in "abe"] == [
        True,
        False,
        False,
    ]
    assert (runs / "run-b" / "workdir" / f"fresh{left}").exists()
    assert (runs / "run-b" / "records" / "vocab.txt").exists()


def test_runs_are_removed_and_their_cache_entries_with_them(runs: Path) -> None:
    own = str(runs / "run-x")
    assert shared_runs.register(str(runs / "run-d"), "text") == "text"
    set_age(runs / "run-d", 30)
    carry_out(plan(runs, Limits(days=25)), on_volume=True)
    assert sorted(os.listdir(runs)) == [".removed", "run-a", "run-b", "run-c"]
    assert (runs / ".removed").read_text() == "text\n*\n"
    changed = shared_runs.register(own, "text"), shared_runs.register(own, "other")
    assert len({*changed, "text", "other"}) == 4
    assert shared_runs.register(own, "text") == changed[0]
    assert shared_runs.read_fingerprint(own) == "text"


def test_two_removals_at_once(runs: Path) -> None:
    both = [plan(runs, Limits(last=3)) for _ in range(2)]
    for made in both:
        assert removed(made) == "de"
        carry_out(made, on_volume=True)
    assert sorted(os.listdir(runs)) == [".removed", "run-a", "run-b", "run-c"]


def test_a_folder_that_cannot_be_removed_is_named(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CharloomError, match=r"run-e can't be removed \(Permission denied\); run"):
        carry_out(plan(runs, Limits(last=4)), on_volume=False)
    assert (runs / "run-e" / "records").exists()
