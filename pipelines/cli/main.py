"""The `charloom` command.

Heavy imports are left to the command that needs them, so that `--help` and wrong flags are answered
immediately.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

from components.interruption import ending_on_signals
from model.errors import ENDINGS, CharloomError, ending_for
from pipelines.cli.streams import IS_PRODUCT, LastingStream, ReaderGoneError, lasting_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code.

    `model.errors.ENDINGS` lists the codes. A closed pipe does not change them; only a command whose
    output is its product then ends early, with 0.
    """
    with lasting_streams() as output:
        return _run(arguments, output)


def _run(arguments: Sequence[str] | None, output: LastingStream) -> int:
    options = argparse.Namespace(debug=False)
    try:
        with ending_on_signals(_write_line, advice="; run the same command again"):
            build_parser().parse_args(arguments, options)
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            output.is_product = getattr(options, IS_PRODUCT, False)
            options.command(options)
            output.flush()
    except ReaderGoneError:
        return 0
    except CharloomError as error:
        return _report(error, " ".join(str(error).split()), options.debug)
    except KeyboardInterrupt as stop:
        return _report(stop, str(stop) or "stopped", debug=False)
    except Exception as error:
        name = type(error).__name__
        line = f"internal error: {name}: {' '.join(str(error).split())[:500]}; --debug shows where"
        return _report(error, line, options.debug)
    return 0


def _report(error: BaseException, line: str, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    with contextlib.suppress(ReaderGoneError, CharloomError):
        sys.stdout.flush()
    print(f"charloom: {line}", file=sys.stderr, flush=True)
    return ending_for(error).code


def _write_line(error: BaseException) -> None:
    os.write(2, f"charloom: {error}\n".encode())  # not through a stream, which may be locked


class _Version(argparse.Action):
    """Looks up the version only on request."""

    def __call__(self, *unused: object) -> None:
        from importlib.metadata import version

        print(f"charloom {version('charloom')}")
        raise SystemExit(0)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    # Imported late: before that a signal ends the process in its own way.
    from pipelines.cli import collect_runs, kubeflow, models, registry, runs, serve, stages

    codes = sorted((ending.code, ending.command) for ending in ENDINGS if ending.command)
    parser = argparse.ArgumentParser(
        prog="charloom",
        description="Train, evaluate and export language models that read words and characters.",
        epilog="exit codes: 0 done, "
        + ", ".join(f"{code} {meaning}" for code, meaning in codes)
        + "; after 75 and 130 the same command continues a training",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for part in (stages, models, serve, registry, runs, collect_runs, kubeflow):
        part.add_commands(_add, commands)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: object,
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=function)
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
