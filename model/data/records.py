"""The record contract: what `prepare` writes and every other stage reads.

A record is one document, or a piece of a long one, as a `tf.train.Example`:

  word_ids      int64 `[L + 1]`  the word before the record, then its L words
  word_lengths  int64 `[L + 1]`  character ids of each word
  char_ids      int64 `[sum(word_lengths)]`  spelling of each word, including unknown ones
  source        bytes            file and byte offset, for lineage

Word 0 is only context: `<s>` at the start of a document, otherwise the last word of the previous
piece. A model reads `word_ids[:-1]` and predicts `word_ids[1:]`, so every word of the corpus is a
target exactly once and no record depends on another.

A records folder holds `<split>-NNNNN-of-NNNNN.tfrecord`, `<split>.index.npy` (offset and length of
each record), `<split>.characters.npy` (characters of text in each record), `vocab.txt`,
`dataset.json` and, written last, `COMPLETED`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from model.config import DataConfig, check_version, from_dict
from model.data.example_reader import parse_features, parse_word_ids
from model.data.shard_files import ShardFiles
from model.errors import InputError
from model.files import COMPLETED_FILE, is_complete, whole_file
from model.text.spelling import CHAR_OFFSET, spell, unspell
from model.text.vocab import UNK_ID, Vocabulary

FORMAT_VERSION = 3
"""Incremented when the form of records or the names of files change."""

READABLE_VERSIONS = (2, 3)
"""In version 2, split names start below the folder that all files share, so splits may be assigned
differently."""

SPLITS = ("train", "valid", "test")
VOCAB_FILE = "vocab.txt"
INFO_FILE = "dataset.json"
CARD_FILE = "data_card.html"

IntArray = npt.NDArray[np.int64]
Parsed = TypeVar("Parsed")


@dataclasses.dataclass(frozen=True)
class Record:
    """One parsed record; see the module's docstring for the shapes."""

    word_ids: IntArray
    word_lengths: IntArray
    char_ids: IntArray
    source: str

    @property
    def words(self) -> int:
        """L, the number of words predicted."""
        return len(self.word_ids) - 1

    def spelled_words(self) -> list[bytes]:
        """Returns the `[L + 1]` words of the stream, with the spelling of unknown ones."""
        ends = np.cumsum(self.word_lengths)[:-1]
        return [unspell(chars.tolist()) for chars in np.split(self.char_ids, ends)]

    def unknown_words(self) -> list[bytes]:
        """Returns the spellings of its unknown words in reading order, including word 0."""
        places = np.flatnonzero(self.word_ids == UNK_ID)
        ends = np.cumsum(self.word_lengths)
        starts = ends - self.word_lengths
        return [
            (self.char_ids[start:end] - CHAR_OFFSET).astype(np.uint8).tobytes()
            for start, end in zip(starts[places].tolist(), ends[places].tolist(), strict=True)
        ]


def shard_name(split: str, index: int, count: int) -> str:
    """Returns the file name of a shard."""
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def encode_record(words: Sequence[bytes], vocab: Vocabulary, *, source: str) -> bytes:
    """Serialises one record.

    Args:
      words: `[L + 1]` words of a stream, the context word first.
      vocab: maps words to ids.
      source: file and byte offset.
    """
    import tensorflow as tf  # takes seconds, and most importers don't need it

    def int64s(values: Sequence[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    spellings = [spell(word) for word in words]
    features = {
        "word_ids": int64s(vocab.encode(words)),
        "word_lengths": int64s([len(spelling) for spelling in spellings]),
        "char_ids": int64s([char for spelling in spellings for char in spelling]),
        "source": tf.train.Feature(bytes_list=tf.train.BytesList(value=[source.encode()])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString(deterministic=True))


def parse_record(data: bytes) -> Record:
    """Reads what `encode_record` wrote."""
    word_ids, word_lengths, char_ids, source = parse_features(data)
    return Record(word_ids, word_lengths, char_ids, source.decode())


def save_index(folder: str, split: str, parts: Iterable[IntArray]) -> dict[str, str]:
    """Writes the index of a split, `<split>.index.npy`, deterministically.

    The file holds an int64 array `[2, records]`, the records of all shards in reading order: each
    record's byte offset in its shard, and its L.

    Args:
      folder: the folder of records.
      split: its name.
      parts: `[n, 2]` byte offset in its shard and words of each of the next n records; iterated
        over several times, so that only one part need be in memory.

    Returns:
      The split's `index` entry of `dataset.json`: `file`, and its `sha256`.
    """
    columns = (part[:, column] for column in range(2) for part in parts)
    return _save_array(folder, f"{split}.index.npy", (2, sum(map(len, parts))), columns)


def save_characters(folder: str, split: str, parts: Iterable[IntArray]) -> dict[str, Any]:
    """Writes the amount of text in each record of a split, `<split>.characters.npy`.

    Args:
      folder: the folder of records.
      split: its name.
      parts: `[n]` Unicode characters of the original text of each of the next n records, in
        reading order; iterated over several times.

    Returns:
      Entries of the split in `dataset.json`: `text_characters`, the sum, and
      `character_counts`, with `file` and `sha256`.
    """
    total = sum(int(part.sum()) for part in parts)
    saved = _save_array(folder, f"{split}.characters.npy", (sum(map(len, parts)),), parts)
    return {"text_characters": total, "character_counts": saved}


def _save_array(
    folder: str, name: str, shape: tuple[int, ...], parts: Iterable[IntArray]
) -> dict[str, str]:
    """Writes an array as NumPy does, but part by part."""
    header = io.BytesIO()
    described = {"descr": "<i8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    digest = hashlib.sha256(header.getvalue())
    with whole_file(os.path.join(folder, name)) as file:
        file.write(header.getvalue())
        for part in parts:
            data = np.asarray(part, "<i8").tobytes()
            file.write(data)
            digest.update(data)
    return {"file": name, "sha256": digest.hexdigest()}


def load_index(folder: str, info: dict[str, Any]) -> IntArray:
    """Reads the index of a split.

    Args:
      folder: the folder of records.
      info: the split's entry in `dataset.json`.

    Returns:
      `[2, records]` offsets and lengths, as passed to `save_index`.

    Raises:
      InputError: the file is missing or changed, or does not match the split's records.
    """
    return _load_array(folder, info["index"], "index", (2, _count_records(info)))


def load_characters(folder: str, info: dict[str, Any]) -> IntArray | None:
    """Reads what `save_characters` wrote for a split; None for records that predate it.

    Raises:
      InputError: the file is missing or changed, or does not match the split's records.
    """
    if "character_counts" not in info:
        return None
    shape = (_count_records(info),)
    return _load_array(folder, info["character_counts"], "character counts", shape)


def _count_records(info: dict[str, Any]) -> int:
    return sum(shard["records"] for shard in info["shards"])


def _load_array(folder: str, saved: dict[str, str], what: str, shape: tuple[int, ...]) -> IntArray:
    """Reads what `_save_array` wrote; `what` names it in messages."""
    path = os.path.join(folder, saved["file"])
    problem = ""
    try:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != saved["sha256"]:
                problem = f"does not match {INFO_FILE}; it was truncated or changed,"
            else:
                file.seek(0)
                array: IntArray = np.lib.format.read_array(file, allow_pickle=False)
                if array.dtype == np.int64 and array.shape == shape:
                    return array
    except OSError:
        problem = "is missing;"
    except ValueError:
        pass
    problem = problem or f"is not an int64 array {list(shape)};"
    raise InputError(f"{what} {path} {problem} run charloom prepare again")


class Dataset:
    """A folder of records, opened for random access.

    Attributes:
      path: the folder.
      info: the content of `dataset.json`.
      config: the `DataConfig` it was made with.
      vocab: its vocabulary.
      digest: SHA-256 over vocabulary, shards and config.
    """

    def __init__(self, path: str, info: dict[str, Any], config: DataConfig, vocab: Vocabulary):
        """Use `Dataset.open`."""
        self.path = path
        self.info = info
        self.config = config
        self.vocab = vocab
        self.digest = str(info["digest"])
        self._files = ShardFiles()
        self._firsts: dict[str, IntArray] = {}
        self._offsets: dict[str, IntArray] = {}
        self._lengths: dict[str, IntArray] = {}
        self._characters: dict[str, IntArray | None] = {}
        for split in SPLITS:
            shards = info["splits"][split]["shards"]
            counts = [shard["records"] for shard in shards]
            self._firsts[split] = np.cumsum([0, *counts])[:-1]
            self._offsets[split], self._lengths[split] = load_index(path, info["splits"][split])
            self._characters[split] = load_characters(path, info["splits"][split])

    @classmethod
    def open(cls, path: str) -> Dataset:
        """Opens a folder that `prepare` completed.

        Raises:
          InputError: the folder is missing, unfinished or of another version, or a shard or an
            index is missing, truncated or changed.
        """
        if not os.path.isdir(path):
            raise InputError(f"{path} is not a records folder; make it with charloom prepare")
        if not is_complete(path):
            raise InputError(f"{path} is not complete (no {COMPLETED_FILE}); run charloom prepare")
        source = os.path.join(path, INFO_FILE)
        try:
            with open(source, encoding="utf-8") as file:
                info = json.load(file)
            format_version, config_version = info["format_version"], info["config_version"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{source} can't be read; run charloom prepare again") from None
        if format_version not in READABLE_VERSIONS:
            raise InputError(
                f"{source} has record format {format_version}, but this charloom reads "
                f"{' and '.join(map(str, READABLE_VERSIONS))}; run charloom prepare again"
            )
        check_version(config_version, source=source)
        config = from_dict(DataConfig, info["config"], source=source, path="data.")
        _check_shards(path, info)
        vocab = Vocabulary.load(os.path.join(path, VOCAB_FILE))
        if vocab.digest != info["vocab"]["sha256"]:
            raise InputError(f"{path}/{VOCAB_FILE} was changed; run charloom prepare again")
        return cls(path, info, config, vocab)

    def lengths(self, split: str) -> IntArray:
        """Returns `[records]` words of each record of a split, in reading order."""
        return self._lengths[split]

    def text_characters(self, split: str) -> IntArray | None:
        """Returns `[records]` Unicode characters of the original text of each record of a split.

        White space and line ends count (docs/data-contract.md). None for records from an older
        charloom.
        """
        return self._characters[split]

    def read(self, split: str, index: int) -> Record:
        """Reads one record of a split by its position in reading order.

        Raises:
          InputError: the shard is damaged.
        """
        return self._read(split, index, parse_record)

    def read_word_ids(self, split: str, index: int) -> IntArray:
        """Reads only the ids `[L + 1]` of a record; faster than `read`, raises the same."""
        return self._read(split, index, parse_word_ids)

    def _read(self, split: str, index: int, parse: Callable[[bytes], Parsed]) -> Parsed:
        offset = int(self._offsets[split][index])
        owner = int(np.searchsorted(self._firsts[split], index, side="right")) - 1
        shard = self.info["splits"][split]["shards"][owner]
        path = os.path.join(self.path, shard["file"])
        try:
            return parse(self._files.read(path, offset))
        except ValueError as error:
            raise InputError(f"{path} {error}; run charloom prepare again") from None

    def close(self) -> None:
        """Closes the shards."""
        self._files.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _check_shards(path: str, info: dict[str, Any]) -> None:
    for split in SPLITS:
        for shard in info["splits"][split]["shards"]:
            name = os.path.join(path, shard["file"])
            try:
                size = os.path.getsize(name)
            except OSError:
                raise InputError(f"shard {name} is missing; run charloom prepare again") from None
            if size != shard["bytes"]:
                raise InputError(
                    f"shard {name} has {size} bytes instead of the {shard['bytes']} in {INFO_FILE}; "
                    "it was truncated or changed, run charloom prepare again"
                )
