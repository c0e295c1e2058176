"""Which version is the champion, which the reference: promote, roll back, rebase, pin, collect."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from typing import Any

from components.export.manifest import made_of, verify
from components.export.registry import (
    CHAMPION_FILE,
    STAGING_PREFIX,
    Entry,
    Pointer,
    entry_folder,
    locked,
    read_numbers,
    read_pointer,
    settle,
    version_digest,
    versions,
    write_pointer,
)
from model.errors import InputError
from model.files import flush_folder, read_json, write_whole

PINS_FILE = "pins.json"
REMOVED_PREFIX = ".removed-"
STALE_SECONDS = 24 * 3600
"""A staging folder that nobody has changed for so long was left by a publisher that died."""


def promote(registry: str, name: str, version: int) -> int | None:
    """Makes a version the champion, once it is seen to be whole.

    Returns:
      The champion before; None if there was none.

    Raises:
      InputError: there is no such version, or it is damaged or not the one known by its number.
    """
    model_dir = os.path.join(registry, name)
    _check_version(registry, name, version)
    digest = check_whole(registry, name, version)
    with locked(registry, name):
        _check_version(registry, name, version)  # nobody has collected it meanwhile
        try:
            before = read_pointer(model_dir)
        except InputError:  # a damaged one is made anew
            before = None
        _check_same(model_dir, before, Entry(version, digest))
        if before is None or before.version != version or before.digest is None:
            write_pointer(model_dir, _moved(model_dir, before, Entry(version, digest), None))
        settle(model_dir, version)
        return before.version if before else None


def promote_if(
    registry: str,
    name: str,
    version: int,
    *,
    champion: int | None,
    report: Mapping[str, Any] | None = None,
) -> bool:
    """Makes a new version the champion if the champion still is the one it was compared with.

    Args:
      registry: folder of all models.
      name: the model's name.
      version: the new version's number.
      champion: number of the version that it was compared with; None: there was none.
      report: the comparison; None: the version's own report.json.

    Returns:
      Whether it is the champion now.

    Raises:
      InputError: champion.json is damaged, or names a version that was replaced.
    """
    model_dir = os.path.join(registry, name)
    with locked(registry, name):
        before = read_pointer(model_dir)
        if before is not None and before.version == version:
            entry_folder(model_dir, before.champion)
            settle(model_dir, version)
            return True  # by another process that finished the same publication
        if (before.version if before else None) != champion:
            return False  # somebody else promoted meanwhile
        if version not in versions(registry, name):
            return False  # or collected
        if before is not None:
            entry_folder(model_dir, before.champion)
        entry = Entry(version, version_digest(os.path.join(model_dir, str(version))))
        _check_same(model_dir, before, entry)
        write_pointer(model_dir, _moved(model_dir, before, entry, report))
        settle(model_dir, version)
        return True


def _moved(
    model_dir: str, before: Pointer | None, new: Entry, report: Mapping[str, Any] | None
) -> Pointer:
    """Returns the pointer after a promotion; see `_next_reference` for the reference."""
    newest = read_numbers(model_dir).newest
    if before is None:
        return Pointer(new.version, new.digest, (), newest, new)
    history = before.history
    if before.version != new.version:
        history = (*history, before.champion)
    reference = _next_reference(model_dir, before.reference, new, report)
    return Pointer(new.version, new.digest, history, newest, reference)


def _next_reference(
    model_dir: str, reference: Entry | None, new: Entry, report: Mapping[str, Any] | None
) -> Entry:
    """Returns the reference after a promotion.

    It moves to the new version if there is none, or if the report found the new version
    significantly better than this very reference.
    """
    if reference is None:
        return new
    if report is None:
        report = read_json(os.path.join(model_dir, str(new.version), "report.json"))
    compared, verdict = report.get("reference"), report.get("verdict")
    found = verdict.get("reference") if isinstance(verdict, Mapping) else None
    if not isinstance(compared, Mapping) or not isinstance(found, Mapping):
        return reference
    with contextlib.suppress(InputError):
        known = made_of(entry_folder(model_dir, reference, is_reference=True))
        if known and known == compared.get("checkpoint_digest"):
            return new if found.get("relation") == "better" else reference
    return reference


def rebase(registry: str, name: str, version: int) -> int | None:
    """Makes a version the reference, which bounds how far a chain of champions may drift.

    Returns:
      The reference before; None if there was none.

    Raises:
      InputError: there is no champion or no such version, or the version is damaged or not the one
        known by its number.
    """
    model_dir = os.path.join(registry, name)
    _check_version(registry, name, version)
    digest = check_whole(registry, name, version)
    with locked(registry, name):
        _check_version(registry, name, version)
        pointer = read_pointer(model_dir)
        if pointer is None:
            raise InputError(
                f"{model_dir} has no champion, and so needs no reference; charloom registry "
                "promote takes any version"
            )
        _check_same(model_dir, pointer, Entry(version, digest))
        newest = read_numbers(model_dir).newest
        write_pointer(
            model_dir,
            dataclasses.replace(pointer, newest=newest, reference=Entry(version, digest)),
        )
        return pointer.reference.version if pointer.reference else None


def rollback(registry: str, name: str) -> tuple[int, int]:
    """Restores the previous champion; the reference stays.

    Returns:
      The champion that was, and the one that is now.

    Raises:
      InputError: there was none before, or it is damaged, gone or replaced by another version.
    """
    model_dir = os.path.join(registry, name)
    with locked(registry, name):
        pointer = read_pointer(model_dir)
        there = set(versions(registry, name))
        history = [one for one in (pointer.history if pointer else ()) if one.version in there]
        if pointer is None or not history:
            raise InputError(
                f"{model_dir} had no champion before; charloom registry promote takes any version"
            )
        entry_folder(model_dir, history[-1])
        digest = check_whole(registry, name, history[-1].version)
        settle(model_dir, pointer.version)  # a publisher that died does not bring it back
        now = Entry(history[-1].version, digest)
        newest = read_numbers(model_dir).newest
        write_pointer(
            model_dir,
            Pointer(now.version, now.digest, tuple(history[:-1]), newest, pointer.reference),
        )
        return pointer.version, now.version


def _check_same(model_dir: str, pointer: Pointer | None, version: Entry) -> None:
    """Refuses a folder that has the number, but not the digest, of a version the pointer names."""
    for entry in pointer.entries if pointer else ():
        if entry.version == version.version and entry.digest not in (None, version.digest):
            raise InputError(
                f"{os.path.join(model_dir, str(version.version))} is not the version "
                f"{version.version} that {CHAMPION_FILE} names (its MANIFEST.json is another one); "
                "put that version back, or take another number"
            )


def check_whole(registry: str, name: str, version: int) -> str | None:
    """Raises InputError if files of a version are missing or were changed.

    Returns:
      The digest of the manifest that its files were compared with.
    """
    folder = os.path.join(registry, name, str(version))
    digest = version_digest(folder)
    problems = verify(folder)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise InputError(f"{folder} is damaged: {problems[0]}{more}; take another version")
    return digest


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

    The champion, the one before it, the reference, pinned versions and the newest ones stay.

    Args:
      registry: folder of all models.
      name: the model's name.
      keep: how many of the newest versions stay, at least 1.
      dry_run: whether nothing is removed.

    Returns:
      The versions that were removed, or would be.

    Raises:
      InputError: `keep` is below 1, there is no such model, its files are damaged, or a version
        that is to stay was replaced by another one.
    """
    if keep < 1:
        raise InputError(f"--keep is {keep}; it must be at least 1")
    removed = []
    with locked(registry, name):
        model_dir, all_versions = os.path.join(registry, name), versions(registry, name)
        needed = _needed(model_dir, set(all_versions))
        stay = {*needed, *read_pins(registry, name), *all_versions[-keep:]}
        for version in all_versions:
            if version not in stay:
                removed.append(version)
                if not dry_run:
                    _remove(registry, name, str(version))
        if not dry_run:
            for entry in _left_behind(model_dir):
                _delete(os.path.join(model_dir, entry))
    return removed


def _needed(model_dir: str, there: set[int]) -> set[int]:
    """Returns what the pointer needs: the champion, the newest one before that is there, the reference."""
    pointer = read_pointer(model_dir)
    if pointer is None:
        return set()
    before = [entry for entry in pointer.history if entry.version in there][-1:]
    for entry in (pointer.champion, *before):
        if entry.version in there:
            entry_folder(model_dir, entry)
    needed = {entry.version for entry in (pointer.champion, *before)}
    if pointer.reference is None:
        return needed
    if pointer.reference.version in there:
        entry_folder(model_dir, pointer.reference, is_reference=True)
    return {*needed, pointer.reference.version}


def _remove(registry: str, name: str, entry: str) -> None:
    """Removes a version: first from sight, so that nobody finds half of it."""
    hidden = os.path.join(registry, name, f"{REMOVED_PREFIX}{uuid.uuid4().hex}")
    os.rename(os.path.join(registry, name, entry), hidden)
    flush_folder(os.path.join(registry, name))
    shutil.rmtree(hidden, ignore_errors=True)


def _delete(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.remove(path)


def _left_behind(folder: str) -> list[str]:
    """Returns the hidden folders and temporary files of a model that nobody is at work on."""
    entries, now = os.listdir(folder), time.time()
    # Who writes a file of the model holds the lock, which we do.
    stale = [entry for entry in entries if entry.startswith(REMOVED_PREFIX) or ".tmp-" in entry]
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
