"""What a local run shows, by what it prints to."""

from __future__ import annotations

import io

import pytest

from pipelines.local.output import RunOutput


class Terminal(io.StringIO):
    """A text buffer that says it is a terminal."""

    def isatty(self) -> bool:
        return True


STEPS = [
    "step 6/60  loss 5.1  9 words/s  0:54 left",
    "step 12/60  loss 4.2  9 words/s  0:48 left",
    "step 12  validation perplexity 70.00",
    "step 60/60  loss 3.3  9 words/s  0:00 left",
]


def feed(terminal: io.StringIO) -> str:
    """Returns what is shown when kfp prints a warning and lines of a task."""
    log = io.StringIO()
    output = RunOutput(terminal, log)
    output.write("12:00:00.000 - INFO - Streamed logs:\n\n")
    output.write("12:00:00.000 - WARNING - Condition evaluation failed\n")
    for line in ["[KFP Executor 1 INFO]: Got executor_input:", "{", '    "a": {', "    }", "}"]:
        output.write("    ")
        output.write(line + "\n")
    native = "I0000 00:00:1795563621.958970   16767 port.cc:153] oneDNN custom operations are on."
    for line in ["started", native, *STEPS, "ended"]:
        output.write("    ")
        output.write(line + "\n")
    output.write("-" * 80 + "\n")
    output.finish()
    assert log.getvalue().count("\n") == 16
    return terminal.getvalue()


def test_steps_are_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "51")
    assert feed(Terminal()) == (
        "Condition evaluation failed\nstarted\n"
        " 10% |##                  | 6/60  loss 5.1  9 word"
        "\r\x1b[K 20% |####                | 12/60  loss 4.2  9 wor"
        "\nstep 12  validation perplexity 70.00\n"
        "100% |####################| 60/60  loss 3.3  9 wor"
        "\nended\n"
    )


def test_steps_are_lines_in_a_file() -> None:
    expected = ["Condition evaluation failed", "started", *STEPS, "ended", ""]
    assert feed(io.StringIO()).split("\n") == expected


def test_what_tasks_say_after_ctrl_c_is_for_the_log() -> None:
    terminal, log, stopped = io.StringIO(), io.StringIO(), False
    output = RunOutput(terminal, log, muted=lambda: stopped)
    output.write("    started\n")
    stopped = True
    output.write("    KeyboardInterrupt\n")
    output.finish()
    assert terminal.getvalue() == "started\n"
    assert log.getvalue() == "    started\n    KeyboardInterrupt\n"
