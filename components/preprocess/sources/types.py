"""A corpus file, and the error if it has changed since it was listed. No TensorFlow, no Beam."""

from __future__ import annotations

import dataclasses
import errno
from typing import NamedTuple

GONE = "it is gone"


class UnsteadyError(OSError):
    """A file that may be readable later: its store can't be reached, or it has changed."""

    reason = "unsteady"
    """Why such a file is bad, as `BadTextError.reason`."""

    def __init__(self, text: str):
        """Stores the description."""
        super().__init__(errno.EIO, text)


class ChangedError(UnsteadyError):
    """A file that has changed since it was listed."""

    reason = "changed"

    @classmethod
    def check(cls, *, listed: tuple[int, int], now: tuple[int, int]) -> None:
        """Raises ChangedError if a file's size or modification time differs from the listing."""
        if now[0] != listed[0]:
            raise cls(f"it has {now[0]} bytes, not {listed[0]}")
        if now != listed:
            raise cls("it was written again")


class ListedFile(NamedTuple):
    """A file as listed."""

    path: str
    size: int
    modified: int
    """Modification time in nanoseconds; some stores give whole seconds."""
    place: tuple[int, int] | None = None
    """Device and inode; None in a store."""

    @property
    def identity(self) -> object:
        """Identifies a file across all its paths.

        Includes size and time because some file systems reuse inode numbers.
        """
        if self.place is None:
            return self.path
        return b"%d %d %d %d" % (*self.place, self.size, self.modified)  # half of a tuple's memory


@dataclasses.dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the corpus.

    Attributes:
      path: path or address.
      name: its path below the fixed part of its pattern, with `/`. The name, not the path,
        determines its order and split, so that another checkout or date window gives the same
        records.
      size: size in bytes.
      split: split of all its records; empty if a hash decides for each.
      modified: modification time, in nanoseconds; a later change is an error. None: do not check.
      from_listing: whether another task listed it, so that a retry would find the same listing.
    """

    path: str
    name: str
    size: int
    split: str = ""
    modified: int | None = None
    from_listing: bool = dataclasses.field(default=False, compare=False)

    @property
    def full_name(self) -> str:
        """The name, after the split if one is given."""
        return f"{self.split}:{self.name}" if self.split else self.name
