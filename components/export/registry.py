"""The model registry: integer version folders, as TensorFlow Serving wants them.

<registry>/<name>/<version>/      a model that is whole; `components.export.main` says what is in it
                  champion.json   which version is the one to use, and those that were it before
                  numbers.json    the highest number given out, and what is not decided yet
                  pins.json       versions that stay
                  .lock           held by whoever changes one of these
                  .staging-*      a version that is being filled

Readers need no lock: every file is replaced whole, and a version's folder gets its number by
being renamed when nothing is missing in it.

champion.json, where a digest is the SHA-256 of a version's MANIFEST.json, since a number alone
says little once somebody has removed or copied a folder by hand:

{"format": 2, "version": 3, "digest": D3, "history": [{"version": 1, "digest": D1}, ...],
 "newest": 7, "reference": {"version": 2, "digest": D2}}

The older form {"version": 3, "history": [1, 2]} is read as well; its digests are unknown, and are
filled in when the pointer is written next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from components.export.manifest import MANIFEST_FILE
from model.errors import InputError
from model.files import hash_file, publish_folder, read_json, write_whole

CHAMPION_FILE = "champion.json"
POINTER_FORMAT = 2
NUMBERS_FILE = "numbers.json"
LOCK_FILE = ".lock"
STAGING_PREFIX = ".staging-"
MAX_NAME_CHARACTERS = 128
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A version that a pointer names."""

    version: int
    """Its number."""
    digest: str | None = None
    """SHA-256 of its MANIFEST.json; None: unknown, as in a pointer of the older form."""


@dataclasses.dataclass(frozen=True)
class Pointer:
    """What champion.json says."""

    version: int
    """The champion's number."""
    digest: str | None = None
    """SHA-256 of the champion's MANIFEST.json; None: unknown."""
    history: tuple[Entry, ...] = ()
    """Versions that were champion before, oldest first; a rollback takes the last."""
    newest: int = 0
    """The highest number ever given out, whether or not its version is still there."""
    reference: Entry | None = None
    """The best version so far, which bounds the drift of a chain of champions."""

    @property
    def champion(self) -> Entry:
        """The champion's number and digest."""
        return Entry(self.version, self.digest)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All versions that the pointer names: former champions, the champion, the reference."""
        reference = () if self.reference is None else (self.reference,)
        return (*self.history, self.champion, *reference)


def read_pointer(model_dir: str) -> Pointer | None:
    """Reads which version of a model is the champion.

    Args:
      model_dir: the model's folder, `<registry>/<name>`.

    Returns:
      The pointer; None where no version has become champion yet.

    Raises:
      InputError: champion.json is damaged.
    """
    path = os.path.join(model_dir, CHAMPION_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            return _parse(json.load(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is damaged; charloom registry promote {model_dir} VERSION makes it anew"
        ) from None


def write_pointer(model_dir: str, pointer: Pointer) -> None:
    """Replaces champion.json and fills in digests that are unknown; the lock must be held."""

    def known(entry: Entry) -> dict[str, Any]:
        digest = entry.digest or version_digest(os.path.join(model_dir, str(entry.version)))
        return {"version": entry.version, "digest": digest}

    content = {
        "format": POINTER_FORMAT,
        **known(pointer.champion),
        "history": [known(entry) for entry in pointer.history],
        "newest": max(pointer.newest, *(entry.version for entry in pointer.entries)),
        "reference": None if pointer.reference is None else known(pointer.reference),
    }
    write_whole(os.path.join(model_dir, CHAMPION_FILE), json.dumps(content) + "\n")


def version_digest(folder: str) -> str | None:
    """Returns the SHA-256 of a version's MANIFEST.json; None where there is no manifest."""
    try:
        return hash_file(os.path.join(folder, MANIFEST_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None


def entry_folder(model_dir: str, entry: Entry, *, is_reference: bool = False) -> str:
    """Returns the folder of the version that an entry of the pointer means.

    Args:
      model_dir: the model's folder.
      entry: of its pointer.
      is_reference: whether it is the reference; an error then says how to move that.

    Raises:
      InputError: the folder is gone, or holds another version than the one that was published
        under this number.
    """
    folder = os.path.join(model_dir, str(entry.version))
    command, role = ("rebase", "reference") if is_reference else ("promote", "champion")
    instead = f"charloom registry {command} {model_dir} VERSION makes another one the {role}"
    if not os.path.isdir(folder):
        raise InputError(
            f"{os.path.join(model_dir, CHAMPION_FILE)} names version {entry.version}, which is "
            f"gone; {instead}"
        )
    if entry.digest is not None and version_digest(folder) != entry.digest:
        raise InputError(
            f"{folder} is not the version {entry.version} that {CHAMPION_FILE} names (its "
            f"MANIFEST.json is another one); put that version back, or {instead}"
        )
    return folder


def _parse(content: Mapping[str, Any]) -> Pointer:
    if content.get("format", POINTER_FORMAT) != POINTER_FORMAT:
        raise ValueError
    champion = _entry(content)
    history = content.get("history", [])
    if not isinstance(history, list):
        raise TypeError
    entries = tuple(_entry(one) for one in history)
    reference = content.get("reference")
    newest = content.get("newest", 0)
    if type(newest) is not int:
        raise TypeError
    return Pointer(
        champion.version,
        champion.digest,
        entries,
        max(newest, champion.version, *(one.version for one in entries)),
        None if reference is None else _entry(reference),
    )


def _entry(value: Any) -> Entry:
    """Returns an entry of either form: a number, or a number with its digest."""
    if type(value) is int:
        return Entry(value)
    version, digest = value["version"], value.get("digest")
    if type(version) is not int or not (digest is None or isinstance(digest, str)):
        raise TypeError
    return Entry(version, digest)


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


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What numbers.json says."""

    newest: int
    """The highest number given out, whether or not its version is still there."""
    unfinished: tuple[int, ...]
    """Versions about whose promotion their publisher has not decided."""


def read_numbers(model_dir: str) -> Numbers:
    """Returns the highest number of a model's versions that was ever given out.

    The number stands in numbers.json and, as a second copy, in champion.json, so that neither a
    removed version nor a damaged file brings a number back.
    """
    try:
        content = read_json(os.path.join(model_dir, NUMBERS_FILE))
        newest, unfinished = int(content["newest"]), tuple(map(int, content["unfinished"]))
    except (ValueError, KeyError, TypeError):  # none yet, or damaged: what is there counts
        newest, unfinished = 0, ()
    with contextlib.suppress(InputError):
        pointer = read_pointer(model_dir)
        newest = max(newest, pointer.newest if pointer else 0)
    there = versions(*os.path.split(model_dir))
    return Numbers(max(newest, *there, 0), tuple(sorted(set(unfinished) & set(there))))


def write_numbers(model_dir: str, numbers: Numbers) -> None:
    """Replaces numbers.json; the lock must be held."""
    content = {"newest": numbers.newest, "unfinished": list(numbers.unfinished)}
    write_whole(os.path.join(model_dir, NUMBERS_FILE), json.dumps(content) + "\n")


def settle(model_dir: str, *decided: int) -> None:
    """Notes that it is decided whether some versions are champion; the lock must be held."""
    numbers = read_numbers(model_dir)
    if set(decided) & set(numbers.unfinished):
        left = tuple(one for one in numbers.unfinished if one not in decided)
        write_numbers(model_dir, Numbers(numbers.newest, left))


def publish(
    registry: str, name: str, *, staged: str, find: Callable[[], str | None] | None = None
) -> str:
    """Gives a filled staging folder the next version number, flushed to disk.

    The number is noted before it is used, under the lock: no two publishers get the same one, and
    none comes back, whatever is removed later.

    Args:
      registry: folder of all models.
      name: the model's name.
      staged: the filled folder, with its manifest.
      find: looks, under the lock, for a version that is the same; it is returned in place of a new
        one if there is one.

    Returns:
      The version's folder.
    """
    model_dir = os.path.join(registry, name)
    with locked(registry, name):
        if find is not None and (found := find()):
            return found
        while True:
            numbers = read_numbers(model_dir)
            number = numbers.newest + 1
            write_numbers(model_dir, Numbers(number, (*numbers.unfinished, number)))
            with contextlib.suppress(InputError):  # a damaged pointer can wait
                if pointer := read_pointer(model_dir):
                    write_pointer(model_dir, dataclasses.replace(pointer, newest=number))
            target = os.path.join(model_dir, str(number))
            try:
                publish_folder(staged, target)
            except OSError:
                if os.path.exists(target):  # somebody who takes no lock was faster
                    continue
                raise
            return target


def read_champion(registry: str, name: str) -> int | None:
    """Returns the champion's number, or None where there is none."""
    pointer = read_pointer(os.path.join(registry, name))
    return None if pointer is None else pointer.version


def champion_folder(registry: str, name: str) -> str | None:
    """Returns the champion's folder, or None where there is none.

    Raises:
      InputError: champion.json is damaged, or names a version that is gone or was replaced.
    """
    model_dir = os.path.join(registry, name)
    pointer = read_pointer(model_dir)
    if pointer is None:
        return None
    return find_model(entry_folder(model_dir, pointer.champion))


def find_model(path: str) -> str:
    """Returns the folder of a SavedModel.

    Args:
      path: a version's folder, or a model's, whose champion is taken.

    Raises:
      InputError: there is no model, or the champion is gone or was replaced.
    """
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        return path
    pointer = read_pointer(path)
    if pointer is not None:
        folder = entry_folder(path, pointer.champion)
        if os.path.exists(os.path.join(folder, "saved_model.pb")):
            return folder
        path = folder
    raise InputError(
        f"{path} holds no exported model; name a version's folder, <registry>/<name>/<number>"
    )
