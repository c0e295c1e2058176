"""The model registry: integer version folders, as TensorFlow Serving wants them.

<registry>/<name>/<version>/      a model that is whole; `components.export.main` lists its files
                  champion.json   the champion and its predecessors (`components.export.pointer`)
                  numbers.json    the highest number given out, and what is not decided yet
                  pins.json       versions that stay
                  .lock           held by whoever changes one of these
                  .staging-*      a version that is being filled

Readers need no lock: every file is replaced whole, and a version's folder gets its number by
being renamed when nothing is missing in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator

from components.export.manifest import MANIFEST_FILE
from components.export.pointer import Entry, Pointer
from model.errors import InputError
from model.files import (
    hash_file,
    holds_saved_model,
    publish_folder,
    read_json,
    version_number,
    write_whole,
)

CHAMPION_FILE = "champion.json"
NUMBERS_FILE = "numbers.json"
LOCK_FILE = ".lock"
STAGING_PREFIX = ".staging-"
MAX_NAME_CHARACTERS = 128
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The content of numbers.json."""

    newest: int
    """The highest number given out, whether or not its version is still there."""
    unfinished: tuple[int, ...]
    """Versions about whose promotion their publisher has not decided."""


@dataclasses.dataclass(frozen=True)
class RegisteredModel:
    """A model in the registry, whether or not it has a version yet."""

    registry: str
    """Folder of all models."""
    name: str
    """The model's name in it; `check_name` says which names a new model may have."""

    @classmethod
    def at(cls, folder: str) -> RegisteredModel:
        """Returns the model of a folder `<registry>/<name>`."""
        return cls(*os.path.split(folder.rstrip("/") or folder))

    @property
    def folder(self) -> str:
        """The model's folder."""
        return os.path.join(self.registry, self.name)

    def version_folder(self, version: int) -> str:
        """Returns the folder of the version with a number."""
        return os.path.join(self.folder, str(version))

    def digest_of(self, version: int) -> str | None:
        """Returns the SHA-256 of a version's MANIFEST.json; None where there is no manifest."""
        return version_digest(self.version_folder(version))

    def versions(self) -> list[int]:
        """Returns the numbers of the published versions, oldest first."""
        try:
            numbers = map(version_number, os.listdir(self.folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(number for number in numbers if number is not None)

    def check_version(self, version: int) -> None:
        """Raises InputError unless there is a version with this number."""
        found = self.versions()
        if version not in found:
            there = f"there are {', '.join(map(str, found))}" if found else "there is none"
            raise InputError(f"{self.folder} has no version {version}; {there}")

    def has_pointer(self) -> bool:
        """Returns whether there is a champion.json, whole or damaged."""
        return os.path.exists(os.path.join(self.folder, CHAMPION_FILE))

    def read_pointer(self) -> Pointer | None:
        """Reads champion.json; returns None where no version has become champion yet.

        Raises:
          InputError: it is damaged.
        """
        path = os.path.join(self.folder, CHAMPION_FILE)
        try:
            with open(path, encoding="utf-8") as file:
                return Pointer.from_json(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path} is damaged; charloom registry promote {self.folder} VERSION makes it anew"
            ) from None

    def write_pointer(self, pointer: Pointer) -> None:
        """Replaces champion.json and fills in digests that are unknown; the lock must be held."""
        write_whole(os.path.join(self.folder, CHAMPION_FILE), pointer.to_json(self.digest_of))

    def champion(self) -> Entry | None:
        """Returns the champion, with the digest of its folder where the pointer has none.

        Raises:
          InputError: champion.json is damaged.
        """
        pointer = self.read_pointer()
        if pointer is None:
            return None
        return Entry(pointer.version, pointer.digest or self.digest_of(pointer.version))

    def champion_folder(self) -> str | None:
        """Returns the champion's folder, or None where there is no champion.

        Raises:
          InputError: champion.json is damaged, or names a version that is gone or was replaced.
        """
        pointer = self.read_pointer()
        if pointer is None:
            return None
        folder = self.folder_of(pointer.champion)
        if not holds_saved_model(folder):
            raise _no_model(folder)
        return folder

    def reference_folder(self) -> str | None:
        """Returns the folder of the best version so far, which may be gone; None: none is set.

        Raises:
          InputError: champion.json is damaged, or the folder holds another version by now.
        """
        pointer = self.read_pointer()
        if pointer is None or pointer.reference is None:
            return None
        folder = self.version_folder(pointer.reference.version)
        if not os.path.isdir(folder):
            return folder
        return self.folder_of(pointer.reference, is_reference=True)

    def folder_of(self, entry: Entry, *, is_reference: bool = False) -> str:
        """Returns the folder of the version that an entry of the pointer means.

        Args:
          entry: of the model's pointer.
          is_reference: whether it is the reference; an error then says how to move that.

        Raises:
          InputError: the folder is gone, or holds another version than the one that was published
            under this number.
        """
        folder = self.version_folder(entry.version)
        command, role = ("rebase", "reference") if is_reference else ("promote", "champion")
        instead = f"charloom registry {command} {self.folder} VERSION makes another one the {role}"
        if not os.path.isdir(folder):
            raise InputError(
                f"{os.path.join(self.folder, CHAMPION_FILE)} names version {entry.version}, which "
                f"is gone; {instead}"
            )
        if entry.digest is not None and version_digest(folder) != entry.digest:
            raise self.replaced_error(entry.version, instead)
        return folder

    def replaced_error(self, version: int, instead: str) -> InputError:
        """Returns the error that a version's number is now that of another version's folder."""
        return InputError(
            f"{self.version_folder(version)} is not the version {version} that {CHAMPION_FILE} "
            f"names (its MANIFEST.json is another one); put that version back, or {instead}"
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps others from changing champion and pins, and from removing versions.

        The lock ends with the process that holds it, however that ends.

        Raises:
          InputError: there is no such model, or the registry can't be written.
        """
        try:
            file = open(os.path.join(self.folder, LOCK_FILE), "a", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{self.folder} can't be changed ({error.strerror}); "
                "name a model of a registry, <registry>/<name>"
            ) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read_numbers(self) -> Numbers:
        """Returns the highest version number ever given out, and versions not decided about.

        The number stands in numbers.json and, as a second copy, in champion.json, so that neither a
        removed version nor a damaged file brings a number back.
        """
        try:
            content = read_json(os.path.join(self.folder, NUMBERS_FILE))
            newest, unfinished = int(content["newest"]), tuple(map(int, content["unfinished"]))
        except (ValueError, KeyError, TypeError):  # none yet, or damaged: what is there counts
            newest, unfinished = 0, ()
        with contextlib.suppress(InputError):
            pointer = self.read_pointer()
            newest = max(newest, pointer.newest if pointer else 0)
        there = self.versions()
        return Numbers(max(newest, *there, 0), tuple(sorted(set(unfinished) & set(there))))

    def write_numbers(self, numbers: Numbers) -> None:
        """Replaces numbers.json; the lock must be held."""
        content = {"newest": numbers.newest, "unfinished": list(numbers.unfinished)}
        write_whole(os.path.join(self.folder, NUMBERS_FILE), json.dumps(content) + "\n")

    def settle(self, version: int) -> None:
        """Notes that it is decided whether a version is champion; the lock must be held."""
        numbers = self.read_numbers()
        if version in numbers.unfinished:
            left = tuple(one for one in numbers.unfinished if one != version)
            self.write_numbers(Numbers(numbers.newest, left))

    def stage(self) -> str:
        """Makes a new folder among the versions, to be filled and published; returns its path.

        Raises:
          InputError: the registry can't be written, or the name is not a valid one.
        """
        check_name(self.name)
        try:
            os.makedirs(self.folder, exist_ok=True)
            folder = tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self.folder)
        except OSError as error:
            raise InputError(
                f"registry {self.registry} can't be written ({error.strerror}); choose another"
            ) from None
        os.chmod(folder, 0o755)
        return folder

    def publish(self, staged: str, *, find: Callable[[], str | None] | None = None) -> str:
        """Gives a filled staging folder the next version number, flushed to disk.

        The number is noted before it is used, under the lock: no two publishers get the same one,
        and none comes back, whatever is removed later.

        Args:
          staged: the filled folder, with its manifest.
          find: looks, under the lock, for a version that is the same; it is returned in place of a
            new one if there is one.

        Returns:
          The version's folder.
        """
        with self.locked():
            if find is not None and (found := find()):
                return found
            while True:
                numbers = self.read_numbers()
                number = numbers.newest + 1
                self.write_numbers(Numbers(number, (*numbers.unfinished, number)))
                with contextlib.suppress(InputError):  # a damaged pointer can wait
                    if pointer := self.read_pointer():
                        self.write_pointer(dataclasses.replace(pointer, newest=number))
                target = self.version_folder(number)
                try:
                    publish_folder(staged, target)
                except OSError:
                    if os.path.exists(target):  # somebody who takes no lock was faster
                        continue
                    raise
                return target


def check_name(name: str) -> None:
    """Raises InputError unless `name` can be a model's folder.

    One of digits only would look like a version, and the registry like a model.
    """
    if len(name) > MAX_NAME_CHARACTERS:
        raise InputError(
            f"model name {name[:20]!r}... is too long ({len(name)} characters); "
            f"{MAX_NAME_CHARACTERS} are allowed"
        )
    if name.isdecimal():
        raise InputError(
            f"model name {name!r} is a number, as versions have; add a letter, as in m{name}"
        )
    if not _NAME.fullmatch(name):
        raise InputError(
            f"model name {name!r} must begin with a letter or digit and hold only letters, "
            "digits, '.', '_' and '-'"
        )


def version_digest(folder: str) -> str | None:
    """Returns the SHA-256 of a version's MANIFEST.json; None where there is no manifest."""
    try:
        return hash_file(os.path.join(folder, MANIFEST_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None


def find_model(path: str) -> str:
    """Returns the folder of a SavedModel.

    Args:
      path: a version's folder, or a model's, whose champion is taken.

    Raises:
      InputError: there is no model, or the champion is gone or was replaced.
    """
    if holds_saved_model(path):
        return path
    folder = RegisteredModel.at(path).champion_folder()
    if folder is None:
        raise _no_model(path)
    return folder


def _no_model(path: str) -> InputError:
    return InputError(
        f"{path} holds no exported model; name a version's folder, <registry>/<name>/<number>"
    )
