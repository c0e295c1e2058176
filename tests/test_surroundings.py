"""The tests' own surroundings: signals that are ignored, programs that are not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHROMIUM
from surroundings import lacking

# Ignores and blocks what a shell, nohup or a container's supervisor may, then starts the tests' set-up.
CODE = """
import signal, subprocess, sys
for number in map(int, sys.argv[2:]):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])
child = "for line in open('/proc/self/status'): print(line, end='') if line[:3] == 'Sig' else 0"
inner = f'''
import os, signal, subprocess, sys
sys.path.insert(0, {sys.argv[1]!r})
from surroundings import heed_signals
heed_signals()
os.kill(os.getpid(), signal.SIGHUP)
subprocess.run([sys.executable, "-c", {child!r}], check=True)
'''
sys.exit(subprocess.call([sys.executable, "-c", inner], restore_signals=False))
"""
INHERITED = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD),
    *(signal.SIGALRM, signal.SIGUSR1, signal.SIGPIPE),
)


def signals_of_a_child(*ignored: int) -> dict[str, set[int]]:
    """Returns which signals a process that a test starts has blocked and ignored.

    Without those that the C library keeps for its threads (32 and 33): a parent that is no C program
    may have them ignored, and nobody here can change that, or needs to.
    """
    numbers = [str(int(number)) for number in ignored]
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", CODE, here, *numbers], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    valid = {int(number) for number in signal.valid_signals()}
    rows = dict(line.split(":\t") for line in done.stdout.splitlines())
    return {
        name: {bit + 1 for bit in range(64) if int(rows[name], 16) >> bit & 1} & valid
        for name in ("SigBlk", "SigIgn")
    }


def test_processes_of_tests_ignore_and_block_nothing() -> None:
    """Nothing but what Python itself ignores; and the hang-up itself has not ended the tests."""
    found = signals_of_a_child(*INHERITED)
    assert found == {"SigBlk": set(), "SigIgn": {signal.SIGPIPE, signal.SIGXFSZ}}


def test_here_all_signals_are_heeded() -> None:
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    ignored = {number for number, handler in handlers.items() if handler == signal.SIG_IGN}
    assert ignored <= {signal.SIGPIPE, signal.SIGXFSZ}
    assert handlers[signal.SIGINT] is signal.default_int_handler


def run_tests(begin: str, *arguments: str) -> str:
    """Runs tests on a laptop after some lines of Python; returns the last line of the output."""
    code = (
        f"import sys, signal, os.path\n{begin}\nimport pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    )
    options = ["-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        [sys.executable, "-c", code, *options],
        cwd=Path(__file__).parent,
        env={**os.environ, "CI": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip().rpartition("\n")[2]


def test_signals_are_heeded_under_nohup_too() -> None:
    ignore = "for number in (1, 2, 3): signal.signal(number, signal.SIG_IGN)"
    last = run_tests(ignore, "test_surroundings.py::test_here_all_signals_are_heeded")
    assert last.startswith("1 passed in ")


def test_without_a_browser_its_tests_are_skipped() -> None:
    here = Path(__file__).parent
    named = {path.name for path in here.glob("*.py") if CHROMIUM in path.read_text("utf-8")}
    assert named == {"conftest.py"}  # whose fixture all tests use
    without = f"there = os.path.exists\nos.path.exists = lambda path: path != {CHROMIUM!r} and there(path)"
    last = run_tests(without, "test_components_evaluate_browser.py")
    assert last.startswith("1 skipped in ")


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_a_missing_program_fails_in_ci_alone(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    either = (pytest.fail.Exception, pytest.skip.Exception)  # a skip would else skip this test
    with pytest.raises(either, match="no such thing") as caught:
        lacking("no such thing")
    assert caught.type is outcome
