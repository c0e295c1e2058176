"""A corpus file, and the error if it has changed since it was listed. No TensorFlow, no Beam."""

from __future__ import annotations

import dataclasses
import errno
from typing import NamedTuple

CHANGED = "it was changed or removed after it was listed"


class UnsteadyError(OSError):
    """A file that may be readable later: its store can't be reached, or it has changed."""

    def __init__(self, text: str):
        """Stores the description."""
        super().__init__(errno.EIO, text)


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
        return self.path if self.place is None else (*self.place, self.size, self.modified)


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One file of the corpus.

    Attributes:
      path: path or address.
      name: its path below the fixed part of its pattern, with `/`. The name, not the path,
        determines its order and split, so that another checkout or date window gives the same
        records.
      size: size in bytes.
      split: split of all its records; empty if a hash decides for each.
      modified: modification time, in nanoseconds.
      listed: whether size and time were looked up, so that a later change is an error.
    """

    path: str
    name: str
    size: int
    split: str = ""
    modified: int = 0
    listed: bool = False

    @property
    def full_name(self) -> str:
        """The name, after the split if one is given."""
        return f"{self.split}:{self.name}" if self.split else self.name
