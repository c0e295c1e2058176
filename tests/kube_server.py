"""A stand-in for a Kubernetes API server: real HTTP, the paths of the launcher, and faults."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import re
import socket
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kube_store import KINDS, RefusedError, Store, apply_json_patch, merge

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<part>status|log))?)?"
)
_ANY = ("429", "500", "500 after", "503", "drop", "drop after", "401")
FAULTS = {"log": ("cut", "cut clean")}
"""Faults that only some requests may have, besides those that all may have."""


class Faults:
    """What goes wrong: by chance from a seed, or as a test says."""

    def __init__(self, seed: int = 0, *, share: float = 0.0, most: int = 30):
        """Plans faults.

        Args:
          seed: of chance.
          share: of requests that have a fault.
          most: so many at most, so that there is an end.
        """
        self._random = random.Random(seed)
        self._share = share
        self._left = most
        self._lock = threading.Lock()
        self.planned: list[tuple[str, str]] = []
        """Verb, as in `create jobsets`, and fault, for the next request of that verb."""
        self.always: dict[str, str] = {}
        """Verb and fault of every request."""
        self.seen: Counter[str] = Counter()

    def of(self, verb: str) -> str:
        """Returns the fault that a request shall have, or nothing."""
        with self._lock:
            for number, (wanted, fault) in enumerate(self.planned):
                if wanted == verb:
                    del self.planned[number]
                    self.seen[fault] += 1
                    return fault
            if verb in self.always:
                return self.always[verb]
            if self._left and self._random.random() < self._share:
                self._left -= 1
                fault = self._random.choice(_ANY + FAULTS.get(verb.split()[0], ()))
                self.seen[fault] += 1
                return fault
        return ""

    def number(self, most: int) -> int:
        with self._lock:
            return self._random.randrange(most)


class KubeServer:
    """A server with a store, a token and faults; serves as long as its context."""

    def __init__(self, folder: Path, *, faults: Faults | None = None, retry_after: str = "1"):
        """Is ready to serve.

        Args:
          folder: of kubeconfig and token.
          faults: what goes wrong.
          retry_after: seconds that an answer 429 asks for.
        """
        self.store = Store()
        self.faults = faults or Faults()
        self.retry_after = retry_after
        self.requests: list[str] = []
        """Verb and kind of each, as in `create jobsets`, in the order of arrival."""
        self.on_request: Callable[[int, str], None] = lambda number, verb: None
        self.closing = threading.Event()
        self._token_file = folder / "token"
        self._serial = 0
        self._rotation = threading.Lock()
        self.rotate_token()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.kube = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.kubeconfig = folder / "kubeconfig"
        named = {
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"tokenFile": str(self._token_file)}}],
            "contexts": [{
                "name": "it",
                "context": {"cluster": "here", "user": "me", "namespace": self.store.namespace},
            }],
        }  # fmt: skip
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "it"} | named
        self.kubeconfig.write_text(json.dumps(config), encoding="utf-8")

    def rotate_token(self) -> None:
        """Refuses the token of before from now on; the file has the new one, and is never half."""
        with self._rotation:  # of two at a time the file could keep the older one
            self._serial += 1
            self.token = f"token-{self._serial}"
            part = self._token_file.with_suffix(".part")
            part.write_text(self.token, encoding="utf-8")
            part.replace(self._token_file)

    def __enter__(self) -> KubeServer:
        serve = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        serve.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.closing.set()
        with self.store.changed:
            self.store.changed.notify_all()
        self._http.shutdown()
        self._http.server_close()


class _CutError(Exception):
    """The connection is to be closed here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *unused: object) -> None:
        """Says nothing."""

    def _serve(self) -> None:
        self.kube: KubeServer = self.server.kube  # type: ignore[attr-defined]
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        path, _, query = self.path.partition("?")
        self.query = dict(urllib.parse.parse_qsl(query))
        try:
            try:
                self._answer(path, content)
            except RefusedError as refused:
                headers = {"Retry-After": self.kube.retry_after} if refused.code == 429 else {}
                self._send(refused.code, refused.status, headers)
        except (_CutError, ConnectionError):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _answer(self, path: str, content: bytes) -> None:
        found = _PATH.fullmatch(path)
        where = found.groupdict() if found else {}
        plural, name = where.get("plural"), where.get("name")
        group = where.get("core") or where.get("group")
        if plural not in KINDS or KINDS[plural][1] != group:
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        verb = self._verb(where)
        kube = self.kube
        kube.requests.append(f"{verb} {plural}")
        fault = kube.faults.of(f"{verb} {plural}")
        kube.on_request(len(kube.requests), f"{verb} {plural}")
        if fault == "401":
            kube.rotate_token()
        if self.headers.get("Authorization") != f"Bearer {kube.token}":
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        _fail(fault)
        if where["namespace"] != kube.store.namespace:
            raise RefusedError(404, "NotFound", f'namespaces "{where["namespace"]}" not found')
        if verb == "log":
            pod = kube.store.get("pods", str(name))
            if fault == "cut clean" and pod.get("status", {}).get("phase") != "Running":
                fault = ""  # a kubelet is lost while its pods run
            self._stream("text/plain", _log(kube, str(name), self.query, fault), fault)
        else:
            code, answer = self._change(verb, plural, name, content, where["part"])
            _fail(fault.removesuffix(" after") if fault.endswith(" after") else "")
            self._send(code, answer, {})

    def _verb(self, where: Mapping[str, Any]) -> str:
        if where["part"] == "log":
            return "log"
        if self.command == "GET" and not where["name"]:
            return "list"
        names = {"GET": "get", "POST": "create", "PUT": "replace", "PATCH": "patch"}
        verb = names.get(self.command, "delete")
        if (verb == "create") == bool(where["name"]):
            raise RefusedError(405, "MethodNotAllowed", "the server does not allow this method")
        return verb

    def _change(
        self, verb: str, plural: str, name: Any, content: bytes, part: str | None
    ) -> tuple[int, dict[str, Any]]:
        store = self.kube.store
        body = json.loads(content) if content else {}
        if verb == "create":
            return 201, store.create(plural, body)
        if verb == "get":
            return 200, store.get(plural, name)
        if verb == "list":
            items, version = store.list(plural, _selector(self.query))
            kind, group = KINDS[plural]
            metadata = {"resourceVersion": str(version)}
            answer = {"kind": f"{kind}List", "apiVersion": group, "metadata": metadata}
            return 200, answer | {"items": items}
        if verb == "delete":
            options = {"propagationPolicy": self.query.get("propagationPolicy")} | body
            gone = store.delete(plural, name, options)
            if plural == "pods" or "deletionTimestamp" in gone["metadata"]:
                return 200, gone
            details = {"name": name, "kind": plural, "uid": gone["metadata"]["uid"]}
            status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
            return 200, status | {"details": details}
        if verb == "replace" and not body.get("metadata", {}).get("resourceVersion"):
            text = "metadata.resourceVersion: Invalid value: must be specified for an update"
            raise RefusedError(422, "Invalid", text)
        make = self._patch(body) if verb == "patch" else lambda before: body
        return 200, store.change(plural, name, make, status=part == "status")

    def _patch(self, body: Any) -> Callable[[dict[str, Any]], Any]:
        kind = (self.headers.get("Content-Type") or "").partition(";")[0]
        if kind == "application/merge-patch+json" and isinstance(body, dict):
            return lambda before: merge(before, body)
        if kind == "application/json-patch+json" and isinstance(body, list):
            return lambda before: apply_json_patch(before, body)
        if kind in ("application/merge-patch+json", "application/json-patch+json"):
            raise RefusedError(400, "BadRequest", "cannot unmarshal the patch")
        raise RefusedError(415, "UnsupportedMediaType", f"{kind} is not supported")

    def _send(self, code: int, answer: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        content = json.dumps(answer).encode()
        lines = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        self.wfile.write(_head(code, lines | dict(headers)) + content)

    def _stream(self, kind: str, blocks: Iterator[bytes], fault: str) -> None:
        """Sends lines in chunks; with a cut, ends in the middle of one of the first ones."""
        cut_at = self.kube.faults.number(4) if fault.startswith("cut") else -1
        first = next(blocks)  # a refusal is an answer of its own
        self.wfile.write(_head(200, {"Content-Type": kind, "Transfer-Encoding": "chunked"}))
        number = 0
        while True:
            if first:
                if number == cut_at:
                    first = first[: 1 + self.kube.faults.number(len(first) - 1)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(first), first))
                if number == cut_at:
                    break
                number += 1
            try:
                first = next(blocks)
            except StopIteration:
                cut_at = -1
                break
        if cut_at >= 0 and fault == "cut":
            raise _CutError
        self.wfile.write(b"0\r\n\r\n")


def _head(code: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {code} {BaseHTTPRequestHandler.responses[code][0]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def _is_true(query: Mapping[str, str], name: str) -> bool:
    return query.get(name) in ("1", "t", "T", "true", "True", "TRUE")  # as Go reads it


def _fail(fault: str) -> None:
    if fault == "drop":
        raise _CutError
    if fault == "403":
        raise RefusedError(403, "Forbidden", "User system:serviceaccount:lm:it cannot do this")
    if fault == "429":
        raise RefusedError(429, "TooManyRequests", "please try again later", retryAfterSeconds=1)
    if fault == "500":
        raise RefusedError(
            500, "InternalError", "Internal error occurred: etcdserver: leader changed"
        )
    if fault == "503":
        raise RefusedError(503, "ServiceUnavailable", "the server is currently unable to handle it")


def _selector(query: Mapping[str, str]) -> Callable[[Mapping[str, Any]], bool]:
    fields = [one.split("=", 1) for one in query.get("fieldSelector", "").split(",") if one]
    labels = [one.split("=", 1) for one in query.get("labelSelector", "").split(",") if one]
    for field in fields:
        if field[0] not in ("metadata.name", "metadata.namespace") or len(field) != 2:
            raise RefusedError(400, "BadRequest", f"field label not supported: {field[0]}")

    def matches(item: Mapping[str, Any]) -> bool:
        metadata = item["metadata"]
        has = metadata.get("labels") or {}
        named = all(metadata[key.removeprefix("metadata.")] == value for key, value in fields)
        return named and all(has.get(key) == value for key, value in labels)

    return matches


def _log(kube: KubeServer, name: str, query: Mapping[str, str], fault: str) -> Iterator[bytes]:
    """Yields the lines of a pod's log; while it is followed, until the pod has ended."""
    store = kube.store
    pod = store.get("pods", name)
    uid = pod["metadata"]["uid"]
    if pod.get("status", {}).get("phase", "Pending") == "Pending":
        text = f'container "worker" in pod "{name}" is waiting to start: ContainerCreating'
        raise RefusedError(400, "BadRequest", text)
    done = max(0, len(store.logs.get(uid, ())) - int(query.get("tailLines", 10**9)))
    stamps, since = _is_true(query, "timestamps"), ""
    if "sinceSeconds" in query:
        age = datetime.timedelta(seconds=int(query["sinceSeconds"]))
        since = f"{datetime.datetime.now(datetime.UTC) - age:%Y-%m-%dT%H:%M:%SZ}"
    while True:
        with store.changed:
            lines = store.logs.get(uid, [])[done:]
            found = store.objects.get(("pods", name), {})
            running = found.get("status", {}).get("phase") == "Running"
            follows = _is_true(query, "follow") and running
            if not lines and follows:
                store.changed.wait(0.05)
        done += len(lines)
        for stamp, text in lines:
            if _as_time(stamp) >= _as_time(since):
                yield (f"{stamp} {text}\n" if stamps else f"{text}\n").encode()
        yield b""
        if (not follows and not lines) or kube.closing.is_set():
            return


def _as_time(stamp: str) -> tuple[str, str]:
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")
