"""Files of object stores (`s3://`, `gs://`, ...), through Beam's file systems.

A store has names, not folders. So all names with a pattern's fixed prefix are listed and then
matched as `glob` matches local files: the same names give the same corpus.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, cast

from components.preprocess.beam_setup import quiet_beam, quiet_import
from components.preprocess.sources.types import GONE, ChangedError, ListedFile, UnsteadyError
from model.errors import CharloomError, InputError, RestartableError
from model.files import COMPLETED_FILE

with quiet_import():
    from apache_beam.io.filesystem import BeamIOError, CompressionTypes
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

BUFFER_BYTES = 1 << 20
"""Minimum read size; Beam's own readers take 16 MiB, twice the size of a block."""

_ADDRESS = re.compile(r"([a-zA-Z][\w+.-]*)://([^/]+)(?:/(.*))?", re.DOTALL)
_MAGIC = re.compile(r"[*?[]")
_NEEDS = {"s3": "boto3", "gs": "google-auth-httplib2", "az": "'apache-beam[azure]'"}
_BUSY = (408, 429)
_PASSING = re.compile(
    r"\b(Expired\w*|RequestExpired|TokenRefreshRequired|RequestTimeout\w*|RequestTimeTooSkewed|"
    r"SlowDown|OperationAborted|Throttl\w*)\b"
)
"""Names of errors that pass, or that new credentials end, whatever their HTTP status."""


class Store(Protocol):
    """Operations needed from an object store."""

    def list(self, prefix: str) -> Iterable[ListedFile]:
        """Yields the files whose addresses start with `prefix`."""

    def look_up(self, path: str) -> ListedFile | None:
        """Returns one file; None if it does not exist."""

    def open(self, found: ListedFile) -> io.RawIOBase:
        """Opens a file, as stored."""


def match(pattern: str) -> list[ListedFile]:
    """Returns the files that a pattern, folder or path matches, as for local ones.

    Raises:
      InputError: the address is invalid, or the store refuses to list it.
      RestartableError: the store is busy or out of reach, or the credentials have expired.
    """
    address = _ADDRESS.fullmatch(pattern)
    if not address or _MAGIC.search(address[2]):
        raise InputError(
            f"{pattern!r} is not an address of files in a bucket; write it as s3://bucket/folder/*.txt"
        )
    if not address[3]:
        pattern = f"{address[1]}://{address[2]}/"
    try:
        with quiet_beam():
            return list(_match(_store(pattern), pattern))
    except CharloomError:
        raise
    except Exception as error:
        raise _refusal(pattern, address, error) from None


def _match(store: Store, pattern: str) -> Iterator[ListedFile]:
    folder = pattern.endswith("/")
    if not _MAGIC.search(pattern):
        one = None if folder else store.look_up(pattern)
        if one:
            yield one
            return
        pattern, folder = f"{pattern.rstrip('/')}/", True
    prefix = _MAGIC.split(pattern, maxsplit=1)[0]
    parts = pattern.removesuffix("/").split("/") + ["**"] * folder
    listed = [file for file in store.list(prefix) if not file.path.endswith("/")]
    marker = f"/{COMPLETED_FILE}"
    made = {file.path.removesuffix(marker) for file in listed if file.path.endswith(marker)}
    if made:  # made by charloom: not text
        begins = tuple(f"{folder}/" for folder in made)
        listed = [file for file in listed if not file.path.startswith(begins)]
    exact = [file for file in listed if file.path == pattern]  # a name with pattern characters
    yield from exact or (file for file in listed if _matches(file.path.split("/"), parts))


def _matches(names: list[str], parts: list[str]) -> bool:
    """Returns whether a pattern's parts match a path or one of its parent folders."""
    if not parts:
        return not any(name.startswith(".") for name in names)
    if not names:
        return False
    name, part = names[0], parts[0]
    hidden = name.startswith(".") and not part.startswith(".")
    if part == "**":
        return _matches(names, parts[1:]) or (not hidden and _matches(names[1:], parts))
    fits = not hidden and fnmatch.fnmatchcase(name, part) if _MAGIC.search(part) else name == part
    return fits and _matches(names[1:], parts[1:])


class RemoteFile(io.RawIOBase):
    """A file of a store, open for reading as stored.

    Raises:
      UnsteadyError: when opening or reading: another attempt may succeed, or it has changed.
      OSError: it can't be read.
    """

    def __init__(self, path: str, *, size: int, modified: int | None):
        """Opens an address; size and modification time are those of `open_file`."""
        self._path = path
        self._store = _store(path)
        listed = self._look_up() if modified is None else ListedFile(path, size, modified)
        self._listed = listed
        self._stream = self._try(lambda: self._store.open(listed))

    def readinto(self, buffer: Any) -> int:
        """Reads more bytes; returns their number, 0 at the end."""
        if self.tell() >= self._listed.size:  # some stores fail on reads after the end
            return 0
        return int(self._try(lambda: self._stream.readinto(buffer)))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seeks to an offset."""
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        """Returns the current offset."""
        return int(self._stream.tell())

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            self._stream.close()
        super().close()

    def check_unchanged(self) -> None:
        """Raises ChangedError if the file has changed since it was listed."""
        now, listed = self._look_up(), self._listed
        ChangedError.check(listed=(listed.size, listed.modified), now=(now.size, now.modified))

    def _look_up(self) -> ListedFile:
        found = self._try(lambda: self._store.look_up(self._path))
        if found is None:
            raise ChangedError(GONE)
        return cast("ListedFile", found)

    def _try(self, act: Any) -> Any:
        try:
            return act()
        except UnsteadyError:
            raise
        except Exception as error:
            raise _as_os_error(error) from None


class _BeamStore:
    """Any store, through Beam's file system for it."""

    def __init__(self, path: str):
        if path.startswith("gs://"):
            import google_auth_httplib2  # noqa: F401 (without it Beam reads public buckets only)
        self._system = FileSystems.get_filesystem(path)

    def list(self, prefix: str) -> Iterator[ListedFile]:
        (result,) = self._system.match([f"{prefix}**"])
        return map(_as_listed, result.metadata_list)

    def look_up(self, path: str) -> ListedFile | None:
        try:
            return _as_listed(self._system.metadata(path))
        except BeamIOError as error:
            if _describe(error)[0] == 404:
                return None
            raise

    def open(self, found: ListedFile) -> io.RawIOBase:
        opened = self._system.open(found.path, compression_type=CompressionTypes.UNCOMPRESSED)
        return cast("io.RawIOBase", opened)


def _as_listed(metadata: Any) -> ListedFile:
    modified = round(metadata.last_updated_in_seconds * 1e9)
    return ListedFile(metadata.path, int(metadata.size_in_bytes), modified)


_of_thread = threading.local()


def _store(path: str) -> Store:
    """Returns the store for an address; S3's is cached, as Beam's client is slow to create."""
    if FileSystems._pipeline_options is None:  # no pipeline has set them yet
        FileSystems.set_options(PipelineOptions([]))
    if not path.startswith("s3://"):
        return _BeamStore(path)
    options = FileSystems._pipeline_options
    if getattr(_of_thread, "options", None) is not options:
        from components.preprocess.sources.s3 import S3Store  # boto3 is optional

        _of_thread.s3, _of_thread.options = S3Store(options), options
    return cast("Store", _of_thread.s3)


def _refusal(pattern: str, address: re.Match[str], error: Exception) -> CharloomError:
    scheme, bucket = address[1], address[2]
    code, text = _describe(error)
    cause = _unwrap(error)
    if isinstance(error, ImportError) or "Unable to get filesystem" in text:
        if scheme not in _NEEDS:
            return InputError(f"{pattern}: {scheme}:// can't be read; copy the text to a folder")
        return InputError(
            f"{pattern}: support for {scheme}:// is not installed; pip install {_NEEDS[scheme]}"
        )
    if code == 404:
        return InputError(f"{pattern}: there is no bucket {bucket}; check the address")
    if code is not None and _passes(code, text):
        advice = "renew the credentials and run it again" if "Expired" in text else "run it again"
        return RestartableError(f"{pattern} can't be listed for now ({text}); {advice}")
    if code is not None:
        return InputError(
            f"{pattern} can't be listed ({text}); check the address, and what the credentials allow"
        )
    if isinstance(cause, OSError) and not isinstance(cause, PermissionError):
        return RestartableError(
            f"{pattern} can't be listed for now ({text}); check the endpoint, or run it again"
        )
    return InputError(f"{pattern} can't be listed ({text}); check the endpoint and the credentials")


def _as_os_error(error: Exception) -> OSError:
    if isinstance(error, PermissionError):
        return error
    code, text = _describe(error)
    if code in (404, 416):
        return ChangedError(GONE if code == 404 else "it has become shorter")
    # A file that could be listed: S3 refuses with 400 once a token has expired.
    if code is None or code == 400 or _passes(code, text):
        return UnsteadyError(text)
    if code in (401, 403):
        return PermissionError(errno.EACCES, text)
    return OSError(errno.EIO, text)


def _passes(code: int, text: str) -> bool:
    """Returns whether another attempt may succeed."""
    return code >= 500 or code in _BUSY or bool(_PASSING.search(text))


def _unwrap(error: Exception) -> Exception:
    """Returns the error that Beam's file system has wrapped."""
    while isinstance(error, BeamIOError) and error.exception_details:
        error = next(iter(error.exception_details.values()))
    return error


def _describe(error: Exception) -> tuple[int | None, str]:
    """Returns an error's HTTP status, if any, and its message in one line."""
    error = _unwrap(error)
    code = getattr(error, "code", None)
    if isinstance(error, FileNotFoundError):
        code = 404
    text = getattr(error, "message", None) or getattr(error, "strerror", None) or error
    return (code if isinstance(code, int) else None), " ".join(str(text).split())[:200]
