"""The HTTP server: TensorFlow Serving's REST API, health, metrics, and a page to try a model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from components.serve.access import AccessMiddleware, AccessRules
from components.serve.follower import ChampionFollower
from components.serve.loaded import InputSpec, LoadedVersion
from components.serve.metrics import Metrics
from components.serve.requests import HttpError, Question, format_answer, parse_question

MAX_BODY_BYTES = 1 << 20
BODY_SECONDS = 10.0
"""Maximum time for receiving a request's body."""
MAX_WAITING = 512
"""Maximum number of requests waiting or being computed; further ones get status 503."""
PAGE_FILES = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
_MODEL = re.compile(
    r"(?P<name>[^/:]+)(/versions/(?P<version>[^/:]+))?(?P<verb>:predict|/metadata)?"
)
_TYPES = {"string": "DT_STRING", "float32": "DT_FLOAT", "int32": "DT_INT32", "int64": "DT_INT64"}


def make_app(
    follower: ChampionFollower, metrics: Metrics, *, threads: int, rules: AccessRules
) -> Starlette:
    """Returns the application.

    Args:
      follower: determines the version to serve.
      metrics: receives the counts.
      threads: number of requests computed at the same time.
      rules: which web pages may use it.
    """
    server = _Server(follower, metrics, threads=threads)
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
    def __init__(self, follower: ChampionFollower, metrics: Metrics, *, threads: int):
        self._follower = follower
        self._metrics = metrics
        self._waiting = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Follows the champion while the server runs."""
        self._follower.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._follower.stop)
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def page(self, request: Request) -> Response:
        """Serves a file of the page."""
        folder = os.path.join(os.path.dirname(__file__), "page")
        return FileResponse(os.path.join(folder, PAGE_FILES[request.url.path]), headers=_HEADERS)

    async def health(self, _: Request) -> Response:
        """Reports that the server is up; it listens only once a model is loaded."""
        return self._json({"status": "ok", "version": self._follower.current.number})

    async def ready(self, _: Request) -> Response:
        """Reports the served version and the champion; ready even with an older version."""
        return self._json(self._follower.state())

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
                response = await self._predict(request, rest)
            elif verb == "/metadata":
                response = self._json(_describe(self._follower.name, version), version)
            else:
                response = self._json(_status(version), version)
        except HttpError as error:
            response = self._json({"error": str(error)}, status=error.status)
            if error.status in (408, 413):  # the rest of the body was not read
                response.headers["connection"] = "close"
            if error.status == 503:
                response.headers["retry-after"] = "1"
        self._metrics.requests.labels(kind, response.status_code).inc()
        return response

    def _find(self, rest: str) -> tuple[str, LoadedVersion]:
        """Returns the verb of a URL and the version it names.

        Raises:
          HttpError: there is no such URL, model or version.
        """
        found = _MODEL.fullmatch(rest)
        if not found:
            raise HttpError(404, "no such address; see /v1/models")
        if found["name"] != self._follower.name:
            raise HttpError(404, f"no such model; the model is {self._follower.name}")
        version: LoadedVersion | None = self._follower.current
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
        body = await _read_body(request)
        if self._waiting >= MAX_WAITING:
            raise HttpError(503, "too many requests are waiting; try again in a second")
        _, version = self._find(rest)  # again: the champion may have changed while the body arrived
        self._waiting += 1
        self._metrics.waiting.inc()
        started = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            question, answer = await loop.run_in_executor(self._pool, _answer, version, body)
        finally:
            self._waiting -= 1
            self._metrics.waiting.dec()
        self._metrics.seconds.labels(question.signature).observe(time.monotonic() - started)
        self._metrics.texts.labels(question.signature).inc(question.size)
        return Response(
            answer,
            media_type="application/json",
            headers={**_HEADERS, "x-model-version": str(version.number)},
        )

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
    def _json(content: Any, version: LoadedVersion | None = None, status: int = 200) -> Response:
        headers = dict(_HEADERS)
        if version is not None:
            headers["x-model-version"] = str(version.number)
        return JSONResponse(content, status, headers=headers)


async def _read_body(request: Request) -> bytes:
    """Returns the body of a request.

    Raises:
      HttpError: it is too large, or takes too long to arrive.
    """
    parts, size = [], 0
    too_large = HttpError(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise too_large
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise HttpError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise HttpError(400, "the connection was closed") from None
    return b"".join(parts)


def _answer(version: LoadedVersion, body: bytes) -> tuple[Question, bytes]:
    """Parses and answers a request; runs in a thread, as both may take a while."""
    question = parse_question(body, version)
    answer = format_answer(question, version.ask(question.signature, question.inputs))
    return question, json.dumps(answer, ensure_ascii=False).encode()


def _status(version: LoadedVersion) -> dict[str, Any]:
    status = {"error_code": "OK", "error_message": ""}
    row = {"version": str(version.number), "state": "AVAILABLE", "status": status}
    return {"model_version_status": [row]}


def _describe(name: str, version: LoadedVersion) -> dict[str, Any]:
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


def _describe_tensors(specs: dict[str, InputSpec]) -> dict[str, Any]:
    return {
        name: {
            "dtype": _TYPES.get(spec.dtype.name, spec.dtype.name),
            "tensor_shape": {
                "dim": [{"size": "-1", "name": ""} for _ in range(spec.rank)],
                "unknown_rank": False,
            },
        }
        for name, spec in specs.items()
    }
