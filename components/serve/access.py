"""Which web pages may use the server: checks of `Host`, `Origin` and content type.

A browser on this machine reaches the server for any page that it shows. A page of another site
names itself in `Origin`, or reaches us under its own name in `Host` (DNS rebinding); neither is
something that the page can choose.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from model.errors import InputError

ANY = "*"
_HOST = re.compile(r"(?P<name>\[[^\[\]]+\]|[^:\[\]]*)(:\d*)?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class AccessRules:
    """Decides by a request's headers whether it may be answered."""

    def __init__(self, *, hosts: Collection[str] = (), origins: Collection[str] = ()):
        """Takes what is allowed beyond the server's own pages.

        Args:
          hosts: names that `Host` may have besides `localhost`, this machine's name and any IP
            address; `*` for any.
          origins: sites, as `https://example.org`, whose pages may use the server; `*` for any.

        Raises:
          InputError: one of the names can't be in such a header.
        """
        self._hosts = {"localhost", socket.gethostname().lower(), *map(_check_host, hosts)}
        self.origins = sorted({_check_origin(origin) for origin in origins})

    def check(self, headers: Headers, method: str) -> tuple[int, str]:
        """Returns status and reason of a refusal; an empty reason if there is none."""
        host = headers.get("host", "")
        if host and not self._is_allowed_host(host):
            return 403, f"host {host[:100]!r} is not allowed; start the server with --allow-host"
        for origin in headers.getlist("origin"):
            if not self._is_allowed_origin(origin, host):
                return 403, (
                    f"pages of {origin[:100]!r} may not use this server; start it with "
                    "--allow-origin"
                )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and kind not in ("", "application/json"):
            return 415, "the content-type must be application/json"
        return 200, ""

    def _is_allowed_host(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if ANY in self._hosts:
            return True
        return bool(found) and (_name(host) in self._hosts or _is_address(_name(host)))

    def _is_allowed_origin(self, origin: str, host: str) -> bool:
        if ANY in self.origins or origin.lower() in self.origins:
            return True
        parts = urlsplit(origin)
        if not host or parts.scheme not in _DEFAULT_PORTS:
            return False
        default = f":{_DEFAULT_PORTS[parts.scheme]}"
        return parts.netloc.lower().removesuffix(default) == host.lower().removesuffix(default)


class AccessMiddleware:
    """Refuses what `AccessRules` do not allow, before the application sees it."""

    def __init__(self, app: ASGIApp, *, rules: AccessRules, refused: Callable[[int], None]):
        """Takes the application to protect; calls `refused` with the status of each refusal."""
        self._rules = rules
        self._refused = refused
        self._app = app
        if rules.origins:
            self._app = CORSMiddleware(
                app,
                allow_origins=rules.origins,
                allow_methods=["GET", "POST"],
                allow_headers=["content-type"],
                expose_headers=["x-model-version", "retry-after"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] == "http":
            status, problem = self._rules.check(Headers(scope=scope), scope["method"])
            if problem:
                self._refused(status)
                # The body is not read, so the connection can't be used again.
                response = JSONResponse({"error": problem}, status, headers={"connection": "close"})
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _name(host: str) -> str:
    """Returns the name in a `Host` header, without port, brackets and the root's dot."""
    found = _HOST.fullmatch(host)
    return found["name"].strip("[]").removesuffix(".").lower() if found else ""


def _is_address(name: str) -> bool:
    """Whether a name is an IP address, which no page of another site can have as its own."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_host(host: str) -> str:
    if _is_address(host):
        return host
    if host != ANY and (not _name(host) or not re.fullmatch(r"[\w.:-]+|\[.*\]", host)):
        raise InputError(f"--allow-host is {host}; give a name as in {'lm.example.org'!r}, or '*'")
    return host if host == ANY else _name(host)


def _check_origin(origin: str) -> str:
    parts = urlsplit(origin)
    whole = f"{parts.scheme}://{parts.netloc}"
    if origin != ANY and (not parts.netloc or parts.scheme not in _DEFAULT_PORTS):
        raise InputError(f"--allow-origin is {origin}; give a site as in 'https://example.org'")
    if origin != ANY and origin.rstrip("/") != whole:
        raise InputError(f"--allow-origin is {origin}; give only the site, {whole}")
    return origin if origin == ANY else whole.lower()
