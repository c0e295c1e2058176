"""The text that trainings and versions have seen, and the records a comparison leaves out for it.

Records, a workdir and a version each hold `seen.npy` (`model.data.seen`): records their training
split, a workdir its records and the text of the version it was warm-started from, a version a copy
of its workdir's. If the file is missing, the records are read instead. No TensorFlow here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from model.checkpointing.checkpoints import read_meta
from model.checkpointing.origin import CHECKPOINT_FOLDER
from model.data.records import Dataset, Record
from model.data.seen import (
    SEEN_FILE,
    Hashes,
    IntArray,
    Mask,
    SeenMasks,
    SeenText,
    cut_units,
    hash_words,
)
from model.errors import InputError
from model.text.vocab import UNK_ID

CHALLENGER = "challenger"
BATCH_WORDS = 1 << 18
"""Approximate number of words looked up at a time."""


class LeftOut(NamedTuple):
    """Records of a split that are left out of sums and comparisons."""

    mask: Mask
    """`[R]`."""
    unclear: int
    """Records left out because none of their units could be looked up."""
    by: dict[str, int]
    """Records seen by each side."""
    sampled_share: float
    """Share of the units that could be looked up."""

    def describe(self, lengths: IntArray) -> dict[str, Any]:
        """Returns the entry of a report.

        Args:
          lengths: `[R]` words of each record.
        """
        words, total = int(lengths[self.mask].sum()), int(lengths.sum())
        return {
            "records": int(self.mask.sum()),
            "words": words,
            "share": words / total if total else 0.0,
            "sampled_share": self.sampled_share,
            "not_looked_up": self.unclear,
            "by": self.by,
        }


def find_left_out(dataset: Dataset, split: str, sides: Mapping[str, SeenText]) -> LeftOut:
    """Looks up which records of a split any side has seen, or may have.

    Args:
      dataset: the records.
      split: its name.
      sides: what each model of a comparison has seen, by its name in the report.

    Raises:
      InputError: a shard is damaged.
    """
    none = np.zeros(0, np.bool_)
    seen: dict[str, list[Mask]] = {name: [none] for name in sides}
    unclear = [none]
    for words, lengths, before in _batches(dataset, split):
        found: dict[str, SeenMasks] = {
            name: one.find(words, lengths, before) for name, one in sides.items()
        }
        for name, one in found.items():
            seen[name].append(one.seen)
        unclear.append(np.any([one.unclear for one in found.values()] or [lengths < 0], axis=0))
    whole = {name: np.concatenate(parts) for name, parts in seen.items()}
    not_known = np.concatenate(unclear)
    found_by_any = np.any([*whole.values()] or [np.zeros_like(not_known)], axis=0)
    return LeftOut(
        mask=found_by_any | not_known,
        unclear=int((not_known & ~found_by_any).sum()),
        by={name: int(mask.sum()) for name, mask in whole.items()},
        sampled_share=min((one.share for one in sides.values()), default=1.0),
    )


class Sides(NamedTuple):
    """What the models of an evaluation have seen."""

    seen: dict[str, SeenText]
    """What each has seen, by its name in the report: `challenger`, `champion`."""
    unknown: dict[str, str]
    """Folder of a version, or `challenger` -> why what it has seen is unknown."""


def read_sides(
    dataset: Dataset, workdir: str, meta: Mapping[str, Any], versions: Mapping[str, str]
) -> Sides:
    """Reads what the models of an evaluation have seen.

    Args:
      dataset: the challenger's records.
      workdir: the challenger's training.
      meta: meta.json of its checkpoint.
      versions: folder of each version it is compared with, by its name in the report; empty folders
        are skipped.
    """
    sides = Sides({}, {})
    try:
        sides.seen[CHALLENGER] = read_training(workdir, meta, dataset)
    except InputError as error:
        sides.seen[CHALLENGER] = read_training_text(dataset)
        sides.unknown[CHALLENGER] = str(error)
    for name, version in versions.items():
        if version:
            try:
                sides.seen[name] = read_version(version, dataset)
            except InputError as error:
                sides.unknown[version] = str(error)
    return sides


def read_training_text(dataset: Dataset) -> SeenText:
    """Returns the training text of records: from `seen.npy`, or for older records from the shards.

    Raises:
      InputError: the file or a shard is missing or damaged.
    """
    info = dataset.info.get("seen")
    if info:
        return SeenText.load(os.path.join(dataset.path, info["file"]), sha256=info["sha256"])
    seen = SeenText()
    for words, lengths, before in _batches(dataset, "train"):
        seen = seen.union(SeenText(cut_units(words, lengths, before, every_run=False).hashes))
    return seen


def read_version(version: str, dataset: Dataset) -> SeenText:
    """Returns what a published version has seen.

    Without `seen.npy`, a version has seen the training text of its records, if they are the ones at
    hand or still where its report says, plus what the version it was warm-started from has seen.

    Raises:
      InputError: it is unknown.
    """
    path = os.path.join(version, SEEN_FILE)
    if os.path.exists(path):
        return SeenText.load(path)
    try:
        meta = read_meta(os.path.join(version, CHECKPOINT_FOLDER))
        digest, base = str(meta["dataset_digest"]), meta.get("warm_start")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{version} can't be read ({error}); name another version") from None
    seen = _read_records_of(version, digest, dataset)
    return seen.union(read_version(str(base["path"]), dataset)) if base else seen


def _read_records_of(version: str, digest: str, dataset: Dataset) -> SeenText:
    if digest == dataset.digest:
        return read_training_text(dataset)
    path = _records_path(version)
    try:
        with Dataset.open(path) as theirs:
            if theirs.digest == digest:
                return read_training_text(theirs)
    except InputError:
        pass
    raise InputError(
        f"what {version} has seen is unknown: it was published by an older charloom (no "
        f"{SEEN_FILE}), and its records are not at {path or 'the path in its report'} any "
        "more; prepare them there again, or publish a model trained without --warm-start"
    )


def _records_path(version: str) -> str:
    try:
        with open(os.path.join(version, "report.json"), encoding="utf-8") as file:
            return str(json.load(file)["dataset"]["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_training(workdir: str, meta: Mapping[str, Any], dataset: Dataset) -> SeenText:
    """Returns what the model of a training has seen.

    Args:
      workdir: the training's folder.
      meta: meta.json of its checkpoint.
      dataset: its records.

    Raises:
      InputError: it is unknown.
    """
    path = os.path.join(workdir, SEEN_FILE)
    if os.path.exists(path):
        return SeenText.load(path)
    seen, base = read_training_text(dataset), meta.get("warm_start")
    return seen.union(read_version(str(base["path"]), dataset)) if base else seen


def save_training(workdir: str, dataset: Dataset, *, base: str, is_new: bool) -> str:
    """Writes what a training sees, together with what its base and its own earlier runs saw.

    Args:
      workdir: the training's folder.
      dataset: its records.
      base: folder of the version it was warm-started from; empty without one.
      is_new: whether the training starts; otherwise what the file already holds is kept.

    Returns:
      Why it is unknown; empty if the file was written.
    """
    path = os.path.join(workdir, SEEN_FILE)
    try:
        seen = read_training_text(dataset)
        if base:
            seen = seen.union(read_version(base, dataset))
        if not is_new and os.path.exists(path):
            seen = seen.union(SeenText.load(path))
    except InputError as error:
        if is_new and os.path.exists(path):
            os.remove(path)  # left by a training that was stopped at once
        return str(error)
    seen.save(path)
    return ""


def save_version(version: str, workdir: str, meta: Mapping[str, Any], dataset: Dataset) -> None:
    """Writes what a model has seen into the folder of a new version.

    If it is unknown, no file is written, and comparisons with the version are refused.

    Args:
      version: the folder.
      workdir: the model's training.
      meta: meta.json of its checkpoint.
      dataset: its records.
    """
    try:
        seen = read_training(workdir, meta, dataset)
    except InputError as error:
        print(f"warning: {error}; later models can't be compared with this one", flush=True)
        return
    seen.save(os.path.join(version, SEEN_FILE))


def _batches(dataset: Dataset, split: str) -> Iterator[tuple[Hashes, IntArray, Hashes]]:
    """Yields word hashes, lengths and context-word hashes of batches of records."""
    table = hash_words(dataset.vocab.stream_words)
    words: list[Hashes] = []
    waiting = 0
    for index in range(len(dataset.lengths(split))):
        words.append(_hash_record(dataset.read(split, index), table))
        waiting += len(words[-1])
        if waiting >= BATCH_WORDS:
            yield _join(words)
            words, waiting = [], 0
    if words:
        yield _join(words)


def _hash_record(record: Record, table: Hashes) -> Hashes:
    hashes = table[record.word_ids]
    hashes[record.word_ids == UNK_ID] = hash_words(record.unknown_words())
    return hashes


def _join(words: list[Hashes]) -> tuple[Hashes, IntArray, Hashes]:
    lengths = np.asarray([len(one) - 1 for one in words], np.int64)
    before = np.asarray([one[0] for one in words], np.uint64)
    return np.concatenate([one[1:] for one in words]), lengths, before
