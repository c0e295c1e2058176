"""Connections of clients: how many, how long they may take, and which are closed first.

A connection is *quiet* until its first request has arrived whole. Quiet ones are closed after a few
seconds, the oldest earlier if others need the room; so idle clients don't shut others out, and
some places are kept for health checks.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import resource
import time
from collections.abc import Callable
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1000
RESERVED = 16
"""Connections beyond the limit, on which only health checks and metrics are answered."""
ACCEPTED_AT_ONCE = 64
"""Connections that asyncio accepts before the first of them is counted."""
OWN_FILES = 64
"""Files that the server itself has open: pipes, model files, the page."""
HEALTH_PATHS = ("/healthz", "/readyz", "/metrics", "/monitoring/prometheus/metrics")
_BUSY = json.dumps({"error": "too many connections are open; try again in a second"}).encode()
_BUSY_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(_BUSY)).encode()),
    (b"retry-after", b"1"),
    (b"connection", b"close"),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Limits of one server; times in seconds."""

    connections: int
    """Connections on which every request is answered."""
    first_byte_seconds: float = 5.0
    header_seconds: float = 10.0
    """From the first byte of a header to its last."""
    crowded_seconds: float = 2.0
    """From the connection to the header's last byte, for a connection beyond the limit."""
    evict_seconds: float = 1.0
    """Age from which a quiet connection makes way for a new one."""
    stall_seconds: float = 10.0
    """How long a client may read too little of an answer to make room for more."""
    refused: Callable[[], Any] = lambda: None
    """Called for each connection that is closed because too many are open."""


def open_more_files() -> int:
    """Raises the process's limit of open files as far as allowed; returns connections to accept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + RESERVED + ACCEPTED_AT_ONCE + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(soft - wanted + MAX_CONNECTIONS, RESERVED)
    return MAX_CONNECTIONS


def limited_protocol(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """Returns the protocol for a server with the given limits."""
    return type("LimitedConnection", (_Connection,), {"limits": limits})


class _Connection(H11Protocol):
    """A client's connection."""

    limits: ConnectionLimits

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._quiet_since: float | None = time.monotonic()
        """None once a request has arrived whole."""
        self._in_header = False
        self._crowded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts a connection if there is room for it."""
        super().connection_made(transport)
        seconds = self.limits.first_byte_seconds
        if self._excess() > 0:
            self._evict_one()
        if self._excess() > 0:
            self.limits.refused()
            if self._excess() > RESERVED:
                self._refuse()
                return
            self._crowded = True
            seconds = self.limits.crowded_seconds
            self.app = cast(Any, _answer_health_only(cast(ASGIApp, self.app)))
        self._start_timer(seconds)

    def data_received(self, data: bytes) -> None:
        """Starts the time limit of a header with its first byte."""
        if not self._is_busy() and not self._in_header:
            self._in_header = True
            if not self._crowded:
                self._start_timer(self.limits.header_seconds)
        super().data_received(data)
        if self._is_busy():
            self._in_header = False
            self._quiet_since = None
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        super().connection_lost(exc)
        self._stop_timer()
        self._stop_stall()

    def pause_writing(self) -> None:
        """Gives the client some time to read what was sent."""
        super().pause_writing()
        self._start_stall()

    def resume_writing(self) -> None:
        """Called when the client has read most of it."""
        super().resume_writing()
        self._stop_stall()

    def on_response_complete(self) -> None:
        """Waits for the next request; a client that leaves the answer unread has not got for ever."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size() and self._stall is None:
            self._start_stall()

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, at once if the client does not even read its last answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _is_busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _excess(self) -> int:
        return len(self.connections) - self.limits.connections

    def _evict_one(self) -> None:
        """Closes the connection that has been quiet the longest."""
        latest = time.monotonic() - self.limits.evict_seconds
        quiet = [
            one
            for one in self.connections
            if isinstance(one, _Connection)
            and one._quiet_since is not None
            and one._quiet_since <= latest
        ]
        if quiet:
            oldest = min(quiet, key=lambda one: one._quiet_since or 0.0)
            self.limits.refused()
            oldest.transport.abort()
            self.connections.discard(oldest)

    def _refuse(self) -> None:
        head = b"".join(b"%b: %b\r\n" % header for header in _BUSY_HEADERS)
        self.transport.write(b"HTTP/1.1 503 Service Unavailable\r\n" + head + b"\r\n" + _BUSY)
        self.transport.close()

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_stall(self) -> None:
        self._stop_stall()
        self._stall = self.loop.call_later(self.limits.stall_seconds, self.transport.abort)

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _answer_health_only(app: ASGIApp) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in HEALTH_PATHS:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 503, "headers": _BUSY_HEADERS})
        await send({"type": "http.response.body", "body": _BUSY})

    return answer
