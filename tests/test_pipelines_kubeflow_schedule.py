"""`charloom schedule` against a stand-in of Kubeflow Pipelines."""

from __future__ import annotations

import datetime
import os
import re
import signal
import subprocess
import sys
import threading
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp_server import Server, serve

from pipelines.cli.main import main
from pipelines.kubeflow import client, schedule

IMAGE = ["--image", "registry.example.com/charloom:1.2"]
LATER = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=12)
CRON = f"0 {LATER.minute} {LATER.hour} * * *"
OTHER = f"0 {LATER.minute} {LATER.hour} * * MON-SAT"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(schedule.ZONE_VARIABLE, raising=False)
    monkeypatch.setattr(client, "_PAUSES", (0.01,))
    monkeypatch.setattr(client._Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "no-context.json"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serve(tmp_path) as running:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", running.host)
        yield running


def create(*flags: str, cron: str = CRON) -> int:
    return main(["schedule", "create", *IMAGE, "--name", "nightly", "--cron", cron, *flags])


def start(cron: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipelines.cli.main", "schedule", "create", *IMAGE]
    return subprocess.Popen([*command, "--name", "nightly", "--cron", cron])


def there(server: Server) -> list[tuple[str, str]]:
    """Returns cron and status of all recurring runs."""
    return [
        (run["trigger"]["cron_schedule"]["cron"], run["status"])
        for run in server.store.all("recurringruns")
    ]


def test_every_verb_as_a_command(server: Server) -> None:
    def run(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "pipelines.cli.main", "schedule", *arguments],
            capture_output=True,
            text=True,
        )
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    out = run("create", *IMAGE, "--name", "nightly", "--cron", CRON, "--input", "/x", "--workers=2")
    (body,) = server.sent("POST", "recurringruns")
    (version,) = server.store.all("versions")
    assert re.fullmatch(
        rf"Made by charloom schedule\. Starts: {re.escape(CRON)} \(UTC\)\. Request: [0-9a-f]{{64}}"
        r"\. Revision: 1",
        body.pop("description"),
    )
    assert body == {
        "display_name": "nightly",
        "experiment_id": server.store.all("experiments")[0]["experiment_id"],
        "pipeline_version_reference": {
            "pipeline_id": version["pipeline_id"],
            "pipeline_version_id": version["pipeline_version_id"],
        },
        "runtime_config": {"parameters": {"corpus": '["/x"]', "workers": 2}},
        "trigger": {"cron_schedule": {"cron": CRON}},
        "mode": "ENABLE",
        "max_concurrency": "1",
        "no_catchup": True,
    }
    made = server.store.all("recurringruns")[0]
    lines = out.splitlines()
    assert lines[2:4] == ["schedule: nightly, new", f"starts: {CRON} (UTC)"]
    assert lines[4] == f"next: {LATER.replace(second=0):%a %Y-%m-%d %H:%M:%S} UTC"
    assert [line.partition(":")[0] for line in lines[4:]] == ["next"] * 3 + ["link"]
    assert lines[-1].endswith(f"/#/recurringrun/details/{made['recurring_run_id']}")

    header, row = run("list").splitlines()
    assert header.split() == ["NAME", "STATE", "CRON", "NEXT", "ID"]
    when = f"{LATER.replace(second=0):%Y-%m-%d %H:%M:%S} UTC"
    assert re.split(r"\s{2,}", row) == ["nightly", "on", CRON, when, made["recurring_run_id"]]

    assert run("pause", "nightly").startswith("nightly is paused")
    assert there(server) == [(CRON, "DISABLED")]
    assert re.split(r"\s{2,}", run("list").splitlines()[1])[1:4] == ["paused", CRON, "-"]
    assert run("resume", "nightly").startswith("nightly is on; if it missed a time")
    assert there(server) == [(CRON, "ENABLED")]

    assert run("run-now", "nightly").startswith("run:  ")
    (body,) = server.sent("POST", "runs")
    assert body["runtime_config"] == made["runtime_config"]
    assert body["pipeline_version_reference"] == made["pipeline_version_reference"]
    assert body["description"].startswith("Made by charloom schedule run-now nightly. Ticket: ")
    assert "recurring_run_id" not in body  # else it would be deleted with the schedule

    assert run("delete", "nightly") == "nightly was deleted; its runs stay\n"
    assert there(server) == []
    deletions = [path for how, path, _ in server.requests if how == "DELETE"]
    assert deletions == [f"recurringruns/{made['recurring_run_id']}?propagation_policy=ORPHAN"]


def test_the_same_request_changes_nothing(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert create() == create() == 0
    assert "schedule: nightly, nothing to change" in capsys.readouterr().out
    assert len(server.sent("POST", "recurringruns")) == 1
    assert main(["schedule", "pause", "nightly"]) == 0
    capsys.readouterr()
    assert create() == 0
    assert "it is paused; charloom schedule resume nightly starts it" in capsys.readouterr().out
    assert there(server) == [(CRON, "DISABLED")]


@pytest.mark.parametrize(
    "flags",
    [["--workers", "4"], ["--experiment", "new"], ["--service-account", "x"], ["--no-cache"]],
)
def test_any_change_replaces(server: Server, flags: list[str]) -> None:
    assert create() == create(*flags) == 0
    assert [body["mode"] for body in server.sent("POST", "recurringruns")] == ["ENABLE"] * 2
    assert there(server) == [(CRON, "ENABLED")]
    assert len(server.store.all("recurringruns")) == 1


def test_a_paused_one_stays_paused_when_it_is_changed(server: Server) -> None:
    assert create() == main(["schedule", "pause", "nightly"]) == create(cron=OTHER) == 0
    assert there(server) == [(OTHER, "DISABLED")]


class CrashError(BaseException):
    """The process is gone: nothing catches it."""


@pytest.mark.parametrize(
    ("method", "after", "left"),
    [
        ("create_recurring_run", False, [CRON]),
        ("create_recurring_run", True, [CRON, OTHER]),
        ("delete_recurring_run", False, [CRON, OTHER]),
        ("delete_recurring_run", True, [OTHER]),
    ],
)
def test_a_crash_between_any_two_requests(
    server: Server, capsys: pytest.CaptureFixture[str], method: str, after: bool, left: list[str]
) -> None:
    """There is never none, and the same command again leaves the one that was asked for."""
    assert create() == 0
    real = client.Kubeflow.call

    def call(self: Any, function: Any, *arguments: Any, **named: Any) -> Any:
        if not function.__name__.endswith(method):
            return real(self, function, *arguments, **named)
        if after:
            real(self, function, *arguments, **named)
        raise CrashError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.Kubeflow, "call", call)
        with pytest.raises(CrashError):
            create(cron=OTHER)
    assert there(server) == [(cron, "ENABLED") for cron in left]
    main(["schedule", "list"])
    reported = "nightly exists more than once: a change was interrupted" in capsys.readouterr().out
    assert reported == (len(left) > 1)
    assert create(cron=OTHER) == 0
    assert there(server) == [(OTHER, "ENABLED")]
    assert not [path for _, path, _ in server.requests if path.endswith(":enable")]


def test_a_kill_while_two_are_on(server: Server) -> None:
    assert create() == 0
    process = start(OTHER)

    def kill() -> str:
        process.kill()
        process.wait()
        return "drop"

    server.faults = {"DELETE .*": [kill]}
    assert process.wait() == -signal.SIGKILL
    assert there(server) == [(CRON, "ENABLED"), (OTHER, "ENABLED")]
    assert main(["schedule", "resume", "nightly"]) == main(["schedule", "run-now", "nightly"]) == 2
    assert create(cron=OTHER) == 0
    assert there(server) == [(OTHER, "ENABLED")]


@pytest.mark.parametrize("fault", ["drop", "lose", 503])
@pytest.mark.parametrize("request_of", ["POST recurringruns", "DELETE .*", "GET recurringruns"])
def test_broken_connections_leave_one(server: Server, request_of: str, fault: str | int) -> None:
    assert create() == 0
    server.faults = {request_of: [fault]}
    assert create(cron=OTHER) == 0
    assert not server.faults[request_of]
    assert there(server) == [(OTHER, "ENABLED")]


BOTH = ", and the old one may still exist; repeat the command to keep only the new one\n"


@pytest.mark.parametrize(
    ("what", "status", "end", "left"),
    [
        ("POST recurringruns", 403, "kubeflow-edit\n", 1),
        ("POST recurringruns", 500, f"; the new schedule nightly may exist{BOTH}", 1),
        ("DELETE .*", 403, f"; the new schedule nightly exists{BOTH}", 2),
        ("DELETE .*", 500, f"; the new schedule nightly exists{BOTH}", 2),
    ],
)
def test_a_request_that_fails_leaves_at_least_the_old_one(
    server: Server, capsys: pytest.CaptureFixture[str], what: str, status: int, end: str, left: int
) -> None:
    assert create() == 0
    server.faults = {what: [status] * 4}
    assert create(cron=OTHER) == (2 if status == 403 else 1)
    (line,) = capsys.readouterr().err.splitlines(keepends=True)
    assert line.endswith(end)
    assert there(server) == [(CRON, "ENABLED"), (OTHER, "ENABLED")][:left]
    server.faults = {}
    assert create(cron=OTHER) == 0
    assert there(server) == [(OTHER, "ENABLED")]


@pytest.mark.parametrize(
    ("request_of", "verb", "left"),
    [("POST recurringruns", "may exist", [CRON]), ("DELETE .*", "exists", [CRON, OTHER])],
)
def test_ctrl_c_says_what_is_there(
    server: Server, capsys: pytest.CaptureFixture[str], request_of: str, verb: str, left: list[str]
) -> None:
    assert create() == 0
    server.faults = {request_of: [lambda: os.kill(os.getpid(), signal.SIGINT) or "drop"]}
    assert create(cron=OTHER) == 130
    assert capsys.readouterr().err == f"charloom: stopped; the new schedule nightly {verb}{BOTH}"
    assert there(server) == [(cron, "ENABLED") for cron in left]
    assert create(cron=OTHER) == 0
    assert there(server) == [(OTHER, "ENABLED")]


RACE = """
import pathlib, sys, time
from pipelines.cli import main as cli
from pipelines.kubeflow import schedule

make, folder, me = schedule._make, pathlib.Path(sys.argv[1]), sys.argv[2]

def wait_and_make(*args):  # once both have looked at what is there
    (folder / me).touch()
    deadline = time.monotonic() + 300
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return make(*args)

schedule._make = wait_and_make
sys.exit(cli.main(["schedule", "create", *sys.argv[3:]]))
"""


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_two_at_once_leave_one(server: Server, tmp_path: Path, present: bool, same: bool) -> None:
    if present:
        assert create("--workers", "8") == 0
    (tmp_path / "race").mkdir()
    command = [sys.executable, "-c", RACE, str(tmp_path / "race")]
    flags = [*IMAGE, "--name", "nightly", "--cron", CRON]
    both = [
        subprocess.Popen(
            [*command, str(number), *flags, "--workers", "2" if same else str(number)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (1, 4)
    ]
    said = [process.communicate(timeout=300)[1] for process in both]
    codes = [process.returncode for process in both]
    assert there(server) == [(CRON, "ENABLED")]
    (left,) = server.store.all("recurringruns")
    workers = left["runtime_config"]["parameters"]["workers"]
    assert workers in ((2,) if same else (1, 4))
    assert set(codes) <= ({0} if same else {0, 75}), said
    if not same:
        assert codes[(1, 4).index(workers)] == 0  # whose it is knows no better
    assert len(server.sent("POST", "recurringruns")) == 2 + present


def test_a_change_of_a_schedule_that_is_still_being_made(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second command has seen the first one's: both keep the second, whoever ends first."""
    assert create("--workers", "8") == 0
    make, deleting, ended = schedule._make, threading.Event(), threading.Event()
    second: list[subprocess.Popen[bytes]] = []

    def make_and_start_second(*arguments: Any) -> None:
        make(*arguments)
        second.append(start(OTHER))
        assert deleting.wait(300)

    def hold_second() -> None:
        deleting.set()
        assert ended.wait(300)

    monkeypatch.setattr(schedule, "_make", make_and_start_second)
    server.faults = {"DELETE .*": [hold_second]}
    assert create() == 75
    ended.set()
    assert second[0].wait(300) == 0
    assert there(server) == [(OTHER, "ENABLED")]


def test_recurring_runs_of_others(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert create() == 0
    (run,) = server.store.all("recurringruns")
    run |= {"description": "by hand"}
    server.store.put("recurringruns", run["recurring_run_id"], run)
    capsys.readouterr()
    for change in (lambda: create(cron=OTHER), lambda: main(["schedule", "delete", "nightly"])):
        assert change() == 2
        assert capsys.readouterr().err == (
            f"charloom: the recurring run nightly ({run['recurring_run_id']}) was not made by "
            "charloom; choose another name, or delete it in the UI\n"
        )
    assert main(["schedule", "list"]) == 0
    assert capsys.readouterr().out.startswith("there are no schedules")
    assert len(there(server)) == 1


def test_names_that_are_not_there(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("pause", "resume", "delete", "run-now"):
        assert main(["schedule", verb, "weekly"]) == 2
        assert capsys.readouterr().err == "charloom: there is no schedule weekly; there are none\n"
    assert create() == 0
    assert main(["schedule", "pause", "weekly"]) == 2
    assert capsys.readouterr().err.endswith("there is no schedule weekly; there are nightly\n")


def test_more_schedules_than_a_page(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert create() == 0
    (run,) = server.store.all("recurringruns")
    for number in range(150):
        copy = {**run, "recurring_run_id": str(number), "display_name": f"n{number:03}"}
        server.store.put("recurringruns", str(number), copy)
    capsys.readouterr()
    assert main(["schedule", "list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 151
    assert len(server.sent("GET", "recurringruns")) == 4  # before and after create, then two pages


def test_times_are_of_the_scheduler_s_clock_and_shown_in_utc(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert create("--scheduler-zone", "Mars", cron="0 0 3 * * *") == 2
    assert create(cron="0 9 * * *") == 2
    assert server.requests == []
    local = LATER.astimezone(zoneinfo.ZoneInfo("Asia/Tokyo"))
    text = f"0 {local.minute} {local.hour} * * *"
    monkeypatch.setenv(schedule.ZONE_VARIABLE, "Asia/Tokyo")
    assert create(cron=text) == 0
    assert there(server) == [(text, "ENABLED")]
    out = capsys.readouterr().out
    assert f"starts: {text} (Asia/Tokyo)\n" in out
    assert f"next: {LATER:%a %Y-%m-%d %H:%M}:00 UTC\n" in out
    assert main(["schedule", "list"]) == 0
    assert f"  {LATER:%Y-%m-%d %H:%M}:00 UTC  " in capsys.readouterr().out
    assert main(["schedule", "resume", "nightly"]) == 0
    assert f"next: {LATER:%a %Y-%m-%d %H:%M}:00 UTC\n" in capsys.readouterr().out


def test_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(tmp_path, multi_user=True) as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.host)
        for name in ("ann", "bob"):
            assert create("--namespace", name) == 0
        runs = server.store.all("recurringruns")
        assert [run["namespace"] for run in runs] == ["ann", "bob"]
        assert [one["namespace"] for one in server.store.all("pipelines")] == ["ann", "bob"]
        assert main(["schedule", "delete", "nightly", "--namespace", "ann"]) == 0
        assert [run["namespace"] for run in server.store.all("recurringruns")] == ["bob"]
