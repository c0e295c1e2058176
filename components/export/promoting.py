"""Which version is the champion: promote, roll back, pin, and collect what is not needed."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid

from components.export.manifest import verify
from components.export.registry import (
    STAGING_PREFIX,
    Pointer,
    locked,
    read_pointer,
    versions,
    write_pointer,
)
from model.errors import InputError
from model.files import write_whole

PINS_FILE = "pins.json"
REMOVED_PREFIX = ".removed-"
STALE_SECONDS = 24 * 3600
"""A staging folder that nobody has changed for so long was left by a publisher that died."""


def promote(registry: str, name: str, version: int) -> int | None:
    """Makes a version the champion, once it is seen to be whole.

    Returns:
      The champion before; None if there was none.

    Raises:
      InputError: there is no such version, or it is damaged.
    """
    _check_version(registry, name, version)
    check_whole(registry, name, version)
    with locked(registry, name):
        _check_version(registry, name, version)  # nobody has collected it meanwhile
        try:
            before = read_pointer(registry, name)
        except InputError:  # a damaged one is made anew
            before = Pointer(None, ())
        if before.version != version:
            write_pointer(registry, name, _moved(before, version))
        return before.version


def promote_if(registry: str, name: str, version: int, *, champion: int | None) -> bool:
    """Makes a new version the champion if the champion still is the one it was compared with.

    Returns:
      Whether it was made the champion.
    """
    with locked(registry, name):
        before = read_pointer(registry, name)
        if before.version != champion or version not in versions(registry, name):
            return False  # somebody else promoted, or collected, meanwhile
        write_pointer(registry, name, _moved(before, version))
        return True


def _moved(before: Pointer, version: int) -> Pointer:
    history = before.history if before.version is None else (*before.history, before.version)
    return Pointer(version, history)


def rollback(registry: str, name: str) -> tuple[int, int]:
    """Makes the version champion that was it before the present one.

    Returns:
      The champion that was, and the one that is now.

    Raises:
      InputError: there was none before, or it is damaged or gone.
    """
    with locked(registry, name):
        pointer = read_pointer(registry, name)
        there = set(versions(registry, name))
        history = tuple(one for one in pointer.history if one in there)
        if pointer.version is None or not history:
            raise InputError(
                f"{os.path.join(registry, name)} had no champion before; "
                "charloom registry promote takes any version"
            )
        check_whole(registry, name, history[-1])
        write_pointer(registry, name, Pointer(history[-1], history[:-1]))
        return pointer.version, history[-1]


def check_whole(registry: str, name: str, version: int) -> None:
    """Raises InputError if files of a version are missing or were changed."""
    folder = os.path.join(registry, name, str(version))
    problems = verify(folder)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise InputError(f"{folder} is damaged: {problems[0]}{more}; take another version")


def read_pins(registry: str, name: str) -> list[int]:
    """Returns the versions that are pinned, oldest first.

    Raises:
      InputError: pins.json is damaged.
    """
    path = os.path.join(registry, name, PINS_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            return sorted({int(one) for one in json.load(file)})
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        raise InputError(f"{path} is damaged; write a JSON list of versions into it") from None


def pin(registry: str, name: str, version: int, *, pinned: bool = True) -> None:
    """Pins a version, which is then never collected, or unpins it.

    Raises:
      InputError: there is no such version.
    """
    _check_version(registry, name, version)
    with locked(registry, name):
        _check_version(registry, name, version)
        pins = set(read_pins(registry, name)) - {version}
        pins |= {version} if pinned else set()
        write_whole(os.path.join(registry, name, PINS_FILE), json.dumps(sorted(pins)) + "\n")


def collect(registry: str, name: str, *, keep: int, dry_run: bool = False) -> list[int]:
    """Removes old versions, and what publishers that died have left.

    The champion, the one before it, pinned versions and the newest ones stay.

    Args:
      registry: folder of all models.
      name: the model's name.
      keep: so many of the newest versions stay, at least 1, so that no number is used again.
      dry_run: whether nothing is removed.

    Returns:
      The versions that were removed, or would be.

    Raises:
      InputError: `keep` is below 1, there is no such model, or its files are damaged.
    """
    if keep < 1:
        raise InputError(f"--keep is {keep}; it must be at least 1")
    removed = []
    with locked(registry, name):
        pointer, all_versions = read_pointer(registry, name), versions(registry, name)
        stay = {pointer.version, *pointer.history[-1:], *read_pins(registry, name)}
        stay |= set(all_versions[-keep:])
        for version in all_versions:
            if version not in stay:
                removed.append(version)
                if not dry_run:
                    _remove(registry, name, str(version))
        if not dry_run:
            for entry in _left_behind(os.path.join(registry, name)):
                shutil.rmtree(os.path.join(registry, name, entry), ignore_errors=True)
    return removed


def _remove(registry: str, name: str, entry: str) -> None:
    """Removes a version: first from sight, so that nobody finds half of it."""
    hidden = os.path.join(registry, name, f"{REMOVED_PREFIX}{uuid.uuid4().hex}")
    os.rename(os.path.join(registry, name, entry), hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _left_behind(folder: str) -> list[str]:
    """Returns the hidden folders of a model that nobody is at work on."""
    entries, now = os.listdir(folder), time.time()
    stale = [entry for entry in entries if entry.startswith(REMOVED_PREFIX)]
    for entry in entries:
        if entry.startswith(STAGING_PREFIX):
            path = os.path.join(folder, entry)
            times = [os.stat(parent).st_mtime for parent, _, _ in os.walk(path)]
            if now - max(times, default=now) > STALE_SECONDS:
                stale.append(entry)
    return stale


def _check_version(registry: str, name: str, version: int) -> None:
    found = versions(registry, name)
    if version not in found:
        there = f"there are {', '.join(map(str, found))}" if found else "there is none"
        raise InputError(f"{os.path.join(registry, name)} has no version {version}; {there}")
