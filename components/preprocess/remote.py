"""Files of object stores (`gs://`, `s3://`, ...), through Beam's file systems."""

from __future__ import annotations

from typing import BinaryIO, cast

from components.preprocess.runner import quiet_import
from model.errors import InputError

with quiet_import():
    from apache_beam.io.filesystem import BeamIOError, CompressionTypes
    from apache_beam.io.filesystems import FileSystems

_EXTRAS = {"s3": "aws", "gs": "gcp", "az": "azure"}


def match(pattern: str) -> list[tuple[str, int]]:
    """Returns path and size of the files that a pattern, a folder or a path names.

    Raises:
      InputError: the store can't be asked.
    """
    try:
        found = _match(pattern)
        if not found and not any(sign in pattern for sign in "*?["):
            found = _match(f"{pattern.rstrip('/')}/**")
    except (BeamIOError, ValueError, ImportError, OSError) as error:
        raise InputError(_explain(pattern, error)) from None
    return [(path, size) for path, size in found if not path.endswith("/")]


def _match(pattern: str) -> list[tuple[str, int]]:
    (result,) = FileSystems.match([pattern])
    return [(one.path, int(one.size_in_bytes)) for one in result.metadata_list]


def open_remote(path: str) -> BinaryIO:
    """Opens a file for reading, as it is stored.

    Raises:
      OSError: it can't be read.
    """
    try:
        opened = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        return cast("BinaryIO", opened)
    except BeamIOError as error:
        raise OSError(5, _first_line(error)) from None


def _explain(pattern: str, error: Exception) -> str:
    scheme = pattern.partition("://")[0]
    extra = _EXTRAS.get(scheme)
    text = _first_line(error)
    if extra and ("Unable to get filesystem" in text or isinstance(error, ImportError)):
        return f"{pattern}: Beam's part for {scheme}:// is not installed; pip install apache-beam[{extra}]"
    return f"{pattern} can't be looked up ({text}); check the address and the credentials"


def _first_line(error: Exception) -> str:
    causes = getattr(error, "exception_details", None)
    if isinstance(causes, dict) and causes:
        error = next(iter(causes.values()))
    return " ".join(str(error).split())[:200]
