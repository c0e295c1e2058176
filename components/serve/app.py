"""The HTTP server: TensorFlow Serving's REST API, health, metrics, and a page to try a model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from components.serve.access import AccessMiddleware, AccessRules
from components.serve.follower import ChampionFollower
from components.serve.messages import Answer, TensorInfo
from components.serve.metrics import Metrics
from components.serve.model_process import ModelProcess, ProcessEndedError
from components.serve.requests import HttpError

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
BODY_SECONDS = 10.0
"""Maximum time for receiving a request's body."""
MAX_WAITING = 512
"""Maximum number of requests waiting or being computed; further ones get status 503."""
MAX_HELD_BYTES = 1 << 26
"""Maximum bytes of all bodies in memory, and of all answers that clients have not read yet."""
SMALL_ANSWER = 1 << 16
"""Bytes of an answer that is sent even beyond that limit."""
ANSWER_SECONDS = 60.0
"""Maximum time for sending an answer."""
NOT_READY = ("restarting", "stopping")
"""States in which predictions are refused."""
PAGE_FILES = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
_BLOCK = 1 << 16
"""Bytes of an answer that are handed to the connection at a time."""
_MODEL = re.compile(
    r"(?P<name>[^/:]+)(/versions/(?P<version>[^/:]+))?(?P<verb>:predict|/metadata)?"
)
_TYPES = {"string": "DT_STRING", "float32": "DT_FLOAT", "int32": "DT_INT32", "int64": "DT_INT64"}


class Traffic:
    """What the server is busy with."""

    def __init__(self) -> None:
        """Starts with nothing."""
        self.predictions = 0
        """Requests whose body has arrived and whose answer has not been sent."""
        self.stopping = False
        """Whether new requests are refused."""


def make_app(
    follower: ChampionFollower,
    metrics: Metrics,
    *,
    rules: AccessRules,
    request_seconds: float,
    traffic: Traffic,
) -> Starlette:
    """Returns the application.

    Args:
      follower: determines the version to serve.
      metrics: receives the counts.
      rules: which web pages may use it.
      request_seconds: maximum time from a complete request to its answer.
      traffic: kept up to date; also tells the application to refuse new requests.
    """
    server = _Server(follower, metrics, request_seconds=request_seconds, traffic=traffic)
    routes = [
        *(Route(path, server.page, name=path) for path in PAGE_FILES),
        Route("/healthz", server.health),
        Route("/readyz", server.ready),
        Route("/metrics", server.metrics_text),
        Route("/monitoring/prometheus/metrics", server.metrics_text),
        Route("/v1/models", server.list_models),
        Route("/v1/models/{rest:path}", server.model, methods=["GET", "POST"]),
    ]
    handlers: dict[Any, Any] = {HTTPException: server.refuse_http, Exception: server.fail}
    access = Middleware(
        AccessMiddleware,
        rules=rules,
        refused=lambda status: metrics.requests.labels("other", status).inc(),
    )
    return Starlette(
        routes=routes, exception_handlers=handlers, lifespan=server.lifespan, middleware=[access]
    )


class _Server:
    def __init__(
        self,
        follower: ChampionFollower,
        metrics: Metrics,
        *,
        request_seconds: float,
        traffic: Traffic,
    ):
        self._follower = follower
        self._metrics = metrics
        self._request_seconds = request_seconds
        self._traffic = traffic
        self._waiting = 0
        self._body_bytes = 0
        self._answer_bytes = 0

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Follows the champion while the server runs."""
        self._follower.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._follower.stop)

    async def page(self, request: Request) -> Response:
        """Serves a file of the page."""
        folder = os.path.join(os.path.dirname(__file__), "page")
        return FileResponse(os.path.join(folder, PAGE_FILES[request.url.path]), headers=_HEADERS)

    async def health(self, _: Request) -> Response:
        """Reports that the server is up; it listens only once a model is loaded."""
        return self._json({"status": "ok", "version": self._follower.current.number})

    async def ready(self, _: Request) -> Response:
        """Reports the served version and the champion; ready even with an older version."""
        state = self._follower.state()
        if self._traffic.stopping:
            state["status"] = "stopping"
        return self._json(state, status=503 if state["status"] in NOT_READY else 200)

    async def metrics_text(self, _: Request) -> Response:
        """Serves metrics to Prometheus."""
        return Response(self._metrics.to_text(), media_type="text/plain; version=0.0.4")

    async def list_models(self, _: Request) -> Response:
        """Lists the model's name, for the page."""
        return self._json({"models": [self._follower.name]})

    async def model(self, request: Request) -> Response:
        """Handles requests about the model, or to it."""
        kind, rest = "other", request.path_params["rest"]
        try:
            verb, version = self._find(rest)
            kind = verb.lstrip(":/") or "status"
            if (verb == ":predict") != (request.method == "POST"):
                raise HttpError(405, "use POST for :predict, GET for everything else")
            if verb == ":predict":
                self._check_not_stopping()
                response = await self._predict(request, rest)
            elif verb == "/metadata":
                response = self._json(_describe(self._follower.name, version), version)
            else:
                response = self._json(_status(version), version)
        except HttpError as error:
            response = self._json({"error": str(error)}, status=error.status)
            if error.status in (408, 413, 503):  # the rest of the body was not read
                response.headers["connection"] = "close"
            if error.status == 503:
                response.headers["retry-after"] = "1"
        self._metrics.requests.labels(kind, response.status_code).inc()
        return response

    def _find(self, rest: str) -> tuple[str, ModelProcess]:
        """Returns the verb of a URL and the version it names.

        Raises:
          HttpError: there is no such URL, model or version.
        """
        found = _MODEL.fullmatch(rest)
        if not found:
            raise HttpError(404, "no such address; see /v1/models")
        if found["name"] != self._follower.name:
            raise HttpError(404, f"no such model; the model is {self._follower.name}")
        version: ModelProcess | None = self._follower.current
        if found["version"] is not None:
            number = found["version"]
            known = number.isascii() and number.isdecimal() and len(number) < 10
            version = self._follower.version(int(number)) if known else None
        if version is None:
            raise HttpError(
                404, f"this version is not served; version {self._follower.current.number} is"
            )
        return found["verb"] or "", version

    async def _predict(self, request: Request, rest: str) -> Response:
        body = bytearray()
        try:
            await self._receive(request, body)
            return await self._answer(request, rest, body)
        finally:
            self._body_bytes -= len(body)

    async def _receive(self, request: Request, body: bytearray) -> None:
        """Receives the body of a request.

        Raises:
          HttpError: it is too large, takes too long to arrive, or there is no room for it.
        """
        too_large = HttpError(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            raise too_large
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    self._check_not_stopping()
                    if len(body) + len(part) > MAX_BODY_BYTES:
                        raise too_large
                    if self._body_bytes + len(part) > MAX_HELD_BYTES:
                        raise HttpError(503, "too many requests are waiting; try again in a second")
                    body += part
                    self._body_bytes += len(part)
        except TimeoutError:
            raise HttpError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
        except ClientDisconnect:
            raise HttpError(400, "the connection was closed") from None

    async def _answer(self, request: Request, rest: str, body: bytearray) -> Response:
        if self._waiting >= MAX_WAITING:
            raise HttpError(503, "too many requests are waiting; try again in a second")
        started = time.monotonic()
        self._waiting += 1
        self._traffic.predictions += 1
        self._metrics.waiting.inc()
        try:
            version, answer = await self._ask(request, rest, body)
            if answer.status != 200:
                raise HttpError(answer.status, answer.body.decode())
            held = len(answer.body)
            if held > SMALL_ANSWER and self._answer_bytes + held > MAX_HELD_BYTES:
                raise HttpError(503, "too many answers wait to be read; try again in a second")
        except BaseException:
            self._traffic.predictions -= 1
            raise
        finally:
            self._waiting -= 1
            self._metrics.waiting.dec()
        self._metrics.seconds.labels(answer.signature).observe(time.monotonic() - started)
        self._metrics.texts.labels(answer.signature).inc(answer.texts)
        self._answer_bytes += held
        headers = {**_HEADERS, "x-model-version": str(version.number)}
        return _AnswerResponse(answer.body, headers=headers, sent=lambda: self._sent(held))

    def _sent(self, held: int) -> None:
        self._answer_bytes -= held
        self._traffic.predictions -= 1

    def _check_not_stopping(self) -> None:
        if self._traffic.stopping:
            raise HttpError(503, "the server is stopping")

    async def _ask(
        self, request: Request, rest: str, body: bytearray
    ) -> tuple[ModelProcess, Answer]:
        """Asks the model; gives up after the time limit, or when the client has gone.

        Raises:
          HttpError: there is no such version, or no answer.
        """
        version, asked = self._pass_on(rest, body)
        answer = asyncio.wrap_future(asked)
        gone = asyncio.ensure_future(_wait_until_gone(request))
        try:
            events: set[asyncio.Future[Any]] = {answer, gone}
            done, _ = await asyncio.wait(
                events,
                timeout=self._request_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answer in done:
                return version, answer.result()
        except ProcessEndedError:
            raise HttpError(503, "the model's process has ended; it is started again") from None
        finally:  # ends the work, if there still is some
            answer.cancel()
            gone.cancel()
        if done:
            raise HttpError(400, "the connection was closed")
        raise HttpError(
            504,
            f"the answer took more than {self._request_seconds:g} s (--request-seconds); "
            "send fewer or shorter texts",
        )

    def _pass_on(self, rest: str, body: bytearray) -> tuple[ModelProcess, Future[Answer]]:
        while True:
            _, version = self._find(rest)  # again: it may have changed while the body arrived
            try:
                return version, version.ask(bytes(body))
            except ProcessEndedError:
                if version is self._find(rest)[1]:  # else it was replaced a moment ago
                    problem = "the model's process has ended; it is started again"
                    raise HttpError(503, problem) from None

    async def refuse_http(self, request: Request, error: Exception) -> Response:
        """Answers a request with an unknown URL or method."""
        status = error.status_code if isinstance(error, HTTPException) else 400
        self._metrics.requests.labels("other", status).inc()
        return self._json({"error": "no such address or method"}, status=status)

    async def fail(self, request: Request, error: Exception) -> Response:
        """Answers after an unexpected error, which the server logs."""
        self._metrics.requests.labels("other", 500).inc()
        return self._json({"error": "the server failed; see its log"}, status=500)

    @staticmethod
    def _json(content: Any, version: ModelProcess | None = None, status: int = 200) -> Response:
        headers = dict(_HEADERS)
        if version is not None:
            headers["x-model-version"] = str(version.number)
        return JSONResponse(content, status, headers=headers)


class _AnswerResponse(Response):
    """An answer that is handed over block by block, as the client reads it."""

    media_type = "application/json"

    def __init__(self, body: bytes, *, headers: Mapping[str, str], sent: Callable[[], None]):
        """Takes the answer; calls `sent` once it has been sent or given up."""
        super().__init__(body, headers=headers)
        self._sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer; leaves it incomplete if the client takes too long to read it."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start", **start})
                for at in range(0, len(self.body), _BLOCK):
                    block = bytes(self.body[at : at + _BLOCK])
                    await send({"type": "http.response.body", "body": block, "more_body": True})
                    await asyncio.sleep(0)  # others' turn; a lost connection is noticed then
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            log.warning("an answer was not read within %.0f s", ANSWER_SECONDS)
        finally:
            self._sent()


async def _wait_until_gone(request: Request) -> None:
    """Waits until the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)


def _status(version: ModelProcess) -> dict[str, Any]:
    status = {"error_code": "OK", "error_message": ""}
    row = {"version": str(version.number), "state": "AVAILABLE", "status": status}
    return {"model_version_status": [row]}


def _describe(name: str, version: ModelProcess) -> dict[str, Any]:
    signatures = {
        signature: {
            "inputs": _describe_tensors(version.inputs(signature)),
            "outputs": _describe_tensors(version.outputs(signature)),
            "method_name": "tensorflow/serving/predict",
        }
        for signature in version.signatures
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version.number)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _describe_tensors(specs: dict[str, TensorInfo]) -> dict[str, Any]:
    return {
        name: {
            "dtype": _TYPES.get(spec.dtype, spec.dtype),
            "tensor_shape": {
                "dim": [{"size": "-1", "name": ""} for _ in spec.shape],
                "unknown_rank": False,
            },
        }
        for name, spec in specs.items()
    }
