"""A file of the corpus, and the error of one that is not what was listed. No TensorFlow, no Beam."""

from __future__ import annotations

import dataclasses
import errno
from typing import NamedTuple

GONE = "it is gone"


class UnsteadyError(OSError):
    """A file that could be read another time: its store is out of reach, or it has changed."""

    reason = "unsteady"
    """Why such a file is bad, as `BadTextError.reason`."""

    def __init__(self, text: str):
        """Keeps what is wrong."""
        super().__init__(errno.EIO, text)


class ChangedError(UnsteadyError):
    """A file that is not what was listed."""

    reason = "changed"

    @classmethod
    def check(cls, *, listed: tuple[int, int], now: tuple[int, int]) -> None:
        """Raises ChangedError if a file's size or time of change is not as it was listed."""
        if now[0] != listed[0]:
            raise cls(f"it has {now[0]} bytes, not {listed[0]}")
        if now != listed:
            raise cls("it was written again")


class ListedFile(NamedTuple):
    """A file as it was listed."""

    path: str
    size: int
    modified: int
    """When its content last changed, in nanoseconds; of whole seconds in some stores."""
    place: tuple[int, int] | None = None
    """Device and inode; None in a store."""

    @property
    def identity(self) -> object:
        """The same for all paths of one file.

        Sizes and times are in it because some file systems give an inode out twice.
        """
        return self.path if self.place is None else (*self.place, self.size, self.modified)


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One file of the corpus.

    Attributes:
      path: where it is.
      name: its path below the fixed part of its pattern, with `/`; this name, not the
        path, decides its order and its split, so that another checkout and another window
        of dates give the same records.
      size: its bytes.
      split: where all its records go; empty if a hash chooses for each of them.
      modified: when its content last changed, in nanoseconds; a later change is an error. None:
        whatever is there is meant.
      from_listing: whether another task listed it, so that trying again finds no other listing.
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
