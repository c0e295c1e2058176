"""The launcher against a stand-in API server that fails in all ways that are known."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from envtest_launcher import Launcher
from kube_controller import EVICTED, Attempt, Controller, wait_until
from kube_server import Faults, KubeServer
from volume import keep_first

from components.train.cluster.api import Pace
from components.train.cluster.launcher import launch_jobset
from components.train.cluster.manifest import JobSetOptions, jobset_name
from components.train.cluster.network_policy import render_network_policy
from components.train.training_job import TrainingJob
from model.errors import CharloomError, InputError, RestartableError

RUN = "0b7a4c1e-5d57-4a3e-9d0e-7f6f2c1d9a10"
NAME = jobset_name(RUN, "train")
OPTIONS = {"run_id": RUN, "image": "registry.example/charloom:1.2.3", "lease_seconds": 1}
PACE = {"tick": 0.02, "first_wait": 0.005, "longest_wait": 0.05, "patience": 20.0}
PACE |= {"stop": 30.0}
FILES = {"records": "/mnt/charloom/r", "workdir": "/mnt/charloom/w"}
VERBS = ["get jobsets", "create jobsets", "create networkpolicies", "list pods", "log pods"]
BAD = "error: records/dataset.json: is missing; run prepare"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KubeServer]:
    with KubeServer(tmp_path) as server:
        yield server


def lines(name: str, count: int = 4) -> tuple[str, ...]:
    return tuple(f"{name} step {number}" for number in range(count))


def launch(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch, *, max_restarts: int = 3
) -> tuple[list[str], BaseException | None]:
    """Runs the launcher in here; returns what it printed, and how it ended."""
    config = str(server.kubeconfig)
    monkeypatch.setenv("KUBECONFIG", config)
    monkeypatch.setattr(
        kubernetes.config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", config
    )  # read when it was imported
    output, error = io.StringIO(), None
    with contextlib.redirect_stdout(output), bounded():
        try:
            job = TrainingJob(**FILES, workers=2, max_restarts=max_restarts)
            launch_jobset(job, JobSetOptions(**OPTIONS), pace=Pace(**PACE))
        except (CharloomError, KeyboardInterrupt) as caught:
            error = caught
    return output.getvalue().splitlines(), error


@contextlib.contextmanager
def bounded(seconds: float = 120.0) -> Iterator[None]:
    """Ends what hangs; a stop that comes too late to be the launcher's does no harm."""

    def hangs(*unused: object) -> None:
        raise AssertionError(f"the launcher did not end in {seconds:g} s")

    before = [
        (signal.SIGALRM, signal.signal(signal.SIGALRM, hangs)),
        (signal.SIGTERM, signal.signal(signal.SIGTERM, lambda *unused: None)),
    ]
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)


def jobsets(server: KubeServer) -> list[dict[str, Any]]:
    return server.store.list("jobsets", lambda one: True)[0]


def left(server: KubeServer) -> list[tuple[str, str]]:
    """Returns JobSets, pods, leases and policies that are there after a while."""
    for _ in range(3):
        server.store.collect()
    return sorted(server.store.objects)


# One fault after the other


@pytest.mark.parametrize("fault", ["429", "500", "503", "drop", "401", "500 after", "drop after"])
@pytest.mark.parametrize("verb", VERBS)
def test_each_fault_is_waited_out(
    fault: str, verb: str, server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.retry_after = "0.01"
    server.faults.planned += [(verb, fault)] * 2
    with Controller(server, [[Attempt((0, 0), lines("a"))]]) as controller:
        printed, error = launch(server, monkeypatch)
    assert controller.error is None
    assert error is None
    assert [line for line in printed if line.startswith("a ")] == list(lines("a"))
    for plural in ("jobsets", "networkpolicies"):
        assert len(server.store.created(plural)) == 1


def test_a_retry_is_not_sooner_than_the_server_asks(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second create comes only after the stop that a timer sends half a second later."""
    server.retry_after = "7"
    server.faults.planned += [("create jobsets", "429")]
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    _, error = launch(server, monkeypatch)
    timer.join()
    assert isinstance(error, RestartableError)
    assert server.requests.count("create jobsets") == 1
    assert left(server) == []


def test_following_does_not_flood_the_server(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Controller(server, [[Attempt((0, 0), lines("a"))]]) as controller:
        controller.hold.set()
        threading.Timer(0.5, controller.hold.clear).start()
        began = time.monotonic()
        printed, error = launch(server, monkeypatch)
        seconds = time.monotonic() - began
    assert error is None
    assert [line for line in printed if line.startswith("a ")] == list(lines("a"))
    for verb in ("get jobsets", "list pods", "log pods"):
        assert server.requests.count(verb) <= 5 + seconds / PACE["tick"]
    assert server.requests.count("list pods") > 2  # the last one is to look once more


# Adoption


def test_a_killed_launchers_jobset_is_adopted(server: KubeServer, tmp_path: Path) -> None:
    script = [Attempt((0, 0), lines("a", 6))]
    with Controller(server, [script]) as controller:
        pods = [server.store.create("pods", {"metadata": {"name": name}}) for name in ("l1", "l2")]
        controller.hold.set()
        with process(server, tmp_path, pods[0]) as first:
            first.wait_for("was created")
            wait_until(lambda: server.store.get("leases", NAME), "the lease")
        with process(server, tmp_path, pods[1]) as second:
            second.wait_for("of an earlier attempt exists; following it")
            owners = server.store.get("jobsets", NAME)["metadata"]["ownerReferences"]
            assert [(one["name"], one["uid"]) for one in owners] == [
                ("l2", pods[1]["metadata"]["uid"])
            ]
            server.store.delete("pods", "l1", {})  # no longer takes the JobSet along
            wait_until(lambda: ("pods", "l1") not in server.store.objects, "the pod's removal")
            wait_until(
                lambda: server.store.get("leases", NAME)["spec"]["holderIdentity"] == "l2",
                "the new holder",
            )
            controller.hold.clear()
            assert second.ended() == 0
        assert second.output.splitlines()[1:] == list(lines("a", 6))
    assert len(server.store.created("jobsets")) == len(server.store.created("leases")) == 1
    assert server.store.get("jobsets", NAME)["status"]["terminalState"] == "Completed"


def test_an_orphaned_jobset_is_replaced_by_the_retried_launcher(
    server: KubeServer, tmp_path: Path
) -> None:
    scripts = [[Attempt((78, None))], [Attempt((0, 0), lines("b"))]]
    with Controller(server, scripts) as controller:
        controller.hold.set()
        pod = server.store.create("pods", {"metadata": {"name": "l1"}})
        with process(server, tmp_path, pod) as first:
            first.wait_for("was created")
        controller.hold.clear()
        wait_until(
            lambda: server.store.get("jobsets", NAME).get("status", {}).get("terminalState"),
            "the end of the workers",
        )
        with process(server, tmp_path, pod) as second:
            assert second.ended() == 0
            assert "of an earlier attempt has failed and is replaced" in second.output
            assert [one for one in second.output.splitlines() if one[0] == "b"] == [*lines("b")]
    assert len(server.store.created("jobsets")) == 2
    assert server.store.get("jobsets", NAME)["status"]["terminalState"] == "Completed"


def process(server: KubeServer, folder: Path, pod: Any) -> Launcher:
    """Starts the launcher as a process, in a pod's name."""
    environment = {
        "KUBECONFIG": str(server.kubeconfig),
        "KFP_POD_NAME": pod["metadata"]["name"],
        "KFP_POD_UID": pod["metadata"]["uid"],
    }
    return Launcher(folder, OPTIONS, environment=environment, pace=PACE, **FILES)


# Network policies


def policies(server: KubeServer) -> list[dict[str, Any]]:
    return server.store.list("networkpolicies", lambda one: True)[0]


def test_a_jobset_has_its_policy_as_long_as_it_is_there(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2):  # the pods of the first may still be there, so names must differ
        with Controller(server, [[Attempt((0, 0), lines("a"))]], seed=seed) as controller:
            _, error = launch(server, monkeypatch)
        assert (controller.error, error) == (None, None)
        (jobset,) = jobsets(server)
        assert policies(server)[-1]["spec"] == render_network_policy(jobset)["spec"]
        server.store.delete("jobsets", NAME, {})  # its policy is collected only after the next came
    first, second = server.store.created("networkpolicies")
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert left(server) == []


def test_a_launcher_that_may_not_create_a_policy_says_so_and_leaves_nothing(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults.always["create networkpolicies"] = "403"
    with Controller(server, [[Attempt((None, None))]]):
        _, error = launch(server, monkeypatch)
        wait_until(lambda: left(server) == [], "the removal of all")
    assert isinstance(error, InputError)
    assert str(error) == (
        "the cluster refused to create the network policy (403): User "
        "system:serviceaccount:lm:it cannot do this; apply the roles of k8s/base"
    )


# Ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_launcher_leaves_nothing(
    number: signal.Signals, server: KubeServer, tmp_path: Path
) -> None:
    with Controller(server, [[Attempt((None, None), lines("a"))]]):
        pod = server.store.create("pods", {"metadata": {"name": "l1"}})
        with process(server, tmp_path, pod) as launcher:
            launcher.wait_for("a step 3")
            wait_until(lambda: server.store.get("leases", NAME), "the lease")
            server.faults.planned += [("delete jobsets", "500"), ("list pods", "drop")]
            server.faults.planned += [("delete jobsets", "500 after")]
            launcher.process.send_signal(number)
            code = launcher.ended()
            assert code == (130 if number == signal.SIGINT else 75)
        wait_until(lambda: list(server.store.objects) == [("pods", "l1")], "removal of all")


def test_a_late_launcher_leaves_its_successors_jobset_alone(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(number: int, what: str) -> None:
        if what == "list pods" and len(server.store.created("jobsets")) == 1:
            body = server.store.created("jobsets")[0]
            server.store.delete("jobsets", NAME, {})
            server.store.create("jobsets", {"metadata": {"name": NAME}, "spec": body["spec"]})

    server.on_request = replace
    _, error = launch(server, monkeypatch)
    assert type(error) is CharloomError
    assert "was deleted by someone else" in str(error)
    assert [uid_of(one) for one in jobsets(server)] == [uid_of(server.store.created("jobsets")[1])]


def test_an_adopted_jobset_is_left_to_who_adopted_it(server: KubeServer, tmp_path: Path) -> None:
    with Controller(server, [[Attempt((None, None), lines("a"))]]):
        pods = [server.store.create("pods", {"metadata": {"name": name}}) for name in ("l1", "l2")]
        (tmp_path / "2").mkdir()
        with process(server, tmp_path, pods[0]) as first:
            first.wait_for("a step 3")
            with process(server, tmp_path / "2", pods[1]) as second:
                second.wait_for("of an earlier attempt exists; following it")
                first.process.send_signal(signal.SIGTERM)
                assert first.ended() == 75
                assert "deletionTimestamp" not in server.store.get("jobsets", NAME)["metadata"]
                second.process.send_signal(signal.SIGTERM)
                assert second.ended() == 75
        wait_until(lambda: jobsets(server) == [], "the removal by the second")


def uid_of(item: dict[str, Any]) -> str:
    return str(item["metadata"]["uid"])


def test_bad_input_ends_with_the_workers_message(server: KubeServer, tmp_path: Path) -> None:
    with Controller(server, [[Attempt((None, 2), lines("a"), BAD)]]):
        pod = server.store.create("pods", {"metadata": {"name": "l1"}})
        with process(server, tmp_path, pod) as launcher:
            assert launcher.ended() == 2
            assert launcher.error == BAD
    assert server.store.get("jobsets", NAME)["status"].get("restarts") is None


def test_a_jobset_whose_fate_nobody_knows_is_told(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The create took effect, its answer was lost, and nothing but failures came after it."""
    monkeypatch.setitem(PACE, "patience", 0.3)
    monkeypatch.setitem(PACE, "stop", 2.0)
    server.faults.planned += [("create jobsets", "drop after")]
    server.faults.always["get jobsets"] = "503"
    server.faults.planned += [("get jobsets", "none")]
    printed, error = launch(server, monkeypatch)
    assert isinstance(error, RestartableError)
    assert printed[-1].startswith(
        f"JobSet {NAME} may remain, and will end by itself soon: can't read"
    )
    assert "delete jobsets" not in server.requests  # it may be another launcher's


def test_a_create_that_takes_effect_after_the_removal_leaves_nothing(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults.planned += [("create jobsets", "drop")]

    def stop_and_create_late(number: int, what: str) -> None:
        if what == "create jobsets":
            os.kill(os.getpid(), signal.SIGTERM)
        if what == "list pods" and not server.store.created("jobsets"):
            server.store.create("jobsets", {"metadata": {"name": NAME}, "spec": {}})

    server.on_request = stop_and_create_late
    printed, error = launch(server, monkeypatch)
    assert isinstance(error, RestartableError)
    assert printed == [f"JobSet {NAME} is deleted"]
    assert len(server.store.created("jobsets")) == 1
    assert left(server) == []


# 200 sequences of faults

STOPPED = "stopped by SIGTERM"
ONES = tuple(Attempt((1, None), lines(name, 2), "error: a loss of nan") for name in "abcd")
SCRIPTS: dict[str, tuple[tuple[Attempt, ...], type | None, str, int]] = {
    "success": ((Attempt((0, 0), lines("a", 9)),), None, "", 0),
    "killed once": (
        (Attempt((None, 137), lines("a")), Attempt((0, 0), lines("b"))),
        None,
        "",
        1,
    ),
    "drained": (
        (Attempt((75, 75), lines("a")), Attempt((EVICTED, 75), lines("b")), Attempt((0, 0))),
        None,
        "",
        2,
    ),
    "bad input": ((Attempt((2, None), lines("a"), BAD),), InputError, BAD[7:], 0),
    # The Job may name the other worker's 75, so that all are restarted: the launcher knows better.
    "bad input later": (
        (
            Attempt((75, None), lines("a")),
            Attempt((75, 2), lines("b"), BAD),
            Attempt((2, None), lines("c"), BAD),
        ),
        InputError,
        BAD[7:],
        -1,
    ),
    "fails each time": (ONES, CharloomError, "a loss of nan, after 3 restarts", 3),
    "killed each time": (
        (Attempt((None, 137)),) * 4,
        RestartableError,
        "exit code 137",
        3,
    ),
    "orphaned": ((Attempt((78, 75), lines("a")),), RestartableError, "exit code 78", 0),
    "stop": ((Attempt((None, None), lines("a", 9)),), RestartableError, STOPPED, 0),
    "stop while it restarts": (
        (Attempt((75, None), lines("a")),) * 5 + (Attempt((None, None)),),
        RestartableError,
        STOPPED,
        -1,
    ),
}


@pytest.mark.parametrize("seed", keep_first(range(200), 12))
def test_sequences_of_faults(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = sorted(SCRIPTS)[seed % len(SCRIPTS)]
    script, expected, message, restarts = SCRIPTS[kind]
    chance = random.Random(seed)
    faults = Faults(seed, share=chance.choice([0.1, 0.3, 0.6]), most=30)
    stopped = message == STOPPED
    stop_at = chance.randrange(2, 40) if stopped else -1
    with (
        KubeServer(tmp_path, faults=faults, retry_after="0.02") as server,
        Controller(server, [script], seed=seed, waits=True),
    ):

        def stop(number: int, _: str) -> None:
            if number == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        server.on_request = stop
        printed, error = launch(server, monkeypatch)
        created = server.store.created("jobsets")
        there = left(server)
        seen = f"{kind}, {dict(faults.seen)}, {error!r}, {there}:\n" + "\n".join(printed)
        assert type(error) is (expected or type(None)), seen
        assert message in str(error), seen
        assert len(created) == 1 or (stopped and not created), seen
        if there:
            status = server.store.get("jobsets", NAME).get("status", {})
            assert status.get("terminalState") == ("Failed" if expected else "Completed"), seen
            assert restarts in (-1, status.get("restarts", 0)), seen
        assert not (there and stopped), seen
        assert there or restarts < 0 or stopped, seen
        check_log(printed, script, whole=restarts >= 0 and not stopped, seen=seen)


def check_log(printed: list[str], script: Any, *, whole: bool, seen: str) -> None:
    """Each attempt's lines come once and in order; all of those of the last one.

    Of attempts before, the pods are gone with what they said last; so is a worker 0 that
    still ran when another one failed.
    """
    said = [line for line in printed if line[1:7] == " step "]
    for number, attempt in enumerate(script):
        shown = 0
        while shown < len(attempt.lines) and said[:1] == [attempt.lines[shown]]:
            shown += 1
            said.pop(0)
        if whole and number == len(script) - 1 and attempt.codes[0] is not None:
            assert shown == len(attempt.lines), seen
    assert said == [], seen
