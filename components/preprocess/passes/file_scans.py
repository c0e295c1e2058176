"""What the first pass finds in each file, and which files are bad."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from components.preprocess.sources.blocks import BadTextError, Block, read_blocks
from components.preprocess.sources.types import InputFile
from model.config import DataConfig
from model.errors import InputError, RestartableError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartScan:
    """Result of the first pass over a part of a file."""

    file: InputFile
    first: int
    """Its first block."""
    hashes: Sequence[str] = ()
    """Offset and SHA-256 of each of its blocks, and any fault that ended them early
    (`add_fault`)."""
    records: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Split -> number of records; empty for a bad part, or one without words."""
    documents: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Power of two p -> documents of p to 2p - 1 words."""
    size: int = 0
    """Its unpacked bytes."""
    characters: int = 0
    """Unicode characters of its text; a line end counts as one."""
    stray: int = 0
    """Undecodable places that became U+FFFD."""
    fault: tuple[int, str] | None = None
    """Offset and description of the first one."""
    reason: str = ""
    """Why its file is bad; empty if no fault was found here."""
    offset: int = 0
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileScan:
    """Result of the first pass over a file."""

    file: InputFile
    sha256: str
    """SHA-256 over its stored size and its blocks' hashes: all that records depend on."""
    records: Mapping[str, int]
    """Split -> number of records in it; empty for a bad file."""
    documents: Mapping[str, int]
    """Power of two p -> documents of p to 2p - 1 words."""
    characters: int
    """Unicode characters of its text; a line end counts as one."""
    stray: int
    """Undecodable places that became U+FFFD."""
    reason: str = ""
    """Why the file is left out; empty for a good file."""
    offset: int = 0
    detail: str = ""


def scans_of_files(parts: Iterable[PartScan], config: DataConfig) -> Iterator[FileScan]:
    """Joins the parts of each file, given in order."""
    for _, group in itertools.groupby(parts, key=lambda part: part.file.full_name):
        yield _join(list(group), config)


def _join(parts: Sequence[PartScan], config: DataConfig) -> FileScan:
    file = parts[0].file
    records: collections.Counter[str] = collections.Counter()
    documents: collections.Counter[str] = collections.Counter()
    for part in parts:
        records.update(part.records)
        documents.update(part.documents)
    scan = FileScan(
        file=file,
        sha256=_hash_rows(file, [one for part in parts for one in part.hashes]),
        records=records,
        documents=documents,
        characters=sum(part.characters for part in parts),
        stray=sum(part.stray for part in parts),
    )
    bad = next((part for part in parts if part.reason), None)
    if bad:
        return _reject(scan, bad.reason, bad.offset, bad.detail)
    try:
        fault = next((part.fault for part in parts if part.fault), None)
        check_stray(scan.stray, sum(part.size for part in parts), fault, config)
        if not records:
            raise BadTextError("blank" if file.size else "empty")
    except BadTextError as error:
        return _reject(scan, error.reason, error.offset, error.detail)
    return scan


def _reject(scan: FileScan, reason: str, offset: int, detail: str) -> FileScan:
    return dataclasses.replace(
        scan,
        reason=reason,
        offset=offset,
        detail=detail,
        records={},
        documents={},
        characters=0,
        stray=0,
    )


def check_stray(stray: int, size: int, fault: tuple[int, str] | None, config: DataConfig) -> None:
    """Raises BadTextError if a file of `size` unpacked bytes has too many undecodable bytes."""
    if fault and config.on_bad_text != "replace" and stray > config.max_stray_bytes * size:
        raise BadTextError("undecodable", *fault)


def hash_text(file: InputFile, config: DataConfig) -> str:
    """Returns `FileScan.sha256` of a file.

    Raises:
      InputError, RestartableError: as of `check_read`.
    """
    hashes: list[str] = []
    try:
        for block in read_blocks(file, config):
            hashes.append(hash_row(block))
    except BadTextError as error:
        add_fault(hashes, error)
    except OSError as error:
        fault = BadTextError.unread(error)
        check_read(file, fault.reason, fault.detail)
    return _hash_rows(file, hashes)


UNREAD = frozenset({"changed", "unsteady", "unreadable"})
"""Reasons of a file that could not be read as it was listed."""


def check_read(file: InputFile, reason: str, detail: str) -> None:
    """Raises an error if a file is bad because it could not be read as it was listed.

    Raises:
      InputError: it can't be read, or has changed since an earlier task listed it.
      RestartableError: it has changed since it was listed here, or its store can't be reached.
    """
    if reason == "changed":
        text = f"{file.path} has changed since it was listed ({detail})"
        if file.from_listing:  # which a retry would find as it is
            raise InputError(f"{text}; start a new run, which lists the text anew")
        raise RestartableError(f"{text}; run the command again")
    if reason == "unsteady":
        raise RestartableError(
            f"{file.path} can't be read for now ({detail}); run the command again"
        )
    if reason == "unreadable":
        raise InputError(f"{file.path} can't be read ({detail}); leave it out")


def hash_row(block: Block) -> str:
    """Returns a block's part of its file's hash: its position, found in sources, and its bytes."""
    return f"{block.offset} {block.sha256}"


def add_fault(hashes: list[str], error: BadTextError) -> None:
    """Adds a fault that ended reading to the hashes of the blocks before it."""
    if error.alone:
        hashes.clear()
    hashes.append(f"{error.offset} {error.reason}")


def _hash_rows(file: InputFile, rows: Sequence[str]) -> str:
    # Shards are assigned by the stored size, even for packed files.
    return hashlib.sha256("\n".join([str(file.size), *rows]).encode()).hexdigest()
