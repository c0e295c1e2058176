"""The text that trainings and versions have seen, and the records a comparison leaves out for it.

Records, a workdir and a version each hold `seen.npy` (`model.data.seen`): the records that of their
training split, a workdir that of its records and of the version it was warm-started from, and a
version what its workdir had. Where it is missing, it is read from the records. No TensorFlow here.
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
"""About how many words are looked up at a time."""


class LeftOut(NamedTuple):
    """Which records of a split are left out of sums and comparisons."""

    mask: Mask
    """`[R]`."""
    unclear: int
    """Records left out because none of their units could be looked up."""
    by: dict[str, int]
    """Records that each side has seen."""
    sampled_share: float
    """The share of the units that could be looked up."""

    def describe(self, lengths: IntArray) -> dict[str, Any]:
        """Returns what a report says of them.

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
    """By its name in the report: `challenger`, `champion`."""
    unknown: dict[str, str]
    """Folder of a version, or `challenger` -> why it can't be known."""


def read_sides(
    dataset: Dataset, workdir: str, meta: Mapping[str, Any], versions: Mapping[str, str]
) -> Sides:
    """Reads what the models of an evaluation have seen.

    Args:
      dataset: the challenger's records.
      workdir: the challenger's training.
      meta: of its checkpoint.
      versions: folder of each version it is compared with, by its name in the report; empty ones
        are left out.
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
    """Returns the training text of records: from their file, or, if older, from the records.

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

    A version without `seen.npy` has seen the training text of its records, if these are the ones
    at hand or are still where its report says, and what the version it began with has seen.

    Raises:
      InputError: it can't be known.
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
        f"{SEEN_FILE}), and its records are not at {path or 'the place its report names'} any "
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
      meta: of its checkpoint.
      dataset: its records.

    Raises:
      InputError: it can't be known.
    """
    path = os.path.join(workdir, SEEN_FILE)
    if os.path.exists(path):
        return SeenText.load(path)
    seen, base = read_training_text(dataset), meta.get("warm_start")
    return seen.union(read_version(str(base["path"]), dataset)) if base else seen


def save_training(workdir: str, dataset: Dataset, *, base: str, is_new: bool) -> str:
    """Writes what a training that begins or goes on sees, and its base and itself saw before.

    Args:
      workdir: the training's folder.
      dataset: its records.
      base: folder of the version it was warm-started from; empty without one.
      is_new: whether the training begins; else what the folder says already is kept.

    Returns:
      Why it can't be known; empty if the file was written.
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
            os.remove(path)  # of a training that was stopped at once
        return str(error)
    seen.save(path)
    return ""


def save_version(version: str, workdir: str, meta: Mapping[str, Any], dataset: Dataset) -> None:
    """Writes what a model has seen into the folder of a version to be.

    Without it, because it can't be known, comparisons with the version are refused.

    Args:
      version: the folder.
      workdir: the model's training.
      meta: of its checkpoint.
      dataset: its records.
    """
    try:
        seen = read_training(workdir, meta, dataset)
    except InputError as error:
        print(f"warning: {error}; later models can't be compared with this one", flush=True)
        return
    seen.save(os.path.join(version, SEEN_FILE))


def _batches(dataset: Dataset, split: str) -> Iterator[tuple[Hashes, IntArray, Hashes]]:
    """Yields hashes of the words, lengths and hashes of the context words of some records each."""
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
