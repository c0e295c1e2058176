"""The Beam transforms of `prepare`.

Elements are whole files (first pass) and whole groups of files (second pass), never
words or lines: a Beam element costs about as much as tokenising a few lines. What is
wrong with the input is an output, not an exception, so that the first bad file in order
is reported whatever the runner, and without a pipeline's traceback.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from components.preprocess.cutting import Piece, cut_text
from components.preprocess.runner import beam
from components.preprocess.sources import BadTextError, InputFile, decode_text, read_file
from model.config import DataConfig
from model.files import hash_file, write_whole
from model.records import SPLITS, encode_record, framed_size, shard_name
from model.vocab import LINE_END, Vocabulary, read_words

Counts = dict[bytes, int]
"""Words of a stream -> how often they are targets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileScan:
    """What the first pass found out about a file."""

    file: InputFile
    sha256: str = ""
    records: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Split -> how many records the file gives it; empty for a bad file."""
    stray: int = 0
    """Undecodable places that became U+FFFD."""
    reason: str = ""
    """Why the file is left out; empty for a good file."""
    offset: int = 0
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Consecutive files whose records share one shard in every split."""

    index: int
    scans: tuple[FileScan, ...]


class ScanFiles(beam.PTransform):
    """`InputFile`s -> `{"scans": [FileScan], "counts": one Counts}`, of the training split."""

    def __init__(self, config: DataConfig) -> None:
        """Makes the transform."""
        super().__init__()
        self._config = config

    def expand(self, files: beam.PCollection) -> dict[str, beam.PCollection]:
        """Names the steps."""
        scanned = files | "ScanFile" >> beam.ParDo(_ScanFile(self._config)).with_outputs(
            "counts", main="scans"
        )
        counts = scanned.counts | "AddCounts" >> beam.CombineGlobally(_AddCounts())
        return {"scans": scanned.scans, "counts": counts}


class _ScanFile(beam.DoFn):
    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def process(self, file: InputFile) -> Iterator[Any]:
        scan, counts = scan_file(file, self._config)
        yield scan
        if counts:
            yield beam.pvalue.TaggedOutput("counts", counts)


def scan_file(file: InputFile, config: DataConfig) -> tuple[FileScan, Counts]:
    """Reads, checks and tokenises a file; counts the words of its training records."""
    try:
        data, sha256 = read_file(file.path)
    except OSError as error:
        return FileScan(file=file, reason="unreadable", detail=str(error.strerror)), {}
    counts: collections.Counter[bytes] = collections.Counter()
    records: collections.Counter[str] = collections.Counter()
    try:
        text = decode_text(data, config)
        for piece in cut_text(text, file.name, config, split=file.split):
            records[piece.split] += 1
            if piece.split == "train":
                counts.update(piece.words[1:])
    except BadTextError as bad:
        return FileScan(
            file=file, sha256=sha256, reason=bad.reason, offset=bad.offset, detail=bad.detail
        ), {}
    scan = FileScan(file=file, sha256=sha256, records=dict(records), stray=text.stray)
    return scan, dict(counts)


class _AddCounts(beam.CombineFn):
    def create_accumulator(self) -> Counts:
        return {}

    def add_input(self, total: Counts, counts: Counts) -> Counts:
        if not total:
            return dict(counts)
        for word, count in counts.items():
            total[word] = total.get(word, 0) + count
        return total

    def merge_accumulators(self, totals: Iterable[Counts]) -> Counts:
        merged: Counts = {}
        for total in totals:
            merged = self.add_input(merged, total)
        return merged

    def extract_output(self, total: Counts) -> Counts:
        return total


class SaveVocabulary(beam.PTransform):
    """One `Counts` -> a vocabulary file."""

    def __init__(self, path: str, config: DataConfig, *, words_path: str = "") -> None:
        """Makes the transform; `words_path` is a file of the words, if they are given."""
        super().__init__()
        self._path = path
        self._config = config
        self._words_path = words_path

    def expand(self, counts: beam.PCollection) -> beam.PCollection:
        """Names the steps."""
        return counts | "Save" >> beam.Map(
            _save_vocabulary, self._path, self._config, self._words_path
        )


def _save_vocabulary(counts: Counts, path: str, config: DataConfig, words_path: str) -> None:
    if words_path:
        vocab = Vocabulary.choose(counts, read_words(words_path))
    else:
        vocab = Vocabulary.build(counts, max_size=config.vocab_size, min_count=config.min_count)
    vocab.save(path)


class WriteGroups(beam.PTransform):
    """`Group`s -> shards in a folder, and a dict about each group (see `write_group`)."""

    def __init__(self, folder: str, vocab_path: str, *, count: int, config: DataConfig) -> None:
        """Makes the transform; `count` is the number of groups."""
        super().__init__()
        self._write = _WriteGroup(folder, vocab_path, count=count, config=config)

    def expand(self, groups: beam.PCollection) -> beam.PCollection:
        """Names the steps."""
        return groups | "WriteGroup" >> beam.ParDo(self._write)


class _WriteGroup(beam.DoFn):
    def __init__(self, folder: str, vocab_path: str, *, count: int, config: DataConfig) -> None:
        self._folder = folder
        self._vocab_path = vocab_path
        self._count = count
        self._config = config

    def setup(self) -> None:
        self._vocab = Vocabulary.load(self._vocab_path)

    def process(self, group: Group) -> Iterator[dict[str, Any]]:
        yield write_group(
            group,
            folder=self._folder,
            count=self._count,
            vocab=self._vocab,
            config=self._config,
        )


def write_group(
    group: Group, *, folder: str, count: int, vocab: Vocabulary, config: DataConfig
) -> dict[str, Any]:
    """Encodes the files of a group and writes its shards.

    Returns:
      `index`, and either `problem` (why it failed, for the user) or `splits`: for each
      split `shard`, its entry in dataset.json, and `sums`, what it adds to its split.
    """
    writers: dict[str, _ShardWriter] = {}
    try:
        for split in SPLITS:
            path = os.path.join(folder, shard_name(split, group.index, count))
            writers[split] = _ShardWriter(path, vocab)
        for scan in group.scans:
            data, sha256 = read_file(scan.file.path)
            if sha256 != scan.sha256:
                problem = f"{scan.file.path} was changed while it was read; run prepare again"
                return {"index": group.index, "problem": problem}
            text = decode_text(data, config)
            for piece in cut_text(text, scan.file.name, config, split=scan.file.split):
                writers[piece.split].write(piece)
        splits = {split: writer.finish() for split, writer in writers.items()}
        return {"index": group.index, "splits": splits}
    except (OSError, tf.errors.OpError) as error:
        problem = f"can't write records to {folder} ({error}); free space or choose another folder"
        return {"index": group.index, "problem": problem}
    finally:
        for writer in writers.values():
            writer.discard()


class _ShardWriter:
    """Writes a shard under a name of its own, and renames it when it is whole."""

    def __init__(self, path: str, vocab: Vocabulary) -> None:
        self._path = path
        # Beam may try an element twice, at the same time even.
        self._part = f"{path}.{uuid.uuid4().hex}.part"
        self._writer = tf.io.TFRecordWriter(self._part)
        self._vocab = vocab
        self._size = 0
        self._offsets: list[int] = []
        self._lengths: list[int] = []
        self._sums = dict.fromkeys(("characters", "bytes", "unknown_words"), 0)

    def write(self, piece: Piece) -> None:
        """Appends one record."""
        record = encode_record(piece.words, self._vocab, source=piece.source)
        self._writer.write(record)
        self._offsets.append(self._size)
        self._size += framed_size(record)
        targets = piece.words[1:]
        self._lengths.append(len(targets))
        letters = b"".join(targets)
        marks = targets.count(LINE_END)
        ids = self._vocab.ids
        self._sums["bytes"] += len(letters) - marks
        self._sums["characters"] += len(letters.decode()) - marks
        self._sums["unknown_words"] += sum(word not in ids for word in targets)

    def finish(self) -> dict[str, Any]:
        """Closes the shard and returns what is known about it."""
        self._writer.close()
        sha256 = hash_file(self._part)
        os.replace(self._part, self._path)
        shard = {
            "file": os.path.basename(self._path),
            "records": len(self._lengths),
            "words": sum(self._lengths),
            "bytes": self._size,
            "sha256": sha256,
            "offsets": self._offsets,
            "lengths": self._lengths,
        }
        return {"shard": shard, "sums": self._sums}

    def discard(self) -> None:
        """Removes what is left of an unfinished shard."""
        self._writer.close()
        if os.path.exists(self._part):
            os.remove(self._part)


class SaveJson(beam.PTransform):
    """Elements -> one JSON file, a list in no particular order."""

    def __init__(self, path: str) -> None:
        """Makes the transform."""
        super().__init__()
        self._path = path

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        """Names the steps."""
        gathered = elements | "Gather" >> beam.combiners.ToList()
        return gathered | "Save" >> beam.Map(_save_json, self._path)


def _save_json(elements: list[Any], path: str) -> None:
    write_whole(path, json.dumps(elements, default=dataclasses.asdict))


def load_scans(path: str) -> list[FileScan]:
    """Reads the `FileScan`s that `SaveJson` wrote, in the order of their names."""
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    scans = [FileScan(**{**row, "file": InputFile(**row["file"])}) for row in rows]
    return sorted(scans, key=lambda scan: scan.file.name)


def load_groups(path: str) -> list[dict[str, Any]]:
    """Reads the dicts of `write_group` that `SaveJson` wrote, in the order of their groups."""
    with open(path, encoding="utf-8") as file:
        rows: list[dict[str, Any]] = json.load(file)
    return sorted(rows, key=lambda row: int(row["index"]))
