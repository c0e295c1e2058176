"""Runs the server as a process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType

import uvicorn

from components.serve.access import AccessRules
from components.serve.app import Traffic, make_app
from components.serve.connections import (
    ACCEPTED_AT_ONCE,
    ConnectionLimits,
    limited_protocol,
    open_more_files,
)
from components.serve.follower import ChampionFollower
from components.serve.metrics import Metrics
from components.serve.model_process import ModelProcesses
from model.errors import InputError

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 5
MAX_HEADER_BYTES = 16 << 10
BACKLOG = 2048
REQUEST_SECONDS = 30.0
DRAIN_SECONDS = 10.0
CLOSE_SECONDS = 1.0
"""Time for closing connections after the requests were answered or given up."""


def run(
    *,
    model: str,
    host: str,
    port: int,
    rules: AccessRules,
    threads: int = 0,
    request_seconds: float = REQUEST_SECONDS,
    drain_seconds: float = DRAIN_SECONDS,
) -> None:
    """Serves a model until SIGTERM or Ctrl-C; requests already received are completed.

    Args:
      model: `<registry>/<name>`, whose champion is followed, or the folder of one version.
      host: address to listen on.
      port: port to listen on; 0 takes a free one.
      rules: which web pages may use the server.
      threads: requests computed at the same time; 0: one per processor, and at least two.
      request_seconds: maximum time from a complete request to its answer.
      drain_seconds: maximum time for completing requests once the server is told to stop.

    Raises:
      InputError: there is no such model, or the port is taken.
    """
    listener = _listen(host, port)
    processes = ModelProcesses(
        threads=threads or max(2, len(os.sched_getaffinity(0))), request_seconds=request_seconds
    )
    with listener, contextlib.closing(processes):
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True
        )
        metrics = Metrics()
        limits = ConnectionLimits(
            connections=open_more_files(), refused=metrics.refused_connections.inc
        )
        follower = ChampionFollower(model, metrics, processes.load)
        traffic = Traffic()
        app = make_app(
            follower, metrics, rules=rules, request_seconds=request_seconds, traffic=traffic
        )
        listener.listen(BACKLOG)  # connections wait until uvicorn has started
        shown = f"[{host}]" if ":" in host else host
        print(
            f"serving {follower.name}, version {follower.current.number}, at "
            f"http://{shown}:{listener.getsockname()[1]}/",
            flush=True,
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            http=limited_protocol(limits),
            backlog=ACCEPTED_AT_ONCE,
            server_header=False,
        )
        server = _Server(config, traffic, processes, drain_seconds=drain_seconds)
        server.run(sockets=[listener])
        if server.signal is not None:
            signal.raise_signal(server.signal)


class _Server(uvicorn.Server):
    """Answers what it has received when it is told to stop, and refuses the rest."""

    def __init__(
        self,
        config: uvicorn.Config,
        traffic: Traffic,
        processes: ModelProcesses,
        *,
        drain_seconds: float,
    ):
        super().__init__(config)
        self.signal: int | None = None
        """The one by which it was told to stop."""
        self._traffic = traffic
        self._processes = processes
        self._drain_seconds = drain_seconds
        self._deadline = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening, with room for more connections than are accepted at once."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(BACKLOG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to stop; a second signal ends the process at once."""
        if self.signal is not None:
            self._end()
        self.signal = sig
        self._traffic.stopping = True
        self._deadline = time.monotonic() + self._drain_seconds
        log.info("stopping: %d requests are being answered", self._traffic.predictions)
        timer = threading.Timer(self._drain_seconds + 2 * CLOSE_SECONDS, self._end)
        timer.daemon = True
        timer.start()

    async def on_tick(self, counter: int) -> bool:
        """Returns whether the server should end; called ten times a second."""
        if self._traffic.stopping:
            unanswered = self._traffic.predictions
            if not unanswered or time.monotonic() >= self._deadline:
                if unanswered:
                    log.warning("gave up %d requests after %g s", unanswered, self._drain_seconds)
                self._processes.close()
                self.config.timeout_graceful_shutdown = int(CLOSE_SECONDS)
                return True
        return await super().on_tick(counter)

    def _end(self) -> None:
        """Ends the process without waiting for anything."""
        self._processes.close()
        os._exit(0)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:  # resolvers wrap larger numbers to another port
        raise InputError(f"--port is {port}; it must be from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise InputError(
            f"can't listen on {host} port {port} ({error.strerror}); choose another --port or --host"
        ) from None
    return listener
