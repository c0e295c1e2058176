"""`charloom schedule` against a stand-in of Kubeflow Pipelines."""

from __future__ import annotations

import datetime
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp_server import Server, serve

from pipelines.cli.main import main
from pipelines.kubeflow import client, schedule, swap_schedule

IMAGE = ["--image", "registry.example.com/charloom:1.2"]
LATER = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=12)
CRON = f"0 {LATER.minute} {LATER.hour} * * *"
"""Far from now, so that no start is near."""
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
        rf"Made by charloom schedule\. Starts: {re.escape(CRON)} \(UTC\)\. Request: [0-9a-f]{{64}}",
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

    assert run("delete", "nightly") == "nightly is deleted; its runs stay\n"
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
    [["--workers", "3"], ["--experiment", "new"], ["--service-account", "x"], ["--no-cache"]],
)
def test_any_change_replaces(server: Server, flags: list[str]) -> None:
    assert create() == create(*flags) == 0
    bodies = server.sent("POST", "recurringruns")
    assert [body["mode"] for body in bodies] == ["ENABLE", "DISABLE"]
    assert there(server) == [(CRON, "ENABLED")]
    assert len(server.store.all("recurringruns")) == 1


def test_a_paused_one_stays_paused_when_it_is_changed(server: Server) -> None:
    assert create() == main(["schedule", "pause", "nightly"]) == create(cron=OTHER) == 0
    assert there(server) == [(OTHER, "DISABLED")]


class CrashError(BaseException):
    """The process is gone: nothing catches it."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("method", "left"),
    [
        ("create_recurring_run", [(CRON, "ENABLED"), (OTHER, "DISABLED")]),
        ("enable_recurring_run", [(CRON, "ENABLED"), (OTHER, "ENABLED")]),
        ("delete_recurring_run", [(OTHER, "ENABLED")]),
    ],
)
def test_a_crash_between_any_two_requests(
    server: Server,
    capsys: pytest.CaptureFixture[str],
    method: str,
    left: list[tuple[str, str]],
    after: bool,
) -> None:
    """There is never none, and the same command again leaves the one that was asked for."""
    before = {
        "create_recurring_run": [(CRON, "ENABLED")],
        "enable_recurring_run": [(CRON, "ENABLED"), (OTHER, "DISABLED")],
        "delete_recurring_run": [(CRON, "ENABLED"), (OTHER, "ENABLED")],
    }[method]
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
    assert there(server) == (left if after else before)
    main(["schedule", "list"])
    told = "nightly is there more than once: a change was cut off" in capsys.readouterr().out
    assert told == (len(there(server)) > 1)
    assert create(cron=OTHER) == 0
    assert there(server) == [(OTHER, "ENABLED")]
    enabled = [path for how, path, _ in server.requests if path.endswith(":enable")]
    assert len(set(enabled)) == len(enabled)  # an older one, switched on, would start at once


def test_a_kill_while_two_are_on(server: Server) -> None:
    assert create() == 0
    command = [sys.executable, "-m", "pipelines.cli.main", "schedule", "create", *IMAGE]
    process = subprocess.Popen([*command, "--name", "nightly", "--cron", OTHER])

    def kill() -> str:
        process.kill()
        process.wait()
        return "drop"

    server.faults = {"DELETE .*": [kill]}
    assert process.wait() == -signal.SIGKILL
    assert there(server) == [(CRON, "ENABLED"), (OTHER, "ENABLED")]
    for verb in ("resume", "run-now"):
        assert main(["schedule", verb, "nightly"]) == 2
    assert create(cron=OTHER) == 0
    assert there(server) == [(OTHER, "ENABLED")]


@pytest.mark.parametrize("fault", ["drop", "lose", 503])
@pytest.mark.parametrize(
    "request_of",
    ["POST recurringruns", "POST recurringruns/.*:enable", "DELETE .*", "GET recurringruns"],
)
def test_broken_connections_leave_one(server: Server, request_of: str, fault: str | int) -> None:
    assert create() == 0
    server.faults = {request_of: [fault]}
    assert create(cron=OTHER) == 0
    assert not server.faults[request_of]
    assert there(server) == [(OTHER, "ENABLED")]


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.parametrize("request_of", ["POST recurringruns/.*:enable", "DELETE .*"])
def test_the_old_one_stays_when_a_request_fails(
    server: Server, capsys: pytest.CaptureFixture[str], request_of: str, status: int
) -> None:
    assert create() == 0
    server.faults = {request_of: [status]}
    assert create(cron=OTHER) == (2 if status == 403 else 1)
    assert capsys.readouterr().err.endswith("; nothing has changed\n")
    assert there(server) == [(CRON, "ENABLED")]


def test_a_delete_that_fails_for_both(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert create() == 0
    server.faults = {"DELETE .*": [403, 403]}
    assert create(cron=OTHER) == 2
    assert "nightly may be there twice; give the same command again" in capsys.readouterr().err
    assert there(server) == [(CRON, "ENABLED"), (OTHER, "ENABLED")]


def test_ctrl_c_waits_for_the_switch(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert create() == 0
    server.faults = {"POST recurringruns/.*:enable": [lambda: os.kill(os.getpid(), signal.SIGINT)]}
    assert create(cron=OTHER) == 130
    assert there(server) == [(OTHER, "ENABLED")]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


RACE = """
import pathlib, sys, time
from pipelines.cli import main as cli
from pipelines.kubeflow import swap_schedule

make, folder, me = swap_schedule._create, pathlib.Path(sys.argv[1]), sys.argv[2]

def create(*args, **options):  # once both have looked at what is there
    (folder / me).touch()
    deadline = time.monotonic() + 300
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return make(*args, **options)

swap_schedule._create = create
sys.exit(cli.main(["schedule", "create", *sys.argv[3:]]))
"""


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_two_at_once_leave_one(server: Server, tmp_path: Path, present: bool, same: bool) -> None:
    if present:
        assert create("--workers", "7") == 0
    (tmp_path / "race").mkdir()
    command = [sys.executable, "-c", RACE, str(tmp_path / "race")]
    flags = [*IMAGE, "--name", "nightly", "--cron", CRON]
    both = [
        subprocess.Popen(
            [*command, str(number), *flags, "--workers", "2" if same else str(number)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (3, 4)
    ]
    said = [process.communicate(timeout=300)[1] for process in both]
    codes = [process.returncode for process in both]
    assert there(server) == [(CRON, "ENABLED")]
    (left,) = server.store.all("recurringruns")
    workers = left["runtime_config"]["parameters"]["workers"]
    assert workers in ((2,) if same else (3, 4))
    assert set(codes) <= ({0} if same else {0, 75}), said
    if not same:
        assert codes[workers - 3] == 0  # whose it is knows no better
    assert len(server.sent("POST", "recurringruns")) == 2 + present


def test_no_change_so_close_to_a_start(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert create() == 0
    requests = len(server.requests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swap_schedule, "MARGIN", datetime.timedelta(hours=13))
        assert create(cron=OTHER) == 75
    assert f"nightly starts a run at {LATER:%H:%M}:00 UTC, in less than" in capsys.readouterr().err
    assert there(server) == [(CRON, "ENABLED")]
    changes = [how for how, path, _ in server.requests[requests:] if how != "GET"]
    assert changes == []


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
            "charloom; take another name, or delete it in the UI\n"
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


def test_time_zones(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert create("--time-zone", "Asia/Tokyo", cron="0 0 3 1 1 *") == 2
    assert "is on other days in UTC" in capsys.readouterr().err
    assert create("--time-zone", "Europe/Berlin", cron="0 0 3 * * *") == 2
    assert create("--time-zone", "Mars", cron="0 0 3 * * *") == 2
    assert create(cron="0 9 * * *") == 2
    assert server.requests == []
    local = LATER.astimezone(schedule.cron.find_zone("Asia/Tokyo", ""))
    assert create("--time-zone", "Asia/Tokyo", cron=f"0 {local.minute} {local.hour} * * *") == 0
    assert there(server) == [(CRON, "ENABLED")]
    out = capsys.readouterr().out
    assert f"{local.hour} * * * (Asia/Tokyo), sent as {CRON} (UTC)" in out
    assert f"next: {local:%a %Y-%m-%d %H:%M}:00 JST ({LATER:%Y-%m-%d %H:%M} UTC)" in out
    assert main(["schedule", "delete", "nightly"]) == 0
    monkeypatch.setenv(schedule.ZONE_VARIABLE, "Europe/Berlin")
    assert create("--time-zone", "Europe/Berlin", cron=OTHER) == 0
    assert there(server) == [(OTHER, "ENABLED")]


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
