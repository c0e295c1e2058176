"""Reads records from many shards with few open files.

A corpus of 64 GB has over a thousand shards, more files than a process may have open by default.
"""

from __future__ import annotations

import collections
import resource
import struct
import threading
from typing import BinaryIO

from model.data.example_writer import masked_crc

MAX_OPEN = 512
"""Maximum number of shards open at a time, however many files the system allows."""
MIN_OPEN = 8
OPEN_SHARE = 4
"""One in this many of the files that the process may open can be a shard; sockets, libraries and
other data sets need the rest."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")


def read_framed(file: BinaryIO, offset: int) -> bytes:
    """Reads the record at a byte offset of a TFRecord file.

    Raises:
      ValueError: the file ends early or a checksum is wrong.
    """
    file.seek(offset)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise ValueError(f"ends inside a record at byte {offset}")
    length, length_crc = _HEADER.unpack(header)
    if masked_crc(header[:8]) != length_crc:
        raise ValueError(f"is damaged at byte {offset}")
    data = file.read(length + _CRC.size)
    if len(data) < length + _CRC.size:
        raise ValueError(f"ends inside a record at byte {offset}")
    if masked_crc(data[:length]) != _CRC.unpack(data[length:])[0]:
        raise ValueError(f"is damaged at byte {offset}")
    return data[:length]


def count_open_shards() -> int:
    """Returns how many shards may be open at a time under this process's limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_OPEN
    return max(MIN_OPEN, min(MAX_OPEN, soft // OPEN_SHARE))


class ShardFiles:
    """Shards opened for reading, as they are needed; threads may share them."""

    def __init__(self, most: int = 0):
        """Opens nothing yet.

        Args:
          most: maximum number of files open at a time, the most recently used; 0: what
            `count_open_shards` returns.
        """
        self._most = most or count_open_shards()
        self._files: collections.OrderedDict[str, BinaryIO] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Returns how many are open."""
        return len(self._files)

    def read(self, path: str, offset: int) -> bytes:
        """Reads the record at a byte offset of a shard.

        Raises:
          ValueError: the shard ends early or a checksum is wrong.
          OSError: it can't be opened or read.
        """
        with self._lock:
            return read_framed(self._open(path), offset)

    def _open(self, path: str) -> BinaryIO:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        while len(self._files) >= self._most:
            _, oldest = self._files.popitem(last=False)
            oldest.close()
        self._files[path] = open(path, "rb")
        return self._files[path]

    def close(self) -> None:
        """Closes all; a later `read` opens them again."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()
