"""S3 objects, through Beam's S3 client (extra `aws`).

Beam's file system creates a client for every file it opens, which takes longer than reading a small
file. Here each thread has one client. boto3 tries a look-up up to 5 times (`AWS_MAX_ATTEMPTS`), and
Beam retries a read for several minutes.
"""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Iterator
from typing import Any, cast

from apache_beam.io.aws.clients.s3 import boto3_client, messages
from apache_beam.io.aws.s3io import parse_s3_path
from apache_beam.io.filesystemio import Downloader, DownloaderStream
from botocore.exceptions import BotoCoreError, ConnectionError, HTTPClientError

from components.preprocess.sources.types import ListedFile, UnsteadyError

S3ClientError = messages.S3ClientError


class S3Store:
    """The objects that a client may read."""

    def __init__(self, options: Any):
        """Takes Beam's `PipelineOptions`; its `S3Options` override the environment."""
        self._client = boto3_client.Client(options)

    def list(self, prefix: str) -> Iterator[ListedFile]:
        """Yields the objects whose addresses start with `prefix`.

        Raises:
          PermissionError: there are no credentials.
          UnsteadyError: the store can't be reached.
          S3ClientError: the store refuses.
        """
        bucket, key = parse_s3_path(prefix, object_optional=True)
        request = messages.ListRequest(bucket=bucket, prefix=key)
        while True:
            try:
                with _refusing():
                    page = self._client.list(request)
            except S3ClientError as error:
                if error.code == 404 and "NoSuchBucket" not in str(error.message):
                    return  # Beam's client reports an empty listing this way
                raise
            for item in page.items:
                yield _as_listed(f"s3://{bucket}/{item.key}", item)
            if not page.next_token:
                return
            request.continuation_token = page.next_token

    def look_up(self, path: str) -> ListedFile | None:
        """Returns one object; None if it does not exist.

        Raises:
          PermissionError: there are no credentials.
          UnsteadyError: the store can't be reached.
          S3ClientError: the store refuses.
        """
        try:
            with _refusing():
                item = self._client.get_object_metadata(messages.GetRequest(*parse_s3_path(path)))
        except S3ClientError as error:
            if error.code == 404:
                return None
            if error.code in (400, 403):  # an answer to HEAD has no reason, one to GET has
                with _refusing():
                    self._client.get_stream(messages.GetRequest(*parse_s3_path(path)), 0).close()
            raise
        return _as_listed(path, item)

    def open(self, found: ListedFile) -> io.RawIOBase:
        """Returns an object's bytes as a stream, with one request for sequential reads."""
        return cast("io.RawIOBase", DownloaderStream(_Object(self._client, found)))


class _Object(Downloader):
    """Byte ranges of an object."""

    def __init__(self, client: Any, found: ListedFile):
        self._client = client
        self._request = messages.GetRequest(*parse_s3_path(found.path))
        self._size = found.size
        self._begun = False

    @property
    def size(self) -> int:
        return self._size

    def get_range(self, start: int, end: int) -> bytes:
        if not self._begun:
            self._begin(start)
        return cast("bytes", self._client.get_range(self._request, start, end))

    def _begin(self, start: int) -> None:
        """Starts the request that `get_range` continues.

        `get_range` itself would retry for minutes without credentials.
        """
        self._begun = True
        with contextlib.suppress(S3ClientError, UnsteadyError), _refusing():
            self._client.get_stream(self._request, start)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Raises PermissionError where boto3 itself refuses, and UnsteadyError if nobody answers."""
    try:
        yield
    except S3ClientError as error:
        cause = error.__context__
        if isinstance(cause, ConnectionError | HTTPClientError):
            raise UnsteadyError(str(cause)) from None
        if isinstance(cause, BotoCoreError):
            raise PermissionError(errno.EACCES, str(cause)) from None
        raise


def _as_listed(path: str, item: Any) -> ListedFile:
    # A look-up returns whole seconds; in some stores a listing returns fractions.
    return ListedFile(path, int(item.size), int(item.last_modified.timestamp()) * 10**9)
