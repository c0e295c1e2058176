"""The model registry: integer version folders, as TensorFlow Serving expects them.

<registry>/<name>/<version>/      a whole model; `components.export.main` lists its files
                  champion.json   the champion and its predecessors (`components.export.pointer`)
                  numbers.json    the highest number assigned, and undecided promotions
                  pins.json       versions to keep
                  .lock           held while any of these are changed
                  .staging-*      a version being filled

Readers need no lock: every file is replaced atomically, and a version's folder is renamed to its
number only when it is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
    lock_file,
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
    """The highest number assigned, whether or not its version still exists."""
    unfinished: tuple[int, ...]
    """Versions whose publisher has not decided about their promotion."""


@dataclasses.dataclass(frozen=True)
class RegisteredModel:
    """A model in the registry, with or without versions."""

    registry: str
    """Folder of all models."""
    name: str
    """The model's name in it; `check_name` defines valid names for new models."""

    @classmethod
    def at(cls, folder: str) -> RegisteredModel:
        """Returns the model at a folder `<registry>/<name>`."""
        return cls(*os.path.split(folder.rstrip("/") or folder))

    @property
    def folder(self) -> str:
        """The model's folder."""
        return os.path.join(self.registry, self.name)

    def version_folder(self, version: int) -> str:
        """Returns the folder of a version."""
        return os.path.join(self.folder, str(version))

    def digest_of(self, version: int) -> str | None:
        """Returns the SHA-256 of a version's MANIFEST.json; None without a manifest."""
        return version_digest(self.version_folder(version))

    def versions(self) -> list[int]:
        """Returns the numbers of the published versions, oldest first."""
        try:
            numbers = map(version_number, os.listdir(self.folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(number for number in numbers if number is not None)

    def check_version(self, version: int) -> None:
        """Raises InputError unless this version exists."""
        found = self.versions()
        if version not in found:
            there = f"there are {', '.join(map(str, found))}" if found else "there is none"
            raise InputError(f"{self.folder} has no version {version}; {there}")

    def has_pointer(self) -> bool:
        """Returns whether there is a champion.json, whole or damaged."""
        return os.path.exists(os.path.join(self.folder, CHAMPION_FILE))

    def read_pointer(self) -> Pointer | None:
        """Reads champion.json; None if no version has become champion yet.

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
                f"{path} is damaged; charloom registry promote {self.folder} VERSION rewrites it"
            ) from None

    def write_pointer(self, pointer: Pointer) -> None:
        """Replaces champion.json, filling in unknown digests; the lock must be held."""
        write_whole(os.path.join(self.folder, CHAMPION_FILE), pointer.to_json(self.digest_of))

    def champion(self) -> Entry | None:
        """Returns the champion, with the digest of its folder if the pointer has none.

        Raises:
          InputError: champion.json is damaged.
        """
        pointer = self.read_pointer()
        if pointer is None:
            return None
        return Entry(pointer.version, pointer.digest or self.digest_of(pointer.version))

    def champion_folder(self) -> str | None:
        """Returns the champion's folder, or None without a champion.

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
        """Returns the folder of the best version so far, which may be gone; None: not set.

        Raises:
          InputError: champion.json is damaged, or the folder now holds another version.
        """
        pointer = self.read_pointer()
        if pointer is None or pointer.reference is None:
            return None
        folder = self.version_folder(pointer.reference.version)
        if not os.path.isdir(folder):
            return folder
        return self.folder_of(pointer.reference, is_reference=True)

    def folder_of(self, entry: Entry, *, is_reference: bool = False) -> str:
        """Returns the folder of the version in a pointer's entry.

        Args:
          entry: an entry of the model's pointer.
          is_reference: whether it is the reference; determines the advice in the error.

        Raises:
          InputError: the folder is gone, or holds another version than the one published under this
            number.
        """
        folder = self.version_folder(entry.version)
        command, role = ("rebase", "reference") if is_reference else ("promote", "champion")
        instead = f"charloom registry {command} {self.folder} VERSION sets another {role}"
        if not os.path.isdir(folder):
            raise InputError(
                f"{os.path.join(self.folder, CHAMPION_FILE)} names version {entry.version}, which "
                f"is gone; {instead}"
            )
        if entry.digest is not None and version_digest(folder) != entry.digest:
            raise self.replaced_error(entry.version, instead)
        return folder

    def replaced_error(self, version: int, instead: str) -> InputError:
        """Returns the error for a version number that now belongs to another version's folder."""
        return InputError(
            f"{self.version_folder(version)} is not the version {version} that {CHAMPION_FILE} "
            f"names (its MANIFEST.json differs); restore that version, or {instead}"
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps others from changing champion and pins, and from removing versions.

        The lock ends with the process that holds it, however that ends.

        Raises:
          InputError: there is no such model, or the registry can't be written or locked.
        """
        try:
            file = open(os.path.join(self.folder, LOCK_FILE), "a", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{self.folder} can't be changed ({error.strerror}); "
                "name a model in a registry, <registry>/<name>"
            ) from None
        with file:
            lock_file(file)
            yield

    def read_numbers(self) -> Numbers:
        """Returns the highest version number ever assigned, and versions with undecided promotions.

        The number is stored in numbers.json and, redundantly, in champion.json, so that neither
        removing a version nor damaging a file makes a number be reused.
        """
        try:
            content = read_json(os.path.join(self.folder, NUMBERS_FILE))
            newest, unfinished = int(content["newest"]), tuple(map(int, content["unfinished"]))
        except (ValueError, KeyError, TypeError):  # missing or damaged: existing versions count
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
        """Records that a version's promotion is decided; the lock must be held."""
        numbers = self.read_numbers()
        if version in numbers.unfinished:
            left = tuple(one for one in numbers.unfinished if one != version)
            self.write_numbers(Numbers(numbers.newest, left))

    def stage(self) -> str:
        """Creates a staging folder for a new version; returns its path.

        Raises:
          InputError: the registry can't be written or locked, or the name is invalid.
        """
        check_name(self.name)
        try:
            os.makedirs(self.folder, exist_ok=True)
            with open(os.path.join(self.folder, LOCK_FILE), "a", encoding="utf-8") as file:
                lock_file(file, wait=False)  # only whether it can be locked, before the work
            folder = tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self.folder)
        except OSError as error:
            raise InputError(
                f"registry {self.registry} can't be written ({error.strerror}); choose another"
            ) from None
        os.chmod(folder, 0o755)
        return folder

    def publish(self, staged: str, *, find: Callable[[], str | None] | None = None) -> str:
        """Renames a filled staging folder to the next version number, flushed to disk.

        The number is recorded under the lock before it is used: no two publishers get the same one,
        and none is reused, whatever is removed later.

        Args:
          staged: the filled folder, with its manifest.
          find: looks, under the lock, for a version with the same content; if there is one, it is
            returned and no new version is published.

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
                    if os.path.exists(target):  # taken by a process without the lock
                        continue
                    raise
                return target


def check_name(name: str) -> None:
    """Raises InputError unless `name` is valid for a model's folder.

    A name of only digits would look like a version, and the registry like a model.
    """
    if len(name) > MAX_NAME_CHARACTERS:
        raise InputError(
            f"model name {name[:20]!r}... is too long ({len(name)} characters); "
            f"{MAX_NAME_CHARACTERS} are allowed"
        )
    if name.isdecimal():
        raise InputError(
            f"model name {name!r} is a number, like a version; add a letter, such as m{name}"
        )
    if not _NAME.fullmatch(name):
        raise InputError(
            f"model name {name!r} must start with a letter or digit and contain only letters, "
            "digits, '.', '_' and '-'"
        )


def version_digest(folder: str) -> str | None:
    """Returns the SHA-256 of a version's MANIFEST.json; None without a manifest."""
    try:
        return hash_file(os.path.join(folder, MANIFEST_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None


def find_model(path: str) -> str:
    """Returns the folder of a SavedModel.

    Args:
      path: the folder of a version, or of a model, whose champion is used.

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
        f"{path} is not an exported model; name a version's folder, <registry>/<name>/<number>"
    )
