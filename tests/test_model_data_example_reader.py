"""`model.data.example_reader` against the protobuf library, which defines what a record says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError

from model.data import example_reader
from model.data.example_reader import Features, parse_features, parse_word_ids
from model.data.records import encode_record, parse_record
from model.text.vocab import DOCUMENT_START, LINE_END, Vocabulary

VOCAB = Vocabulary.build({b"the": 3, "é".encode(): 2, LINE_END: 1}, max_size=8, min_count=1)
SOURCE = "folder/file.txt:123"
LISTS = ("word_ids", "word_lengths", "char_ids")


@pytest.fixture(autouse=True)
def decode_short_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_reader, "_SHORT_BYTES", 0)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets no record be read by the protobuf library."""
    monkeypatch.setattr(
        example_reader, "_parse_any", lambda data: pytest.fail("read by the library")
    )


def by_library(data: bytes) -> Features:
    feature = tf.train.Example.FromString(data).features.feature
    lists = [np.asarray(feature[name].int64_list.value, np.int64) for name in LISTS]
    return Features(*lists, feature["source"].bytes_list.value[0])


def assert_same(found: Features, expected: Features) -> None:
    for name in LISTS:
        array = getattr(found, name)
        assert array.dtype == np.int64
        assert array.flags.writeable
        assert array.tolist() == getattr(expected, name).tolist(), name
    assert found.source == expected.source


def make_example(*, source: bytes = b"s:1", **lists: Sequence[int]) -> bytes:
    """Serialises lists of numbers; those that are not named are left out."""
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in lists.items()
    }
    features["source"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[source]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString(deterministic=True))


STREAMS = {
    "no words": [DOCUMENT_START],
    "marks": [DOCUMENT_START, LINE_END, LINE_END],
    "one letter": [DOCUMENT_START, b"a"],
    "every byte": [bytes([byte]) for byte in range(256)],
    "four bytes a character": ["😀🦉".encode(), "𐍈".encode() * 9, b"the"],
    "a long word": [b"the", "aé".encode() * 33_334, b"the"],
    "many": [b"the", b"zebra", "é".encode()] * 3000,
}


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("name", STREAMS)
def test_records(name: str) -> None:
    data = encode_record(STREAMS[name], VOCAB, source=SOURCE)
    assert_same(parse_features(data), by_library(data))
    assert parse_word_ids(data).tolist() == by_library(data).word_ids.tolist()
    record = parse_record(data)
    assert record.source == SOURCE
    assert record.spelled_words() == STREAMS[name]


@pytest.mark.usefixtures("no_library")
def test_random_records() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        sizes = random.geometric(0.2, int(random.integers(1, 60)))
        words = [random.bytes(int(size)) for size in sizes]
        data = encode_record(words, VOCAB, source="é" * int(random.integers(0, 200)))
        assert_same(parse_features(data), by_library(data))


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("bits", range(1, 64))
def test_numbers_of_any_length(bits: int) -> None:
    edges = [(1 << bits) - 1, 1 << (bits - 1), 0, 1, 127, 128, (1 << bits) - 2]
    data = make_example(word_ids=edges, word_lengths=edges[:1], char_ids=edges[::-1])
    assert parse_features(data).word_ids.tolist() == edges
    assert_same(parse_features(data), by_library(data))


@pytest.mark.usefixtures("no_library")
def test_the_entries_may_come_in_any_order() -> None:
    data = encode_record([b"the", b"zebra"], VOCAB, source=SOURCE)
    entries = split_entries(data)
    assert len(entries) == 4
    for order in ([3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]):
        changed = join_entries([entries[at] for at in order])
        assert changed != data
        assert_same(parse_features(changed), by_library(data))


def field(tag: int, content: bytes) -> bytes:
    size, head = len(content), [tag]
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*head, size]) + content


def split_entries(data: bytes) -> list[bytes]:
    """Returns the entries of an `Example`, tag and size included."""
    features = tf.train.Example.FromString(data).features.feature
    return [
        field(0x0A, field(0x0A, key.encode()) + field(0x12, features[key].SerializeToString()))
        for key in sorted(features)
    ]


def join_entries(entries: Sequence[bytes]) -> bytes:
    return field(0x0A, b"".join(entries))


def entry(key: bytes, feature: bytes) -> bytes:
    return field(0x0A, field(0x0A, key) + field(0x12, feature))


ENTRIES = split_entries(encode_record([b"the", b"zebra"], VOCAB, source=SOURCE))
CHARS, ORIGIN, IDS, LENGTHS = ENTRIES
# What the library reads though no serializer of ours writes it. name: data
UNUSUAL = {
    "one number a field": join_entries([CHARS, ORIGIN, LENGTHS])
    + join_entries([entry(b"word_ids", field(0x1A, b"\x08\x03\x08\x01"))]),
    "unpacked": join_entries([CHARS, ORIGIN, LENGTHS, entry(b"word_ids", b"\x1a\x02\x08\x03")]),
    "in two packs": join_entries(
        [CHARS, ORIGIN, LENGTHS, entry(b"word_ids", field(0x1A, b"\x0a\x01\x03\x0a\x01\x01"))]
    ),
    "twice": join_entries([entry(b"word_ids", field(0x1A, b"\x0a\x01\x07")), *ENTRIES]),
    "in two halves": join_entries(ENTRIES[:2]) + join_entries(ENTRIES[2:]),
    "value before key": join_entries(
        [
            CHARS,
            ORIGIN,
            LENGTHS,
            field(0x0A, field(0x12, field(0x1A, b"\x0a\x01\x03")) + field(0x0A, b"word_ids")),
        ]
    ),
    "without word_ids": join_entries([CHARS, ORIGIN, LENGTHS]),
    "an empty feature": join_entries([CHARS, ORIGIN, LENGTHS, entry(b"word_ids", b"")]),
    "another type": join_entries(
        [CHARS, ORIGIN, LENGTHS, entry(b"word_ids", field(0x12, b"\x0a\x04\0\0\0\0"))]
    ),
    "negative": make_example(word_ids=[3, -1], word_lengths=[1, 1], char_ids=[-(1 << 63), 5]),
    "a number longer than it need be": join_entries(
        [CHARS, ORIGIN, LENGTHS, entry(b"word_ids", field(0x1A, b"\x0a\x03\x83\x80\x00"))]
    ),
    "a size longer than it need be": b"\x0a"
    + bytes([len(b"".join(ENTRIES)) | 0x80, 0])
    + b"".join(ENTRIES),
    "an unknown field": join_entries(ENTRIES) + field(0x7A, b"more"),
    "two sources": join_entries(
        [CHARS, IDS, LENGTHS, entry(b"source", field(0x0A, field(0x0A, b"a") + field(0x0A, b"b")))]
    ),
    "more features": join_entries([*ENTRIES, entry(b"weights", field(0x12, b"\x0a\x04\0\0\0\0"))]),
    "an empty source": join_entries([CHARS, IDS, LENGTHS, entry(b"source", b"\x0a\x02\x0a\x00")]),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_forms(name: str) -> None:
    expected = by_library(UNUSUAL[name])
    assert_same(parse_features(UNUSUAL[name]), expected)
    assert parse_word_ids(UNUSUAL[name]).tolist() == expected.word_ids.tolist()


BAD = {
    "nothing": (b"", IndexError),
    "no source": (join_entries([CHARS, IDS, LENGTHS]), IndexError),
    "a source of no values": (
        join_entries([CHARS, IDS, LENGTHS, entry(b"source", b"\x0a\x00")]),
        IndexError,
    ),
    "cut short": (join_entries(ENTRIES)[:-1], DecodeError),
    "a number cut short": (
        join_entries([CHARS, ORIGIN, LENGTHS, entry(b"word_ids", field(0x1A, b"\x0a\x01\x83"))]),
        DecodeError,
    ),
    "a number without end": (
        join_entries([CHARS, ORIGIN, entry(b"word_ids", field(0x1A, field(0x0A, b"\xff" * 11)))]),
        DecodeError,
    ),
    "no example": (b"\xff\xff\xff", DecodeError),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_record(name: str) -> None:
    data, error = BAD[name]
    with pytest.raises(error):
        by_library(data)
    with pytest.raises(error):
        parse_features(data)


def outcome(parse: Callable[[bytes], Features], data: bytes) -> Any:
    try:
        features = parse(data)
    except Exception as error:
        return type(error)
    return [getattr(features, name).tolist() for name in LISTS], features.source


def test_damaged_bytes() -> None:
    # The checksum finds damage before; so what matters is that both see the same.
    random = np.random.default_rng(2)
    good = encode_record([b"the", "é😀".encode() * 40, b"zebra"] * 2, VOCAB, source=SOURCE)
    seen = set()
    for turn in range(6000):
        data = bytearray(good)
        for _ in range(int(random.integers(1, 4))):
            kind, at = random.integers(0, 4), int(random.integers(0, len(data)))
            if kind == 0:
                data[at] ^= 1 << int(random.integers(0, 8))
            elif kind == 1:
                data[at] = int(random.choice([0, 0x0A, 0x12, 0x1A, 0x7F, 0x80, 0xFF]))
            elif kind == 2:
                del data[at : at + int(random.integers(1, 4))]
            else:
                data[at:at] = random.bytes(int(random.integers(1, 4)))
        expected = outcome(by_library, bytes(data))
        assert outcome(parse_features, bytes(data)) == expected, (turn, bytes(data))
        seen.add(expected if isinstance(expected, type) else "read")
    assert seen == {"read", IndexError, DecodeError}


def test_short_records_are_read_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    any_form = example_reader._parse_any

    def count(data: bytes) -> Features:
        calls.append(len(data))
        return any_form(data)

    monkeypatch.setattr(example_reader, "_SHORT_BYTES", 400)
    monkeypatch.setattr(example_reader, "_parse_any", count)
    short = encode_record([b"the"] * 5, VOCAB, source=SOURCE)
    long = encode_record([b"the"] * 500, VOCAB, source=SOURCE)
    assert_same(parse_features(short), by_library(short))
    assert_same(parse_features(long), by_library(long))
    assert calls == [len(short)]
    assert parse_word_ids(short).tolist() == [3] * 5
    assert calls == [len(short)] * 2
