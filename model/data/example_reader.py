"""Parses a record's serialized `tf.train.Example` into arrays without a Python object per number.

The protobuf library turns every value into a Python integer; here a whole list of varints is
decoded at once. Only the form that serializers write is parsed this way. The protobuf library
parses all other forms, with the same result, and rejects what is not an `Example`:

  Example   0a size ( 0a size entry )*                      entries in any order
  entry     0a size key  12 size Feature
  Feature   1a size [0a size varint*]  |  0a size 0a size bytes
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A
"""Tags of length-delimited fields: 1, 2 or 3."""
_BYTES_LIST, _INT64_LIST = _FIRST, _THIRD
_MAX_SIZE_BYTES = 4
_MAX_VARINT_BYTES = 9
"""Of 7 bits each; the tenth holds the sign."""
_SHORT_BYTES = 400
"""Up to here, about 50 words, the protobuf library is faster."""


class Features(NamedTuple):
    """The fields of a record's `Example`; see `model.data.records` for the shapes."""

    word_ids: IntArray
    word_lengths: IntArray
    char_ids: IntArray
    source: bytes


class _UnusualError(Exception):
    """The bytes have another form, which may still be valid."""


def parse_features(data: bytes) -> Features:
    """Parses a serialized `tf.train.Example`; a missing list counts as empty.

    Raises:
      google.protobuf.message.DecodeError: `data` is not an `Example`.
      IndexError: it has no `source`.
    """
    if len(data) <= _SHORT_BYTES:
        return _parse_any(data)
    try:
        return _parse_usual(data)
    except (_UnusualError, IndexError):
        return _parse_any(data)


def parse_word_ids(data: bytes) -> IntArray:
    """Parses only `word_ids`, which is faster; may miss errors in other fields."""
    if len(data) > _SHORT_BYTES:
        try:
            kind, start, stop = _find_features(data).get(b"word_ids", (0, 0, 0))
            if kind == _INT64_LIST:
                return _decode_varints(np.frombuffer(data, np.uint8)[start:stop])
        except (_UnusualError, IndexError):
            pass
    return _parse_any(data).word_ids


def _parse_any(data: bytes) -> Features:
    import tensorflow as tf  # takes seconds, and usual records don't need it

    feature = tf.train.Example.FromString(data).features.feature

    def int64s(name: str) -> IntArray:
        return np.asarray(feature[name].int64_list.value, np.int64)

    source = bytes(feature["source"].bytes_list.value[0])
    return Features(int64s("word_ids"), int64s("word_lengths"), int64s("char_ids"), source)


def _parse_usual(data: bytes) -> Features:
    places = _find_features(data)
    numbers = np.frombuffer(data, np.uint8)

    def content(name: bytes, tag: int) -> slice:
        kind, start, stop = places.get(name, (0, 0, 0))
        if kind != tag:
            raise _UnusualError
        return slice(start, stop)

    def int64s(name: bytes) -> IntArray:
        return _decode_varints(numbers[content(name, _INT64_LIST)])

    source = data[content(b"source", _BYTES_LIST)]
    return Features(int64s(b"word_ids"), int64s(b"word_lengths"), int64s(b"char_ids"), source)


def _find_features(data: bytes) -> dict[bytes, tuple[int, int, int]]:
    """Returns, for each key, the tag of its list and the start and end of the list's content."""
    at = _enter(data, 0, _FIRST, stop=len(data))
    places: dict[bytes, tuple[int, int, int]] = {}
    while at < len(data):
        at, stop = _read_size(data, at, _FIRST)
        at, key_stop = _read_size(data, at, _FIRST)
        key = data[at:key_stop]
        at = _enter(data, key_stop, _SECOND, stop=stop)
        kind = data[at]
        at = _enter(data, at, kind, stop=stop)
        if at < stop:
            at = _enter(data, at, _FIRST, stop=stop)
        elif kind != _INT64_LIST:
            raise _UnusualError
        if key in places:
            raise _UnusualError
        places[key] = (kind, at, stop)
        at = stop
    return places


def _enter(data: bytes, at: int, tag: int, *, stop: int) -> int:
    """Returns the start of the content of a field that must end at `stop`."""
    begin, end = _read_size(data, at, tag)
    if end != stop:
        raise _UnusualError
    return begin


def _read_size(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Reads a tag and a size; returns the start and end of the field's content."""
    if data[at] != tag:
        raise _UnusualError
    size = shift = 0
    for begin in range(at + 1, at + 1 + _MAX_SIZE_BYTES):
        byte = data[begin]
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return begin + 1, begin + 1 + size
        shift += 7
    raise _UnusualError


def _decode_varints(numbers: npt.NDArray[np.uint8]) -> IntArray:
    """Decodes consecutive varints, lowest seven bits first."""
    ends = np.flatnonzero(numbers < 0x80)
    if len(ends) == len(numbers):  # all single bytes, like most characters
        return numbers.astype(np.int64)
    if not len(ends) or ends[-1] != len(numbers) - 1:
        raise _UnusualError  # ends inside a number
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    extra = ends - starts
    values = (numbers[starts] & 0x7F).astype(np.int64)
    longest = int(extra.max())
    if longest >= _MAX_VARINT_BYTES:
        raise _UnusualError  # negative, or more than 64 bits
    longer = np.flatnonzero(extra)
    for place in range(1, longest + 1):
        byte = numbers[starts[longer] + place] & 0x7F
        values[longer] |= byte.astype(np.int64) << (7 * place)
        longer = longer[extra[longer] > place]
    return values
