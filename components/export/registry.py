"""The model registry: integer version folders, as TensorFlow Serving wants them.

<registry>/<name>/<version>/      a model that is whole; `components.export.main` says what is in it
                  champion.json   which version is the one to use, and those that were it before
                  pins.json       versions that stay
                  .lock           held by whoever changes one of these
                  .staging-*      a version that is being filled

Readers need no lock: every file is replaced whole, and a version's folder gets its number by
being renamed when nothing is missing in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from model.errors import InputError
from model.files import write_whole

CHAMPION_FILE = "champion.json"
LOCK_FILE = ".lock"
STAGING_PREFIX = ".staging-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Pointer(NamedTuple):
    """What champion.json says."""

    version: int | None
    """The champion; None where nothing is published."""
    history: tuple[int, ...]
    """Versions that were champion before, oldest first; a rollback takes the last."""


def check_name(name: str) -> None:
    """Raises InputError unless `name` can be a model's folder."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"model name {name!r} must begin with a letter or digit and hold only letters, "
            "digits, '.', '_' and '-'"
        )


def versions(registry: str, name: str) -> list[int]:
    """Returns the published versions of a model, oldest first."""
    try:
        entries = os.listdir(os.path.join(registry, name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(entry) for entry in entries if entry.isdecimal())


def staging_folder(registry: str, name: str) -> str:
    """Makes a new folder beside the versions of a model, to be filled and published.

    Raises:
      InputError: the registry can't be written or the name is no name.
    """
    check_name(name)
    parent = os.path.join(registry, name)
    try:
        os.makedirs(parent, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=parent)
    except OSError as error:
        raise InputError(
            f"registry {registry} can't be written ({error.strerror}); choose another"
        ) from None
    os.chmod(folder, 0o755)
    return folder


@contextlib.contextmanager
def locked(registry: str, name: str) -> Iterator[None]:
    """Keeps others from changing champion and pins of a model, and from removing versions.

    The lock ends with the process that holds it, however that ends.

    Raises:
      InputError: there is no such model, or the registry can't be written.
    """
    path = os.path.join(registry, name, LOCK_FILE)
    try:
        file = open(path, "a", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{os.path.join(registry, name)} can't be changed ({error.strerror}); "
            "name a model of a registry, <registry>/<name>"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def publish(registry: str, name: str, *, staged: str) -> str:
    """Gives a filled staging folder the next version number.

    Safe beside another publisher: a number is taken by renaming, which one of the two wins.

    Returns:
      The version's folder.
    """
    while True:
        version = max(versions(registry, name), default=0) + 1
        target = os.path.join(registry, name, str(version))
        try:
            os.rename(staged, target)
        except OSError:
            if os.path.exists(target):  # another publisher was faster
                continue
            raise
        return target


def read_pointer(registry: str, name: str) -> Pointer:
    """Reads which version is the champion.

    Raises:
      InputError: champion.json is damaged.
    """
    path = os.path.join(registry, name, CHAMPION_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        version, history = content["version"], content.get("history", [])
        if type(version) is not int or not all(type(one) is int for one in history):
            raise TypeError
        return Pointer(version, tuple(history))
    except (FileNotFoundError, NotADirectoryError):
        return Pointer(None, ())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is damaged; charloom registry promote {os.path.join(registry, name)} VERSION "
            "makes it anew"
        ) from None


def write_pointer(registry: str, name: str, pointer: Pointer) -> None:
    """Replaces champion.json; the lock must be held."""
    content = {"version": pointer.version, "history": list(pointer.history)}
    write_whole(os.path.join(registry, name, CHAMPION_FILE), json.dumps(content) + "\n")


def read_champion(registry: str, name: str) -> int | None:
    """Returns the champion's number, or None where there is none."""
    return read_pointer(registry, name).version


def champion_folder(registry: str, name: str) -> str | None:
    """Returns the champion's folder, or None where there is none.

    Raises:
      InputError: champion.json is damaged, or names a version that is gone.
    """
    version = read_champion(registry, name)
    if version is None:
        return None
    return find_model(os.path.join(registry, name, str(version)))


def find_model(path: str) -> str:
    """Returns the folder of a SavedModel.

    Args:
      path: a version's folder, or a model's, whose champion is taken.

    Raises:
      InputError: there is no model.
    """
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        return path
    try:
        with open(os.path.join(path, CHAMPION_FILE), encoding="utf-8") as file:
            return find_model(os.path.join(path, str(int(json.load(file)["version"]))))
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} holds no exported model; name a version's folder, <registry>/<name>/<number>"
        ) from None
