"""Finds and waits for the worker processes of a training that runs."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Awaited = TypeVar("Awaited")


def worker_pids(workdir: Path) -> dict[int, int]:
    """Returns the process id of each running worker of a workdir, by rank."""
    pids = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"components.train.worker" in command and str(workdir).encode() in command:
            rank = re.search(rb'"index": (\d+)', environment)
            assert rank
            pids[int(rank[1])] = int(entry.name)
    return pids


def wait_for(condition: Callable[[], Awaited], what: str, *, seconds: float = 240) -> Awaited:
    """Returns what a condition returns, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def free_hosts(count: int) -> list[str]:
    """Returns addresses on loopback at which nothing listens now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
