"""Network namespaces in place of a JobSet's pods: an address and a host name for each worker."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

PREFIX = "charloom-test"
_FOLDER = Path("/etc/netns")
_RENAMED = 'hostname "$0" && exec "$@"'


def missing_program() -> str:
    """Returns a program that is needed and is not installed, "" if all are."""
    missing = [program for program in ("ip", "unshare", "hostname") if not shutil.which(program)]
    return missing[0] if missing else ""


def why_not() -> str:
    """Returns why this user may not make namespaces, "" if they may."""
    if os.geteuid() != 0:
        return "only root may add network namespaces"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    added = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if added.returncode:
        return f"ip netns add: {added.stderr.strip()}"
    _ip("netns", "delete", probe)
    return ""


class Network:
    """Namespaces that a bridge joins; removed at the end, also those of a test that was killed.

    Each has a file of its own in place of /etc/hosts, and no name server.
    """

    def __init__(self, jobset: str, *, workers: int):
        """Makes nothing yet.

        Args:
          jobset: name from which the host names are made.
          workers: how many namespaces.
        """
        self._jobset = jobset
        self._spaces = [f"{PREFIX}-{os.getpid()}-{index}" for index in range(workers)]
        self._bridge = f"{PREFIX}-{os.getpid()}-bridge"

    def host(self, index: int | str) -> str:
        """Returns a worker's host name as JobSet makes it."""
        return f"{self._jobset}-worker-0-{index}.{self._jobset}"

    def __enter__(self) -> Self:
        _remove_forgotten()
        try:
            self._add()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for space in [*self._spaces, self._bridge]:
            _remove(space)

    def _add(self) -> None:
        _ip("netns", "add", self._bridge)
        _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "bridge", "up")
        for index, space in enumerate(self._spaces):
            folder = _FOLDER / space
            folder.mkdir(parents=True)
            (folder / "hosts").write_text("127.0.0.1 localhost\n")
            (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
            _ip("netns", "add", space)
            port = f"port{index}"
            ends = ["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space]
            _ip("-n", self._bridge, *ends)
            _ip("-n", self._bridge, "link", "set", port, "master", "bridge", "up")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "address", "add", f"{_address(index)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")

    def name(self, *indices: int) -> None:
        """Lets all workers resolve the names of these."""
        for space in self._spaces:
            # In place: programs in the namespace have this very file mounted.
            with (_FOLDER / space / "hosts").open("a") as file:
                for index in indices:
                    file.write(f"{_address(index)} {self.host(index)}\n")

    def cut_off(self, index: int) -> None:
        """Takes a worker from the network: what it sends and what is sent to it is lost."""
        _ip("-n", self._bridge, "link", "set", f"port{index}", "down")

    def rejoin(self, index: int) -> None:
        """Takes `cut_off` back."""
        _ip("-n", self._bridge, "link", "set", f"port{index}", "up")

    def start(
        self, index: int, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        """Starts a program in a worker's place; stdout and stderr come as one.

        The process is the program itself: each step before it becomes the next one.
        """
        before = ["ip", "netns", "exec", self._spaces[index], "unshare", "--uts"]
        host = self.host(index).partition(".")[0]
        return subprocess.Popen(
            [*before, "sh", "-c", _RENAMED, host, *command],
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def listens(process: subprocess.Popen[str], port: int) -> bool:
    """Returns whether somebody in the network namespace of a process listens on a port."""
    with contextlib.suppress(OSError):
        for table in ("tcp", "tcp6"):
            text = Path(f"/proc/{process.pid}/net/{table}").read_text()
            if re.search(rf":{port:04X} [0F]+:0000 0A ", text.replace("0" * 32, "0" * 8)):
                return True
    return False


def _ip(*arguments: str) -> str:
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, f"ip {' '.join(arguments)}: {ended.stderr}"
    return ended.stdout


def _remove(space: str) -> None:
    """Removes a namespace and the programs in it, if there is one."""
    if Path("/run/netns", space).exists():
        for pid in _ip("netns", "pids", space).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        _ip("netns", "delete", space)
    shutil.rmtree(_FOLDER / space, ignore_errors=True)


def _remove_forgotten() -> None:
    """Removes what tests left that were killed: their processes are gone."""
    for folder in (Path("/run/netns"), _FOLDER):
        for path in folder.glob(f"{PREFIX}-*"):
            pid = path.name[len(PREFIX) + 1 :].partition("-")[0]
            if not Path("/proc", pid).exists():
                _remove(path.name)


def _address(index: int) -> str:
    return f"10.99.0.{index + 1}"
