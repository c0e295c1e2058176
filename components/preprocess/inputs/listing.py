"""Lists the files of the corpus and names them; no TensorFlow."""

from __future__ import annotations

import codecs
import dataclasses
import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from components.preprocess.inputs.split_names import find_place, name_below, split_mark
from components.preprocess.inputs.walking import MAGIC, Walker, split_fixed
from components.preprocess.sources.files import is_remote, open_file
from components.preprocess.sources.packed import DamagedError
from components.preprocess.sources.types import GONE, InputFile, ListedFile, UnsteadyError
from model.errors import InputError, RestartableError


@dataclasses.dataclass(frozen=True, slots=True)
class _Candidate:
    """A file by one of its paths; small, as there may be millions."""

    path: str
    size: int
    modified: int
    flag: str
    name: str
    root: str

    @property
    def rank(self) -> tuple[bool, str, str]:
        """Orders the paths of one file: without a link below the root first, then by name."""
        if is_remote(self.path):
            return False, self.name, self.path
        place, root = find_place(self.path), find_place(self.root)
        direct = os.path.realpath(root) + place.removeprefix(root.rstrip("/"))
        return os.path.realpath(self.path) != direct, self.name, place

    def as_input(self) -> InputFile:
        """Returns the file of the corpus."""
        split = "" if self.flag == "input" else self.flag
        return InputFile(self.path, self.name, self.size, split, self.modified)


def find_files(
    inputs: Sequence[str] = (),
    *,
    train: Sequence[str] = (),
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    source_root: str = "",
    output: str = "",
    stored: StoredFiles | None = None,
) -> list[InputFile]:
    """Lists the files that inputs name, each once, in the order of their names.

    Args:
      inputs: files, glob patterns (`**` crosses folders) or folders; a folder stands
        for all files below it, hidden ones left out. `@FILE` stands for those that a file
        lists, one a line. Names begin after `/./` in a pattern; without it, at the part with
        its first wildcard, below a folder, or at the base name of a file.
      train: in place of `inputs`, those of the training split.
      valid: those of the validation split.
      test: those of the test split.
      source_root: folder below which all names begin that no `/./` says otherwise for.
      output: folder that the records are written to; it is never read.
      stored: what was already listed in object stores.

    Raises:
      InputError: an input gives no file, or something that is not a readable file; a
        file is named for two splits, is outside `source_root` or shares its name with another.
      RestartableError: the store of a file or list is busy or out of reach.
    """
    given = {"input": inputs, "train": train, "valid": valid, "test": test}
    _check_flags(given)
    lister = _Lister(source_root, Walker(output), StoredFiles() if stored is None else stored)
    for flag, patterns in given.items():
        for pattern, shown in _read_patterns(patterns, flag):
            lister.add(pattern, shown, flag)
    lister.say_left_out()
    files = list(lister.take())
    files.reverse()  # as they were found
    _check_stores(files)
    _check_names(files)
    order = ["", "train", "valid", "test"]
    files.sort(key=lambda file: order.index(file.split))
    files.sort(key=lambda file: file.name)
    return files


class StoredFiles(dict[str, list[ListedFile]]):
    """Pattern -> the files of an object store that it matches, which are listed once."""

    def __missing__(self, pattern: str) -> list[ListedFile]:
        self[pattern] = _match_remote(pattern)
        return self[pattern]


class _Lister:
    """Gathers the files of patterns: for each one the path and name that it goes by."""

    def __init__(self, source_root: str, walker: Walker, stored: StoredFiles):
        self._source_root = source_root
        self._walker = walker
        self._stored = stored
        self._chosen: dict[object, _Candidate] = {}

    def add(self, pattern: str, shown: str, flag: str) -> None:
        """Adds the files of a pattern; `shown` says where it comes from."""
        pattern, marked = split_mark(pattern)
        empty = True
        for found, fixed in self._find(pattern):
            empty = False
            if marked is not None:
                root, kind = marked, "the folder before /./,"
            elif self._source_root:
                root, kind = self._source_root, "--source-root"
            else:
                root, kind = fixed, "the folder of its pattern,"
            name = name_below(found.path, root, shown=kind)
            candidate = _Candidate(found.path, found.size, found.modified, flag, name, root)
            self._choose(found.identity, candidate)
        if empty:
            raise _no_match(shown)

    def _find(self, pattern: str) -> Iterator[tuple[ListedFile, str]]:
        """Yields the files of a pattern, and the fixed part of it."""
        if is_remote(pattern):
            for found in self._stored[pattern]:
                yield found, _fixed_address(pattern, found.path)
            return
        fixed = _fixed_folder(pattern)
        for path in self._walker.files(pattern):
            yield _look_at(path), fixed

    def _choose(self, identity: object, candidate: _Candidate) -> None:
        """Adds a file, or chooses between two paths of one."""
        other = self._chosen.setdefault(identity, candidate)
        if find_place(candidate.path) == find_place(other.path):  # goes by the first path given
            candidate = dataclasses.replace(candidate, path=other.path)
        if other.flag != candidate.flag:
            path, same = other.path, candidate.path
            also = f" ({same} is the same file)" if same != path else ""
            raise InputError(
                f"{path} is named for --{other.flag} and for --{candidate.flag}{also}; choose one"
            )
        if candidate != other:
            self._chosen[identity] = min(other, candidate, key=lambda one: one.rank)

    def take(self) -> Iterator[InputFile]:
        """Yields the files, the last one first, and forgets them."""
        while self._chosen:
            yield self._chosen.popitem()[1].as_input()

    def say_left_out(self) -> None:
        """Says which folders were not read."""
        if self._walker.left_out:
            count, first = len(self._walker.left_out), next(iter(self._walker.left_out))
            print(f"folders that charloom made are not read: {first}, {count} in all", flush=True)


def exists(pattern: str, stored: StoredFiles) -> bool:
    """Returns whether a pattern matches a file, or the list that it names is there.

    Raises:
      InputError: a store or a folder can't be asked, or the pattern names output of charloom.
    """
    pattern, _ = split_mark(pattern.removeprefix("@"))
    if is_remote(pattern):
        return bool(stored[pattern])
    return next(Walker().files(pattern), None) is not None


def check_names(inputs: Sequence[str]) -> None:
    """Looks whether inputs name any files here; lists and stores are left to the listing.

    Raises:
      InputError: one names no file.
    """
    for pattern in inputs:
        here = not pattern.startswith("@") and not is_remote(pattern)
        if here and not exists(pattern, StoredFiles()):
            raise _no_match(f"--input {pattern!r}")


def _no_match(shown: str) -> InputError:
    return InputError(f"no file matches {shown}; check the path and the pattern")


def _check_flags(given: Mapping[str, Sequence[str]]) -> None:
    used = [f"--{flag}" for flag, patterns in given.items() if patterns]
    if not used:
        raise InputError(
            "no input given; name files, glob patterns or folders with --input, or those of each "
            "split with --train, --valid and --test"
        )
    if given["input"] and len(used) > 1:
        raise InputError(
            f"--input and {used[1]} exclude each other; name all text with --input, or that of "
            "each split with --train, --valid and --test"
        )
    if not given["input"] and not given["train"]:
        raise InputError(f"{used[0]} is given without --train; name the training text, too")


def _check_stores(files: Sequence[InputFile]) -> None:
    if len({file.path.partition("://")[0] if is_remote(file.path) else "" for file in files}) > 1:
        raise InputError(
            "the input is partly local and partly in an object store, or in two stores; keep it in one"
        )


def _check_names(files: Sequence[InputFile]) -> None:
    """Raises InputError if two files of one split have the same name."""
    named: dict[str, str] = {}
    for file in files:
        other = named.setdefault(file.full_name, file.path)
        if other != file.path:
            first, second = sorted((other, file.path))
            raise InputError(
                f"{first} and {second} are both named {file.name!r}; give --source-root, a folder "
                "that holds both, or write /./ in the patterns where names begin"
            )


def _read_patterns(patterns: Sequence[str], flag: str) -> Iterator[tuple[str, str]]:
    """Yields the patterns of a flag, those of its lists too, and where each comes from."""
    for pattern in patterns:
        if not pattern.startswith("@"):
            yield pattern, f"--{flag} {pattern!r}"
            continue
        for number, line in _read_list(pattern[1:], flag):
            yield line, f"line {number} of the list {pattern[1:]} ({line!r})"


def _read_list(path: str, flag: str) -> list[tuple[int, str]]:
    """Returns the lines of a list that name files, with their numbers from 1."""
    try:
        with open_file(path) as file:
            data = file.read()
    except (OSError, DamagedError) as error:
        detail = getattr(error, "strerror", None) or error
        if isinstance(error, UnsteadyError) and detail != GONE:
            raise RestartableError(
                f"--{flag} @{path}: the list can't be read for now ({detail}); run the command again"
            ) from None
        raise InputError(
            f"--{flag} @{path}: the list can't be read ({detail}); check its path, or write ./@... "
            "for a file of such a name"
        ) from None
    lines = []
    for number, raw in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        line = os.fsdecode(raw.strip())
        if not line or line.startswith("#"):
            continue
        if "\0" in line or line.startswith("@"):
            raise InputError(
                f"line {number} of the list {path} is not a path; a list has text files, folders or "
                "patterns, one a line"
            )
        lines.append((number, line))
    if not lines:
        raise InputError(f"the list {path} names no file; write one path or pattern a line")
    return lines


def _match_remote(pattern: str) -> list[ListedFile]:
    from components.preprocess.sources import remote  # Beam takes a while

    return remote.match(pattern)


def _fixed_folder(pattern: str) -> str:
    """Returns the folder below which the names of a pattern begin."""
    if os.path.isdir(pattern):
        return pattern
    return os.path.dirname(pattern) if os.path.lexists(pattern) else split_fixed(pattern)[0]


def _fixed_address(pattern: str, found: str) -> str:
    """Returns the same of an address, one of whose files is `found`."""
    if found == pattern:
        return pattern.rpartition("/")[0]
    return split_fixed(pattern)[0] if MAGIC.search(pattern) else pattern


def _look_at(path: str) -> ListedFile:
    """Returns what is known of a file that can be read twice."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file; copy its content to a file first")
        with open(path, "rb"):
            return ListedFile(
                path, status.st_size, status.st_mtime_ns, (status.st_dev, status.st_ino)
            )
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); leave it out") from None
