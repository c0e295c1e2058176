"""Memory and processor time of a process and its descendants, read from /proc."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from types import TracebackType
from typing import Any

from bench._sides import Side

TICKS = os.sysconf("SC_CLK_TCK")
KIB = 1024


@dataclasses.dataclass(kw_only=True)
class _Seen:
    """Measurements of a process, kept after it has ended.

    Attributes:
      started: ticks after boot; distinguishes the process from a later one with the same id.
      peak: its largest resident memory so far, in bytes.
      ticks: processor time used.
    """

    started: int
    peak: int = 0
    ticks: int = 0


class TreeWatch:
    """Samples a process and its descendants periodically, in a thread.

    The kernel records each process's peak memory (VmHWM), so only what a process does between the
    last sample and its end is missed. Shared pages count in each process. A process whose parent
    ended before it was first sampled is not found.
    """

    def __init__(self, pid: int, *, interval: float = 0.05):
        """Takes the top process; `with` starts and ends the thread.

        Args:
          pid: id of a running process.
          interval: seconds between samples.
        """
        self._top = pid
        self._interval = interval
        self._tree: dict[int, list[_Seen]] = {}
        self._others: set[int] = set()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-memory", daemon=True)

    def __enter__(self) -> TreeWatch:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self.look()

    def peak_bytes(self) -> int:
        """Returns the largest resident memory of any of the processes."""
        return max((seen.peak for seen in self._every()), default=0)

    def cpu_seconds(self) -> float:
        """Returns the total processor time, including ended processes."""
        self.look()
        return sum(seen.ticks for seen in self._every()) / TICKS

    def processes(self) -> int:
        """Returns how many processes were seen."""
        return len(self._every())

    def look(self) -> None:
        """Takes one sample."""
        with self._lock:
            self._find_new()
            for pid, known in self._tree.items():
                _update(pid, known[-1])

    def _run(self) -> None:
        while not self._done.wait(self._interval):
            self.look()

    def _every(self) -> list[_Seen]:
        with self._lock:
            return [seen for known in self._tree.values() for seen in known]

    def _find_new(self) -> None:
        """Finds descendants; reads the parent only of new processes."""
        there = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._others &= there
        alive = {pid for pid in self._tree if self._is_same(pid)}
        parents = {
            pid: stat[0] for pid in there - self._others - alive if (stat := _read_stat(pid))
        }
        roots = alive if self._tree else {self._top}
        for pid in _find_descendants(roots, parents):
            self._tree.setdefault(pid, []).append(_Seen(started=_started(pid)))
            del parents[pid]
        self._others |= set(parents)

    def _is_same(self, pid: int) -> bool:
        """Returns whether a process id still belongs to the same process."""
        return _started(pid) == self._tree[pid][-1].started


class WatchedSide(Side):
    """A program whose worker processes are included in its time and memory."""

    def __init__(self, *args: Any, **named: Any) -> None:
        """Starts the program like `Side`."""
        super().__init__(*args, **named)
        self._watch = TreeWatch(self._process.pid)
        self._closing = contextlib.ExitStack()

    def get_ready(self) -> dict[str, Any]:
        """Waits until the program is ready, then starts sampling; returns its first answer.

        Start all sides before: a process with threads should not fork.
        """
        answer = self.wait()
        self._closing.enter_context(self._watch)
        return answer

    def cpu_seconds(self) -> float:
        """Returns the processor time of the program and its workers, including ended ones."""
        return self._watch.cpu_seconds()

    def peak_bytes(self) -> int:
        """Returns the largest resident memory of any one process so far."""
        return self._watch.peak_bytes()

    def close(self) -> None:
        """Ends the sampling and the program."""
        self._closing.close()
        super().close()


def _find_descendants(roots: set[int], parents: dict[int, int]) -> list[int]:
    """Returns the processes of `parents` that are roots or descend from one."""
    found: list[int] = []
    waiting = dict(parents)
    while more := [pid for pid, up in waiting.items() if pid in roots or up in {*roots, *found}]:
        found += more
        for pid in more:
            del waiting[pid]
    return found


def _update(pid: int, seen: _Seen) -> None:
    """Reads a process's memory and time; keeps the old values if it has ended."""
    stat = _read_stat(pid)
    if stat is None or stat[1] != seen.started:
        return
    seen.ticks = max(seen.ticks, stat[2])
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            sizes = [line.split()[1] for line in file if line.startswith("VmHWM:")]
    except (FileNotFoundError, ProcessLookupError):
        return
    if sizes:  # absent for a zombie
        seen.peak = max(seen.peak, int(sizes[0]) * KIB)


def _started(pid: int) -> int:
    stat = _read_stat(pid)
    return stat[1] if stat else -1


def _read_stat(pid: int) -> tuple[int, int, int] | None:
    """Returns parent, start and processor time, the latter two in ticks; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12])
