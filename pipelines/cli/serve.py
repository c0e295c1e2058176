"""The command that serves a published model over HTTP."""

from __future__ import annotations

import argparse
import signal
from typing import Any

from model.errors import InputError
from model.field_limits import check_range
from pipelines.cli.shared import Add

DEFAULT_PORT = 8501
"""The port of TensorFlow Serving's REST API."""


def add_commands(add: Add, commands: Any) -> None:
    """Adds the command; `add` creates its parser."""
    serve = add(commands, "serve", _serve, "Serve a model over HTTP, following its champion.")
    serve.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="<registry>/<name> to follow its champion, or a version's folder",
    )
    serve.add_argument(
        "--host",
        default="localhost",
        help="address to listen on (default: localhost; 0.0.0.0: all)",
    )
    serve.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help=f"default: {DEFAULT_PORT}; 0: any free one",
    )
    serve.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="requests computed at the same time (default: one per processor, at least 2)",
    )
    serve.add_argument(
        "--request-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="maximum time from a complete request to its answer (default: 30)",
    )
    serve.add_argument(
        "--drain-seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="maximum time for answering requests after SIGTERM (default: 10)",
    )
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer requests to this host name, besides --host, localhost, this machine's name "
        "and IP addresses; repeatable; '*': any",
    )
    serve.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="SITE",
        help="let web pages of this site, as https://example.org, use the server; repeatable; "
        "'*': any",
    )


def _serve(options: argparse.Namespace) -> None:
    from components.export.registry import find_model
    from components.serve.access import AccessRules

    if options.threads < 0:
        raise InputError(f"--threads is {options.threads}; it must be at least 0")
    check_range("--request-seconds", options.request_seconds, 0.1, 3600)
    check_range("--drain-seconds", options.drain_seconds, 0, 3600)
    # Uvicorn completes pending requests, then raises the signal again: a clean end is not a
    # failure.
    signal.signal(signal.SIGTERM, _end)
    rules = AccessRules(
        hosts=[*filter(None, [options.host]), *options.allow_host], origins=options.allow_origin
    )
    find_model(options.model)  # so that a wrong name is reported at once
    from components.serve.main import run

    run(
        model=options.model,
        host=options.host,
        port=options.port,
        rules=rules,
        threads=options.threads,
        request_seconds=options.request_seconds,
        drain_seconds=options.drain_seconds,
    )


def _end(*_: object) -> None:
    raise SystemExit(0)
