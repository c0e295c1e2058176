"""How Ctrl-C, SIGTERM and SIGHUP end a command or a task, and what they leave."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from components.interruption import SIGNALS, ending_on_signals
from model.errors import InputError, RejectedError, RestartableError
from model.files import publish_folder, temporary_folder, whole_file

ENDS = pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (signal.SIGINT, KeyboardInterrupt, "stopped"),
        (signal.SIGTERM, RestartableError, "stopped by SIGTERM; again"),
        (signal.SIGHUP, RestartableError, "stopped by SIGHUP; again"),
    ],
)


def stopping() -> Any:
    """Returns the context that is tested; it must not end the process."""
    return ending_on_signals(lambda _: None, advice="; again", seconds=300)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def send_and_raise(number: int, other: BaseException) -> None:
    try:
        send(number)
    except KeyboardInterrupt as stop:
        raise other from stop


@ENDS
def test_each_signal_ends_the_block_and_leaves_nothing(
    tmp_path: Path, number: int, error: type[BaseException], text: str
) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with (  # noqa: PT012 (what is there at the signal is part of the test)
        pytest.raises(error) as raised,
        stopping(),
        temporary_folder(str(tmp_path / "a")) as folder,
        whole_file(str(tmp_path / "b")) as file,
    ):
        Path(folder, "x").touch()
        file.write(b"half")
        send(number)
        pytest.fail("went on")
    assert type(raised.value) is error
    assert str(raised.value) == text
    assert os.listdir(tmp_path) == []
    assert [signal.getsignal(one) for one in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_an_ignored_signal_stays_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stopping():
            send(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@ENDS
@pytest.mark.parametrize("other", [ImportError("initialization failed"), InputError("bad option")])
def test_a_stop_that_became_another_error_is_a_stop(
    number: int, error: type[BaseException], text: str, other: Exception
) -> None:
    """Native modules and Beam turn what a signal raises into errors of theirs."""
    with pytest.raises(error) as raised, stopping():
        send_and_raise(number, other)
    assert str(raised.value) == text


@ENDS
def test_a_message_that_says_more_is_kept(
    number: int, error: type[BaseException], text: str
) -> None:
    with pytest.raises(error) as raised, stopping():
        send_and_raise(number, KeyboardInterrupt("stopped waiting; the run continues"))
    assert str(raised.value) == "stopped waiting; the run continues"


def test_a_verdict_is_kept() -> None:
    with pytest.raises(RejectedError, match="too bad"), stopping():
        send_and_raise(signal.SIGTERM, RejectedError("too bad"))


def test_work_that_is_done_is_done() -> None:
    with stopping():
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            done = True
    assert done


def test_a_signal_while_cleaning_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = shutil.rmtree

    def interrupted(path: str, **named: Any) -> None:
        monkeypatch.setattr(shutil, "rmtree", remove)
        send(signal.SIGTERM)

    with pytest.raises(RestartableError), stopping(), temporary_folder(str(tmp_path / "a")):
        monkeypatch.setattr(shutil, "rmtree", interrupted)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("move", [1, 2])
def test_a_signal_between_two_renames_leaves_the_old_folder_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: int
) -> None:
    rename, calls = os.rename, []

    def interrupted(source: str, target: str) -> None:
        rename(source, target)
        calls.append(source)
        if len(calls) == move:
            send(signal.SIGTERM)

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with (  # noqa: PT012
        pytest.raises(RestartableError),
        stopping(),
        temporary_folder(str(tmp_path / "a")) as folder,
    ):
        Path(folder, "new").touch()
        monkeypatch.setattr("model.files.os.rename", interrupted)
        publish_folder(folder, str(tmp_path / "a"), replace=True)
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(tmp_path / "a") == [["old"], ["new"]][move - 1]


def test_another_thread_keeps_its_signals() -> None:
    found: list[Any] = []

    def work() -> None:
        with stopping():
            found.extend(signal.getsignal(one) for one in SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(one) for one in SIGNALS]


PROGRAM = """
import os, signal, sys, time
from components import interruption
from model.files import temporary_folder
interruption.PAUSE_SECONDS = {same}
def report(error):
    print("at once:", error, flush=True)
with interruption.ending_on_signals(report, seconds={seconds}):
    with temporary_folder(sys.argv[1]) as folder:
        open(folder + "/x", "w").close()
        for number in {numbers}:
            try:
                os.kill(os.getpid(), number)
            except KeyboardInterrupt:
                print("swallowed", flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize(
    ("numbers", "same", "seconds", "code", "text"),
    [
        ([signal.SIGTERM], 1, 0.1, 75, "stopped by SIGTERM"),
        ([signal.SIGINT], 1, 0.1, 130, "stopped"),
        ([signal.SIGHUP, signal.SIGTERM], 0, 600, 75, "stopped by SIGHUP"),
        ([signal.SIGINT, signal.SIGINT], 0, 600, 130, "stopped"),
        # A terminal that closes sends several: they are one.
        ([signal.SIGHUP, signal.SIGHUP], 600, 0.1, 75, "stopped by SIGHUP"),
    ],
)
def test_what_does_not_end_is_ended(
    tmp_path: Path, numbers: list[int], same: float, seconds: float, code: int, text: str
) -> None:
    program = PROGRAM.format(same=same, seconds=seconds, numbers=[int(one) for one in numbers])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (code, f"swallowed\nat once: {text}\n"), done.stderr
    assert os.listdir(tmp_path) == []
