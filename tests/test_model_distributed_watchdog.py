from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

STALLED = """
import os, sys, time
from model.distributed.watchdog import Watchdog

def end(reason):
    print(reason, flush=True)
    os._exit(75)

def hang_here():
    time.sleep(600)

watchdog = Watchdog(end, seconds=5)
with watchdog.watching():
    for step in range(6):
        watchdog.beat(f"step {step}")
        time.sleep(1)  # longer than the bound in all, and never at once
    hang_here()
"""

SLOW = """
import time
from model.distributed.watchdog import Watchdog
watchdog = Watchdog(lambda reason: print(reason, flush=True), seconds=0.2)
time.sleep(0.5)
with watchdog.watching():
    time.sleep(0.5)  # nothing was said yet
    watchdog.beat("compiling", slow=True)
    time.sleep(0.5)
time.sleep(0.5)
print("done")
"""

HELD = """
import ctypes, sys, time
from model.distributed.watchdog import ExitTimer
timer = ExitTimer(75)
timer.set(1, "worker 0 did not join: 100 % lost")
if sys.argv[1] == "unset":
    timer.set(0)
ctypes.PyDLL(None).sleep(int(sys.argv[2]))  # keeps Python's lock
print("still there")
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_without_progress_the_process_ends_with_all_stacks() -> None:
    done = run(STALLED)
    assert done.returncode == 75
    assert done.stdout == "no progress for 5 s in step 5\n"
    assert "in hang_here" in done.stderr
    assert "most recent call first" in done.stderr


def test_what_is_slow_and_what_is_not_watched_may_take_longer() -> None:
    done = run(SLOW)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="a timer of Linux")
def test_the_timer_ends_a_process_whose_lock_is_held() -> None:
    done = run(HELD, "set", "300")
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.endswith(": worker 0 did not join: 100 % lost\n")
    done = run(HELD, "unset", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "still there\n", "")
