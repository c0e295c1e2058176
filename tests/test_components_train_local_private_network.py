"""The workers' own network, of which the system must allow one; what it says where it does not."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_processes import wait_for

from components.train.local import launcher, private_network
from components.train.local.private_network import PrivateNetwork

SERVER = """
import socket, sys
with socket.create_server(("", 0)) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""
CALL = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])))"


@pytest.fixture
def network() -> Iterator[PrivateNetwork]:
    with PrivateNetwork() as network:
        if network.problem:
            pytest.skip(f"{network.problem}: allow user namespaces, or run the tests as root")
        yield network


def test_only_those_inside_reach_a_port(network: PrivateNetwork) -> None:
    server = subprocess.Popen(
        network.command([sys.executable, "-c", SERVER]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    port = server.stdout.readline().strip()
    call = [sys.executable, "-c", CALL, port]
    assert subprocess.run(network.command(call), check=False).returncode == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)))
    server.communicate()


def test_a_worker_is_the_process_that_was_started(network: PrivateNetwork) -> None:
    code = "import os; print(os.getpid(), os.getuid(), os.getgid())"
    command = network.command([sys.executable, "-c", code])
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said, _ = started.communicate()
    assert said.split() == [str(started.pid), str(os.getuid()), str(os.getgid())]


HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from private_network import PrivateNetwork
with PrivateNetwork() as network:
    print(network._holder.pid, network.problem, flush=True)
    sys.stdin.read()
"""


def has_ended(process: str) -> bool:
    """Returns whether a process is gone, or only waits to be reaped."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


@pytest.mark.skipif(
    os.geteuid() != 0, reason="another user is tried by root; run the tests as root"
)
def test_it_needs_no_root_and_ends_with_its_launcher(tmp_path: Path) -> None:
    """In a user namespace; a copy of the file, as the other user may not read ours."""
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv; install util-linux")
    if subprocess.run(
        ["setpriv", "--reuid=65532", "unshare", "-U", "true"], check=False
    ).returncode:
        pytest.skip("no user namespaces are allowed here; allow them")
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("no /usr/bin/python3; install python3")
    folder = Path(f"/tmp/charloom-test-{os.getpid()}")
    folder.mkdir(mode=0o755)
    try:
        shutil.copy(private_network.__file__, folder)
        (folder / "private_network.py").chmod(0o644)
        command = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", python, "-c"]
        launcher = subprocess.Popen(
            [*command, HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert launcher.stdout
        holder, _, problem = launcher.stdout.readline().strip().partition(" ")
        assert problem == ""
        launcher.send_signal(signal.SIGKILL)
        launcher.communicate()
        wait_for(lambda: has_ended(holder), "the holder's end")
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import sys; sys.exit('no network namespace is allowed here (Operation not permitted)')",
         "no network namespace is allowed here (Operation not permitted)"),
        ("import sys; print('ready') if sys.argv[1] == 'hold' else sys.exit('not entered')",
         "not entered"),
        ("", "it could not be created"),
    ],
)  # fmt: skip
def test_without_one_the_workers_are_started_as_they_are(
    program: str, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(private_network, "_program", lambda: [sys.executable, "-c", program])
    with launcher._open_network(2) as enter:
        assert enter(["worker", "1"]) == ["worker", "1"]
    assert capsys.readouterr().err == (
        f"warning: other machines can reach the workers' ports: {problem}; allow user namespaces, "
        "or close this machine's ports to others\n"
    )


def test_a_worker_alone_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "PrivateNetwork", None)
    with launcher._open_network(1) as enter:
        assert enter(["worker"]) == ["worker"]
