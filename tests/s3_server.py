"""moto's S3 server in a process of its own, which writes down each request: `run_s3_server`.

As a program: `python s3_server.py LOG FAULTS`. It prints the port that it listens on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

BUCKET = "corpus"


@dataclasses.dataclass(frozen=True)
class S3Server:
    """A server that answers."""

    url: str
    log: Path
    faults: Path

    @property
    def environment(self) -> dict[str, str]:
        """What leads boto3, and so Beam, to this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """Returns a client of boto3."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def put(self, key: str, data: bytes, bucket: str = BUCKET) -> str:
        """Stores an object, in a bucket that is made where there is none; returns its address."""
        client = self.client()
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key=key, Body=data)
        return f"s3://{bucket}/{key}"

    def put_folder(self, folder: Path, bucket: str = BUCKET, prefix: str = "") -> str:
        """Stores all files below a folder under the same names; returns the folder's address."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}{path.relative_to(folder)}", path.read_bytes(), bucket)
        return f"s3://{bucket}/{prefix}".rstrip("/")

    def delete(self, key: str, bucket: str = BUCKET) -> None:
        """Removes an object."""
        self.client().delete_object(Bucket=bucket, Key=key)

    def requests(self) -> list[tuple[str, str, str]]:
        """Returns method, path and range of the requests since the last call."""
        rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        self.log.write_text("")
        return [(method, path, span) for method, path, span in rows]

    def fail(self, method: str, path: str, action: str, times: int = 1) -> None:
        """Lets something happen to the next requests of a method for a path, without its query.

        Args:
          method: of HTTP; `*`: any.
          path: `/bucket/key`, or `/bucket` for a list; `*`: any.
          action: `cut` ends the connection half way; a status such as `503` is all that is
            answered; `400 NAME` answers with the body of an error of that name, but to HEAD; `delete KEY` and `replace KEY` are done after the answer.
          times: to so many of them.
        """
        self.faults.write_text(json.dumps([method, path, action, times]))


@contextlib.contextmanager
def run_s3_server(folder: Path) -> Iterator[S3Server]:
    """Starts a server on a free port, gives it when it listens, and stops it at the end."""
    log, faults = folder / "requests.log", folder / "fault.json"
    log.write_text("")
    process = subprocess.Popen(
        [sys.executable, __file__, str(log), str(faults)],
        env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "4"},  # lists of more have several pages
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        port = process.stdout.readline().strip()
        assert port.isdecimal(), f"no S3 server: it ended with {process.wait()}"
        yield S3Server(f"http://127.0.0.1:{port}", log, faults)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def serve(log: str, faults: str) -> None:
    """Serves S3 until it is killed."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)

    def logged(environment: dict[str, Any], start: Any) -> Iterator[bytes]:
        method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        query = environment.get("QUERY_STRING")
        shown = f"{path}?{query}" if query else path
        with open(log, "a") as file:
            file.write(json.dumps([method, shown, environment.get("HTTP_RANGE", "")]) + "\n")
        action = _take_fault(faults, method, path)
        status, _, name = action.partition(" ")
        if status.isdecimal():
            said = f"<Error><Code>{name}</Code><Message>Said so.</Message></Error>" if name else ""
            answer = b"" if method == "HEAD" else said.encode()
            start(f"{status} Fault", [("Content-Length", str(len(answer)))])
            yield answer
            return
        body = b"".join(application(environment, start))
        yield body[: len(body) // 2] if action == "cut" else body
        if action == "cut":
            raise ConnectionAbortedError
        verb, _, key = action.partition(" ")
        store = S3Server(f"http://127.0.0.1:{server.port}", Path(log), Path(faults))
        if verb == "delete":
            store.delete(key)
        elif verb == "replace":
            store.put(key, b"Other words.\n")

    server = make_server("127.0.0.1", 0, logged, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


def _take_fault(faults: str, method: str, path: str) -> str:
    """Returns the action for a request; empty if there is none."""
    try:
        with open(faults) as file:
            wanted = json.load(file)
    except FileNotFoundError:
        return ""
    if wanted[0] not in ("*", method) or wanted[1] not in ("*", path):
        return ""
    if wanted[3] == 1:
        os.remove(faults)
    else:
        Path(faults).write_text(json.dumps([*wanted[:3], wanted[3] - 1]))
    return str(wanted[2])


if __name__ == "__main__":
    serve(*sys.argv[1:])
