"""Changes a model's champion and reference: promote, roll back, rebase, pin, collect."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from typing import Any

from components.evaluate.report_fields import look_up
from components.export.manifest import check_unchanged, made_of
from components.export.pointer import Entry, Pointer
from components.export.registry import STAGING_PREFIX, RegisteredModel
from model.errors import InputError
from model.files import (
    TEMPORARY_MARK,
    flush_folder,
    is_stale,
    read_json,
    remove_path,
    write_whole,
)

PINS_FILE = "pins.json"
REMOVED_PREFIX = ".removed-"


def promote(model: RegisteredModel, version: int) -> int | None:
    """Makes a version the champion after checking that it is whole.

    Returns:
      The previous champion; None if there was none.

    Raises:
      InputError: there is no such version, or it is damaged or was replaced by another one.
    """
    model.check_version(version)
    digest = check_whole(model, version)
    with model.locked():
        model.check_version(version)  # it may have been collected meanwhile
        try:
            before = model.read_pointer()
        except InputError:  # a damaged one is rewritten
            before = None
        _check_same(model, before, Entry(version, digest))
        if before is None or before.version != version or before.digest is None:
            model.write_pointer(_moved(model, before, Entry(version, digest), None))
        model.settle(version)
        return before.version if before else None


def promote_if(
    model: RegisteredModel,
    version: int,
    *,
    champion: int | None,
    report: Mapping[str, Any] | None = None,
) -> bool:
    """Promotes a new version if the champion is still the one it was compared with.

    Args:
      model: the model.
      version: the new version's number.
      champion: number of the version it was compared with; None: none.
      report: the comparison; None: the version's own report.json.

    Returns:
      Whether it is now the champion.

    Raises:
      InputError: champion.json is damaged, or names a version that was replaced.
    """
    with model.locked():
        before = model.read_pointer()
        if before is not None and before.version == version:
            model.folder_of(before.champion)
            model.settle(version)
            return True  # by another process that finished the same publication
        if (before.version if before else None) != champion:
            return False  # another version was promoted meanwhile
        if version not in model.versions():
            return False  # or collected
        if before is not None:
            model.folder_of(before.champion)
        entry = Entry(version, model.digest_of(version))
        _check_same(model, before, entry)
        model.write_pointer(_moved(model, before, entry, report))
        model.settle(version)
        return True


def _moved(
    model: RegisteredModel, before: Pointer | None, new: Entry, report: Mapping[str, Any] | None
) -> Pointer:
    """Returns the pointer after a promotion; see `_next_reference` for the reference."""
    newest = model.read_numbers().newest
    if before is None:
        return Pointer(new.version, new.digest, (), newest, new)
    history = before.history
    if before.version != new.version:
        history = (*history, before.champion)
    reference = _next_reference(model, before.reference, new, report)
    return Pointer(new.version, new.digest, history, newest, reference)


def _next_reference(
    model: RegisteredModel, reference: Entry | None, new: Entry, report: Mapping[str, Any] | None
) -> Entry:
    """Returns the reference after a promotion.

    It moves to the new version if there is none, or if the report found the new version
    significantly better than this reference.
    """
    if reference is None:
        return new
    if report is None:
        report = read_json(os.path.join(model.version_folder(new.version), "report.json"))
    if look_up(report, "verdict.reference.relation") != "better":
        return reference
    with contextlib.suppress(InputError):
        known = made_of(model.folder_of(reference, is_reference=True))
        if known and known == look_up(report, "reference.checkpoint_digest"):
            return new
    return reference


def rebase(model: RegisteredModel, version: int) -> int | None:
    """Makes a version the reference, which limits the drift of a chain of champions.

    Returns:
      The previous reference; None if there was none.

    Raises:
      InputError: there is no champion or no such version, or the version is damaged or was
        replaced by another one.
    """
    model.check_version(version)
    reference = Entry(version, check_whole(model, version))
    with model.locked():
        model.check_version(version)
        pointer = model.read_pointer()
        if pointer is None:
            raise InputError(
                f"{model.folder} has no champion, so it needs no reference; charloom registry "
                "promote accepts any version"
            )
        _check_same(model, pointer, reference)
        newest = model.read_numbers().newest
        model.write_pointer(dataclasses.replace(pointer, newest=newest, reference=reference))
        return pointer.reference.version if pointer.reference else None


def rollback(model: RegisteredModel) -> tuple[int, int]:
    """Restores the previous champion; the reference stays.

    Returns:
      The champion before and the one now.

    Raises:
      InputError: there was none before, or it is damaged, gone or replaced by another version.
    """
    with model.locked():
        pointer = model.read_pointer()
        there = set(model.versions())
        history = [one for one in (pointer.history if pointer else ()) if one.version in there]
        if pointer is None or not history:
            raise InputError(
                f"{model.folder} had no champion before; charloom registry promote accepts any version"
            )
        model.folder_of(history[-1])
        now = history[-1].version
        digest = check_whole(model, now)
        model.settle(pointer.version)  # so that resuming its export does not promote it again
        newest = model.read_numbers().newest
        model.write_pointer(Pointer(now, digest, tuple(history[:-1]), newest, pointer.reference))
        return pointer.version, now


def _check_same(model: RegisteredModel, pointer: Pointer | None, version: Entry) -> None:
    """Raises InputError if the folder's digest is not that version's digest in the pointer."""
    for entry in pointer.entries if pointer else ():
        if entry.version == version.version and entry.digest not in (None, version.digest):
            raise model.replaced_error(version.version, "choose another number")


def check_whole(model: RegisteredModel, version: int) -> str | None:
    """Raises InputError if files of a version are missing or changed.

    Returns:
      The digest of the manifest that the files were checked against.
    """
    digest = model.digest_of(version)
    check_unchanged(model.version_folder(version), instead="choose another version")
    return digest


def read_pins(model: RegisteredModel) -> list[int]:
    """Returns the pinned versions, oldest first.

    Raises:
      InputError: pins.json is damaged.
    """
    path = os.path.join(model.folder, PINS_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            return sorted({int(one) for one in json.load(file)})
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        raise InputError(f"{path} is damaged; write a JSON list of versions into it") from None


def pin(model: RegisteredModel, version: int, *, pinned: bool = True) -> None:
    """Pins a version, so that it is never collected, or unpins it.

    Raises:
      InputError: there is no such version.
    """
    model.check_version(version)
    with model.locked():
        model.check_version(version)
        pins = set(read_pins(model)) - {version}
        pins |= {version} if pinned else set()
        write_whole(os.path.join(model.folder, PINS_FILE), json.dumps(sorted(pins)) + "\n")


def collect(model: RegisteredModel, *, keep: int, dry_run: bool = False) -> list[int]:
    """Removes old versions, and what dead publishers left behind.

    Keeps the champion, its predecessor, the reference, pinned versions and the newest ones.

    Args:
      model: the model.
      keep: how many of the newest versions to keep, at least 1.
      dry_run: only report; remove nothing.

    Returns:
      The versions that were, or would be, removed.

    Raises:
      InputError: `keep` is below 1, there is no such model, its files are damaged, or a version
        to keep was replaced by another one.
    """
    if keep < 1:
        raise InputError(f"--keep is {keep}; it must be at least 1")
    removed = []
    with model.locked():
        all_versions = model.versions()
        stay = {*_needed(model, set(all_versions)), *read_pins(model), *all_versions[-keep:]}
        for version in all_versions:
            if version not in stay:
                removed.append(version)
                if not dry_run:
                    _remove(model, version)
        if not dry_run:
            for entry in _left_behind(model.folder):
                remove_path(os.path.join(model.folder, entry))
    return removed


def _needed(model: RegisteredModel, there: set[int]) -> set[int]:
    pointer = model.read_pointer()
    if pointer is None:
        return set()
    before = [entry for entry in pointer.history if entry.version in there][-1:]
    for entry in (pointer.champion, *before):
        if entry.version in there:
            model.folder_of(entry)
    needed = {entry.version for entry in (pointer.champion, *before)}
    if pointer.reference is None:
        return needed
    if pointer.reference.version in there:
        model.folder_of(pointer.reference, is_reference=True)
    return {*needed, pointer.reference.version}


def _remove(model: RegisteredModel, version: int) -> None:
    """Removes a version; renames it first, so that nobody sees half of it."""
    hidden = os.path.join(model.folder, f"{REMOVED_PREFIX}{uuid.uuid4().hex}")
    os.rename(model.version_folder(version), hidden)
    flush_folder(model.folder)
    shutil.rmtree(hidden, ignore_errors=True)


def _left_behind(folder: str) -> list[str]:
    """Returns a model's hidden folders and temporary files that nobody is working on."""
    entries = os.listdir(folder)
    # Writers of the model's files hold the lock, which we hold.
    stale = [
        entry for entry in entries if entry.startswith(REMOVED_PREFIX) or TEMPORARY_MARK in entry
    ]
    for entry in entries:
        if entry.startswith(STAGING_PREFIX) and is_stale(os.path.join(folder, entry)):
            stale.append(entry)
    return stale
