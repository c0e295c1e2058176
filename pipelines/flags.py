"""Flags that several commands share."""

from __future__ import annotations

import argparse

from model import presets

DEFAULT_PRESET = "demo"


def add_input(parser: argparse.ArgumentParser) -> None:
    """Adds --input."""
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="text files, folders or glob patterns",
    )


def add_text(parser: argparse.ArgumentParser) -> None:
    """Adds what tells how to read text."""
    parser.add_argument(
        "--on-bad-text",
        choices=("error", "skip", "replace"),
        help="what to do with a file that is no text (default: error)",
    )
    parser.add_argument("--encoding", help="text encoding of the input (default: utf-8)")


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Adds the folders that prepare and train made."""
    parser.add_argument("--records", required=True, metavar="DIR", help="made by prepare")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="made by train")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Adds --report."""
    parser.add_argument("--report", metavar="DIR", help="default: <workdir>/report")


def add_workers(parser: argparse.ArgumentParser, *, default: int) -> None:
    """Adds --workers."""
    parser.add_argument(
        "--workers",
        type=int,
        default=default,
        metavar="N",
        help=f"training processes that share each batch (default: {default})",
    )


def add_set(parser: argparse.ArgumentParser) -> None:
    """Adds --set."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="override one config field, as in --set train.steps=500; may be repeated",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds what chooses a config: --preset or --config, and --set."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        metavar="NAME",
        help=f"{', '.join(presets.PRESETS)} (default: {DEFAULT_PRESET})",
    )
    source.add_argument("--config", metavar="FILE", help="a config.json of an earlier run")
    add_set(parser)
