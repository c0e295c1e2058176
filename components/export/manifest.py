"""MANIFEST.json of a version: size and SHA-256 of every file, written last."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from model.config import CONFIG_VERSION
from model.errors import InputError
from model.files import hash_file, write_whole

MANIFEST_FILE = "MANIFEST.json"
MANIFEST_VERSION = 1
EXPORT = "export"
"""Field with the settings of an export."""


def code_version() -> str:
    """Returns the versions of this package and of the formats it reads and writes.

    Part of every identity: another version may give other results.
    """
    from model.data.records import FORMAT_VERSION  # imports NumPy, which takes a while

    package = importlib.metadata.version("charloom")
    return f"charloom {package}, config {CONFIG_VERSION}, records {FORMAT_VERSION}"


def write_manifest(
    folder: str, digests: Mapping[str, Any], *, export: Mapping[str, str] | None = None
) -> None:
    """Writes the manifest of all files in a folder.

    Args:
      folder: a version that is otherwise complete.
      digests: digests of its ingredients: checkpoint, vocab, dataset.
      export: the settings it was exported with.
    """
    files = {
        name: {"bytes": os.path.getsize(path), "sha256": hash_file(path)}
        for name, path in _files(folder)
    }
    content = {
        "manifest_version": MANIFEST_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "digests": dict(digests),
        EXPORT: dict(export or {}),
        "files": files,
    }
    write_whole(os.path.join(folder, MANIFEST_FILE), json.dumps(content, indent=2) + "\n")


def read_manifest(folder: str) -> dict[str, Any]:
    """Reads the manifest of a version.

    Raises:
      InputError: it is missing or damaged.
    """
    path = os.path.join(folder, MANIFEST_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            content: dict[str, Any] = json.load(file)
        if content["manifest_version"] != MANIFEST_VERSION:
            raise ValueError
        for entry in content["files"].values():
            int(entry["bytes"]), str(entry["sha256"])
        return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is missing or damaged; the version is incomplete, or was published by an older "
            "charloom"
        ) from None


def made_of(folder: str, name: str = "checkpoint") -> str | None:
    """Returns the digest of a version's ingredient from its manifest; None without one.

    Args:
      folder: the version's folder.
      name: of the ingredient, as passed to `write_manifest`.
    """
    try:
        found = read_manifest(folder)["digests"].get(name)
    except (InputError, KeyError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def verify(folder: str) -> list[str]:
    """Returns the differences between a version and its manifest; empty if it is whole.

    Raises:
      InputError: the manifest is missing or damaged.
    """
    expected = read_manifest(folder)["files"]
    found = dict(_files(folder))
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [
        f"{name} does not belong to this version" for name in found if name not in expected
    ]
    for name, path in found.items():
        entry = expected.get(name)
        if entry is None:
            continue
        size = os.path.getsize(path)
        if size != entry["bytes"]:
            problems.append(f"{name} has {size:,} bytes, not {entry['bytes']:,}")
        elif hash_file(path) != entry["sha256"]:
            problems.append(f"{name} was changed")
    return sorted(problems)


def check_unchanged(folder: str, *, instead: str) -> None:
    """Raises InputError, ending with the advice `instead`, if a version is not whole."""
    problems = verify(folder)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise InputError(f"{folder} is damaged: {problems[0]}{more}; {instead}")


def _files(folder: str) -> Iterator[tuple[str, str]]:
    """Yields relative name and path of all files below a folder, sorted, except the manifest."""
    names = (
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, files in os.walk(folder)
        for name in files
    )
    for name in sorted(names):
        if name != MANIFEST_FILE:
            yield name, os.path.join(folder, name)
