"""Standard streams that are closed, broken or full, with real pipes."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO, cast

import pytest

from model.errors import CharloomError
from pipelines.cli.main import build_parser, main
from pipelines.cli.streams import IS_PRODUCT, LastingStream, ReaderGoneError

ROOT = Path(__file__).resolve().parent.parent
CLOSED = 255
"""For a descriptor that the command does not get at all."""


def run(
    arguments: Sequence[str],
    *,
    out: int = subprocess.PIPE,
    err: int = subprocess.PIPE,
    stdin: int = subprocess.DEVNULL,
    environment: dict[str, str] | None = None,
    program: Sequence[str] = ("-m", "pipelines.cli.main"),
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command; a stream that is `CLOSED` is not open in it.

    Its streams are buffered, as a user's are: PYTHONUNBUFFERED, which container images and CI
    often set, would hide what only a flush finds.
    """
    closed = [number for number, end in enumerate((stdin, out, err)) if end == CLOSED]

    def close() -> None:
        for number in closed:
            os.close(number)

    streams = [None if end == CLOSED else end for end in (stdin, out, err)]
    inherited = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        env={**inherited, **(environment or {})},
        preexec_fn=close if closed else None,
    )


@pytest.fixture
def broken() -> int:
    """The writing end of a pipe that nobody reads; each process gets its own copy."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def in_program(body: str) -> tuple[str, str]:
    """Returns a program in which `evaluate` is another function, as a fast stand-in."""
    return "-c", (
        "import sys\n"
        "from model.errors import RejectedError\n"
        "from pipelines.cli import main as cli, stages\n"
        f"def stand_in(options):\n    {body}\n"
        "stages._evaluate = stand_in\n"
        "sys.exit(cli.main(['evaluate', '--records', 'r', '--workdir', 'w']))\n"
    )


SAYS = "print('one', flush=True); print('two', flush=True); "
REJECTED = SAYS + "raise RejectedError('REJECTED: too bad')"


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (REJECTED, 3, b"charloom: REJECTED: too bad\n"),
        ("print('one'); raise RejectedError('no')", 3, b"charloom: no\n"),  # fails at the flush
        (SAYS + "open(1, 'w', closefd=False).write('x'); return", 0, b""),
        (
            "raise BrokenPipeError(32, 'Broken pipe')",  # of a socket, say: not our output
            1,
            b"charloom: internal error: BrokenPipeError: [Errno 32] Broken pipe; --debug shows where\n",
        ),
    ],
)
def test_a_closed_pipe_does_not_change_the_code(
    broken: int, body: str, code: int, said: bytes
) -> None:
    done = run([], out=broken, program=in_program(body))
    assert (done.returncode, done.stderr) == (code, said)


def test_what_was_printed_comes_before_the_error() -> None:
    program = in_program("print('one'); raise RejectedError('no')")
    done = run([], err=subprocess.STDOUT, program=program)
    assert (done.returncode, done.stdout) == (3, b"one\ncharloom: no\n")


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("SIGTERM", 75, b"charloom: stopped by SIGTERM; run the same command again\n"),
        ("SIGHUP", 75, b"charloom: stopped by SIGHUP; run the same command again\n"),
        ("SIGINT", 130, b"charloom: stopped\n"),
    ],
)
def test_a_signal_says_how_to_go_on(name: str, code: int, line: bytes) -> None:
    done = run([], program=in_program(f"import os, signal; os.kill(os.getpid(), signal.{name})"))
    assert (done.returncode, done.stderr) == (code, line)


def test_a_hang_up_under_nohup_changes_nothing() -> None:
    ignore = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    flag, program = in_program("os.kill(os.getpid(), signal.SIGHUP); print('went on')")
    done = run([], program=(flag, ignore + program))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"went on\n", b"")


def test_the_work_is_done_to_its_end(broken: int, tmp_path: Path) -> None:
    body = (
        f"print('a ' * 99999); open({str(tmp_path / 'made')!r}, 'w').write('done'); "
        "import subprocess; print(subprocess.run(['echo', 'x'], check=True))"
    )
    done = run([], out=broken, program=in_program(body))
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "made").read_text() == "done"


@pytest.mark.parametrize("closed", [CLOSED, -1, os.open("/dev/full", os.O_WRONLY)])
def test_stderr_that_takes_nothing(broken: int, closed: int) -> None:
    done = run([], err=broken if closed < 0 else closed, program=in_program(REJECTED))
    assert (done.returncode, done.stdout) == (3, b"one\ntwo\n")


@pytest.mark.parametrize("out", [CLOSED, os.open("/dev/full", os.O_WRONLY)])
def test_stdout_that_takes_nothing(out: int, tmp_path: Path) -> None:
    """A file that is opened must not get the number of a stream that is closed."""
    path = str(tmp_path / "made")
    body = f"file = open({path!r}, 'w'); {SAYS}file.write('content'); file.close(); {REJECTED}"
    done = run([], out=out, program=in_program(body))
    assert (done.returncode, done.stderr) == (3, b"charloom: REJECTED: too bad\n")
    assert Path(path).read_text() == "content"


def test_all_streams_closed(tmp_path: Path) -> None:
    """What native code writes to the numbers of streams must not reach a file, either."""
    path = tmp_path / "made"
    native = "import os; [os.write(number, b'native') for number in (1, 2)]; "
    body = (
        f"file = open({str(path)!r}, 'w'); {native}file.write('content'); file.close(); {REJECTED}"
    )
    done = run([], stdin=CLOSED, out=CLOSED, err=CLOSED, program=in_program(body))
    assert (done.returncode, path.read_text()) == (3, "content")


def make_registry(folder: Path, *, versions: int) -> str:
    """Makes a registry that can be listed; its versions hold a report and a manifest only."""
    from components.export.manifest import write_manifest

    for number in range(1, versions + 1):
        version = folder / "lm" / str(number)
        version.mkdir(parents=True)
        (version / "report.json").write_text("{}")
        write_manifest(str(version), {"checkpoint": "c"})
    return str(folder / "lm")


def test_what_is_only_shown_may_end_early(broken: int, tmp_path: Path) -> None:
    model = make_registry(tmp_path, versions=200)
    for command in (["list", model], ["list", "--json", model]):
        done = run(["registry", *command], out=broken)
        assert (done.returncode, done.stderr) == (0, b"")
    full = os.open("/dev/full", os.O_WRONLY)
    small = make_registry(tmp_path / "small", versions=1)  # fails only when it is flushed
    for shown in (model, small):
        done = run(["registry", "list", shown], out=full)
        assert (done.returncode, done.stderr) == (
            1,
            b"charloom: the output can't be written (No space left on device); what was written "
            b"before is incomplete\n",
        )


PRODUCTS = {"score", "embed", "next", "similar", "registry list", "schedule list"}


def test_only_commands_whose_output_is_their_product_may_end_early() -> None:
    def commands(parser: argparse.ArgumentParser, name: str = "") -> dict[str, bool]:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parts = (commands(one, f"{name} {key}") for key, one in action.choices.items())
                return {key: value for part in parts for key, value in part.items()}
        return {name.strip(): bool(parser.get_default(IS_PRODUCT))}

    found = commands(build_parser())
    assert {name for name, is_product in found.items() if is_product} == PRODUCTS
    assert {"run", "train", "evaluate", "export", "submit", "registry promote"} <= set(found)


def test_help_into_a_closed_pipe(broken: int) -> None:
    for arguments in (["--help"], ["train", "--help"], ["--version"]):
        done = run(arguments, out=broken)
        assert (done.returncode, done.stderr) == (0, b"")
    assert run(["train"], err=broken).returncode == 2


def test_show_tells_damage_to_a_closed_pipe(broken: int, tmp_path: Path) -> None:
    model = make_registry(tmp_path, versions=1)
    Path(model, "1", "report.json").write_text("[]")
    for flags in ([], ["--json"]):
        done = run(["registry", "show", model, "1", *flags], out=broken)
        assert (done.returncode, done.stderr) == (
            1,
            f"charloom: {model}/1 is damaged: report.json was changed\n".encode(),
        )


def test_promote_into_a_closed_pipe(broken: int, tmp_path: Path) -> None:
    model = make_registry(tmp_path, versions=2)
    assert run(["registry", "promote", model, "2"], out=broken).returncode == 0
    assert json.loads(Path(model, "champion.json").read_text())["version"] == 2
    assert run(["registry", "promote", model, "3"], out=broken).returncode == 2


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("environment", [ASCII, {"PYTHONIOENCODING": "ascii"}])
def test_output_is_utf_8_in_any_locale(environment: dict[str, str]) -> None:
    word = "print('Gr\\u00f6\\u00dfe \\udcff')"
    done = run([], program=in_program(word), environment=environment)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "Größe \\udcff\n".encode(),
        b"",
    )


def gone(stream: LastingStream) -> Callable[[], object]:
    def write() -> None:
        stream.write("x" * 99_999)
        stream.flush()

    return write


def test_a_product_ends_early_or_fails(broken: int) -> None:
    for descriptor, error in ((broken, ReaderGoneError), (os.open("/dev/full", 1), CharloomError)):
        with open(descriptor, "w") as file:
            stream = LastingStream(file)
            stream.is_product = True
            with pytest.raises(error):
                gone(stream)()
            gone(stream)()  # it is lost, and has been told


def test_a_stream_in_memory() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    stream = LastingStream(cast(TextIO, Gone()))
    print("a", file=cast(TextIO, stream), flush=True)
    memory = io.StringIO()
    stream = LastingStream(memory)
    print("a", "b", file=cast(TextIO, stream), flush=True)
    assert memory.getvalue() == "a b\n"
    assert not stream.isatty()


@pytest.mark.slow
def test_stages_into_closed_pipes(
    monkeypatch: pytest.MonkeyPatch,
    corpus: Path,
    tiny_training: str,
    tiny_records: str,
    tmp_path: Path,
) -> None:
    """In this process, whose stdout is a pipe that its reader closes after one line."""

    def run_here(*arguments: str) -> int:
        reading, writing = os.pipe()
        with open(writing, "w") as pipe:
            monkeypatch.setattr(sys, "stdout", pipe)
            with open(reading, "rb") as reader:
                reader_thread = threading.Thread(target=lambda: (reader.readline(), reader.close()))
                reader_thread.start()
                code = main(arguments)
            reader_thread.join()
        return code

    made = str(tmp_path / "records")
    assert run_here("prepare", "--preset", "tiny", "--input", str(corpus), "--records", made) == 0
    names = sorted(os.listdir(tiny_records))
    assert sorted(os.listdir(made)) == names
    assert "COMPLETED" in names
    # As many lines as steps.
    workdir = str(tmp_path / "workdir")
    settings = ["--preset", "tiny", "--set", "train.steps=20", "--set", "train.log_steps=1"]
    assert run_here("train", "--records", made, "--workdir", workdir, *settings) == 0
    assert sorted(os.listdir(os.path.join(workdir, "checkpoints")))[-1] == "step-00000020"
    assert os.path.exists(os.path.join(workdir, "COMPLETED"))
    folders = ["--records", tiny_records, "--workdir", tiny_training]
    report = ["--report", str(tmp_path / "report")]
    assert run_here("evaluate", *folders, *report, "--set", "gate.max_perplexity=1") == 3
    assert (tmp_path / "report" / "COMPLETED").exists()
