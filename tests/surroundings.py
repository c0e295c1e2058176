"""What a machine lacks, and what a test run inherits from the shell that started it."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

import pytest

NOHUP = "CHARLOOM_TESTS_NOHUP"
"""Environment variable: a hang-up ends neither pytest nor its worker processes."""
OF_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
"""Python itself ignores these, and has subprocess restore them."""


def lacking(reason: str) -> NoReturn:
    """Skips a test for want of a program that `.ci/run` installs; there it fails.

    So CI never passes without such tests, and a laptop needs none of the programs.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, but .ci/run installs what the tests need", pytrace=False)
    pytest.skip(reason)


def heed_signals() -> None:
    """Undoes which signals the shell ignores or blocks, also for processes that a test starts.

    `nohup` ignores SIGHUP, and a background job of a script SIGINT and SIGQUIT. Every process would
    inherit that, and never end by the signal that its test sends. Under `nohup`, pytest itself still
    survives a hang-up: it handles the signal by doing nothing, and handlers are not inherited.
    """
    ignored = {
        number
        for number in signal.valid_signals() - OF_PYTHON
        if signal.getsignal(number) == signal.SIG_IGN
    }
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.SIGHUP in ignored:
        os.environ[NOHUP] = "1"  # for pytest-xdist's processes
    if NOHUP in os.environ:
        signal.signal(signal.SIGHUP, _do_nothing)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _do_nothing(*_: object) -> None:
    pass
