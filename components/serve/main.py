"""Runs the server as a process."""

from __future__ import annotations

import logging
import os
import socket
import sys

import uvicorn

from components.serve.access import AccessRules
from components.serve.app import make_app
from components.serve.follower import ChampionFollower
from components.serve.metrics import Metrics
from model.errors import InputError

KEEP_ALIVE_SECONDS = 5
MAX_HEADER_BYTES = 16 << 10
GRACE_SECONDS = 10
BACKLOG = 2048


def run(*, model: str, host: str, port: int, rules: AccessRules, threads: int = 0) -> None:
    """Serves a model until SIGTERM or Ctrl-C; requests already received are completed.

    Args:
      model: `<registry>/<name>`, whose champion is followed, or the folder of one version.
      host: address to listen on.
      port: port to listen on; 0 takes a free one.
      rules: which web pages may use the server.
      threads: requests computed at the same time; 0: one per processor.

    Raises:
      InputError: there is no such model, or the port is taken.
    """
    listener = _listen(host, port)
    with listener:
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True
        )
        metrics = Metrics()
        follower = ChampionFollower(model, metrics)
        app = make_app(
            follower, metrics, threads=threads or len(os.sched_getaffinity(0)), rules=rules
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
            timeout_graceful_shutdown=GRACE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            http="h11",
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


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
