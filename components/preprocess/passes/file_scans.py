"""Builds a folder's dataset.json, and rejects bad input."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.preprocess.passes.word_counts import SplitCounts
from components.preprocess.sources import files
from components.preprocess.sources.blocks import BadTextError, Block, read_blocks
from components.preprocess.sources.types import InputFile
from model.config import CONFIG_VERSION, DataConfig, to_dict
from model.data.records import FORMAT_VERSION, SPLITS
from model.errors import InputError, RestartableError
from model.text.vocab import Vocabulary

LISTED_FILES = 20
"""Maximum number of rejected files named in dataset.json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartScan:
    """Result of the first pass over a part of a file."""

    file: InputFile
    first: int
    """Its first block."""
    hashes: Sequence[str] = ()
    """Offset and SHA-256 of each of its blocks, and any fault that ended them early
    (`add_fault`)."""
    records: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Split -> number of records; empty for a bad part, or one without words."""
    documents: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Power of two p -> documents of p to 2p - 1 words."""
    size: int = 0
    """Its unpacked bytes."""
    characters: int = 0
    """Unicode characters of its text; a line end counts as one."""
    stray: int = 0
    """Undecodable places that became U+FFFD."""
    fault: tuple[int, str] | None = None
    """Offset and description of the first one."""
    reason: str = ""
    """Why its file is bad; empty if no fault was found here."""
    offset: int = 0
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileScan:
    """Result of the first pass over a file."""

    file: InputFile
    sha256: str
    """SHA-256 over its stored size and its blocks' hashes: all that records depend on."""
    records: Mapping[str, int]
    """Split -> number of records in it; empty for a bad file."""
    documents: Mapping[str, int]
    """Power of two p -> documents of p to 2p - 1 words."""
    characters: int
    """Unicode characters of its text; a line end counts as one."""
    stray: int
    """Undecodable places that became U+FFFD."""
    reason: str = ""
    """Why the file is left out; empty for a good file."""
    offset: int = 0
    detail: str = ""


def scans_of_files(parts: Sequence[PartScan], config: DataConfig) -> list[FileScan]:
    """Joins the parts of each file, given in order."""
    return [
        _join(list(group), config)
        for _, group in itertools.groupby(parts, key=lambda part: part.file.full_name)
    ]


def _join(parts: Sequence[PartScan], config: DataConfig) -> FileScan:
    file = parts[0].file
    records: collections.Counter[str] = collections.Counter()
    documents: collections.Counter[str] = collections.Counter()
    for part in parts:
        records.update(part.records)
        documents.update(part.documents)
    scan = FileScan(
        file=file,
        sha256=_hash_rows(file, [one for part in parts for one in part.hashes]),
        records=records,
        documents=documents,
        characters=sum(part.characters for part in parts),
        stray=sum(part.stray for part in parts),
    )
    bad = next((part for part in parts if part.reason), None)
    if bad:
        return _reject(scan, bad.reason, bad.offset, bad.detail)
    try:
        fault = next((part.fault for part in parts if part.fault), None)
        check_stray(scan.stray, sum(part.size for part in parts), fault, config)
        if not records:
            raise BadTextError("blank" if file.size else "empty")
    except BadTextError as error:
        return _reject(scan, error.reason, error.offset, error.detail)
    return scan


def _reject(scan: FileScan, reason: str, offset: int, detail: str) -> FileScan:
    return dataclasses.replace(
        scan,
        reason=reason,
        offset=offset,
        detail=detail,
        records={},
        documents={},
        characters=0,
        stray=0,
    )


def check_stray(stray: int, size: int, fault: tuple[int, str] | None, config: DataConfig) -> None:
    """Raises BadTextError if a file of `size` unpacked bytes has too many undecodable bytes."""
    if fault and config.on_bad_text != "replace" and stray > config.max_stray_bytes * size:
        raise BadTextError("undecodable", *fault)


def hash_text(file: InputFile, config: DataConfig) -> str:
    """Returns `FileScan.sha256` of a file.

    Raises:
      InputError, RestartableError: as of `accept`.
    """
    hashes: list[str] = []
    try:
        for block in read_blocks(file, config):
            hashes.append(hash_row(block))
    except BadTextError as error:
        add_fault(hashes, error)
    except OSError as error:
        fault = BadTextError.unread(error)
        _check_read(file, fault.reason, fault.detail)
    return _hash_rows(file, hashes)


def _check_read(file: InputFile, reason: str, detail: str) -> None:
    """Raises an error if a file is bad because it could not be read as it was listed."""
    if reason == "changed":
        text = f"{file.path} has changed since it was listed ({detail})"
        if file.from_listing:  # which a retry would find as it is
            raise InputError(f"{text}; start a new run, which lists the text anew")
        raise RestartableError(f"{text}; run the command again")
    if reason == "unsteady":
        raise RestartableError(
            f"{file.path} can't be read for now ({detail}); run the command again"
        )
    if reason == "unreadable":
        raise InputError(f"{file.path} can't be read ({detail}); leave it out")


def hash_row(block: Block) -> str:
    """Returns a block's part of its file's hash: its position, found in sources, and its bytes."""
    return f"{block.offset} {block.sha256}"


def add_fault(hashes: list[str], error: BadTextError) -> None:
    """Adds a fault that ended reading to the hashes of the blocks before it."""
    if error.alone:
        hashes.clear()
    hashes.append(f"{error.offset} {error.reason}")


def _hash_rows(file: InputFile, rows: Sequence[str]) -> str:
    # Shards are assigned by the stored size, even for packed files.
    return hashlib.sha256("\n".join([str(file.size), *rows]).encode()).hexdigest()


def accept(scans: Sequence[FileScan], config: DataConfig) -> list[FileScan]:
    """Returns the good files.

    Raises:
      InputError: there is a bad file and `on_bad_text` is `error`, or no file is good; a file has
        changed since an earlier task listed it.
      RestartableError: a file has changed since it was listed here, or its store can't be reached.
    """
    bad = [scan for scan in scans if scan.reason]
    for scan in bad:
        _check_read(scan.file, scan.reason, scan.detail)
    good = [scan for scan in scans if not scan.reason]
    if bad and (config.on_bad_text == "error" or not good):
        first = files.describe_bad_text(
            bad[0].file.path,
            reason=bad[0].reason,
            offset=bad[0].offset,
            detail=bad[0].detail,
            config=config,
        )
        prefix = "" if config.on_bad_text == "error" else "no file is left: "
        others = {1: "", 2: " (1 more file is bad)"}
        raise InputError(
            prefix + first + others.get(len(bad), f" ({len(bad) - 1} more files are bad)")
        )
    return good


def check_splits(scans: Sequence[FileScan], config: DataConfig) -> None:
    """Raises InputError if a required split has no records."""
    count = {split: sum(scan.records.get(split, 0) for scan in scans) for split in SPLITS}
    given = {scan.file.split for scan in scans} - {""}
    for split in SPLITS:
        if split in given and not count[split]:
            raise InputError(
                f"the {split} split is empty: no file of --{split} is left; provide text for it"
            )
    if given:
        return
    total = sum(count.values())
    if not count["train"]:
        raise InputError(
            f"no training words: none of the {total} records fell into the training split; provide "
            f"more text, or lower data.record_words (now {config.record_words})"
        )
    for split in ("valid", "test"):
        fraction = getattr(config, f"{split}_fraction")
        if fraction > 0 and not count[split]:
            raise InputError(
                f"the {split} split is empty: none of the {total} records fell into it; provide more "
                f"text, lower data.record_words (now {config.record_words}) or raise "
                f"data.{split}_fraction (now {fraction})"
            )


def describe(
    scans: Sequence[FileScan],
    groups: Sequence[dict[str, Any]],
    *,
    vocab: Vocabulary,
    known: Mapping[str, SplitCounts],
    saved: Mapping[str, Mapping[str, Any]],
    config: DataConfig,
    source_root: str = "",
) -> dict[str, Any]:
    """Returns the content of dataset.json; nothing in it depends on time or location."""
    splits = {
        split: _describe_split(
            [group["splits"][split] for group in groups], known[split], saved[split]
        )
        for split in SPLITS
    }
    bad = [scan for scan in scans if scan.reason]
    reasons = [scan.reason for scan in bad]
    shards = [[s["file"], s["sha256"]] for split in SPLITS for s in splits[split]["shards"]]
    digest = json.dumps([vocab.digest, shards, to_dict(config)], sort_keys=True)
    names, hashes = [scan.file.full_name for scan in scans], [scan.sha256 for scan in scans]
    given = [scan.file.split for scan in scans if scan.file.split]
    by_split = {split: given.count(split) for split in SPLITS} if given else {}
    return {
        "format_version": FORMAT_VERSION,
        "config_version": CONFIG_VERSION,
        "config": to_dict(config),
        "input": {
            "files": len(scans),
            "bytes": sum(scan.file.size for scan in scans),
            "text_characters": sum(scan.characters for scan in scans),
            "fingerprint": files.content_fingerprint(names, hashes),
            "stray_bytes": sum(scan.stray for scan in scans),
            **({"split_files": by_split} if by_split else {}),
            **({"source_root": source_root} if source_root else {}),
        },
        "vocab": {"size": len(vocab), "sha256": vocab.digest, "train_words": sum(vocab.counts)},
        "splits": splits,
        "rejected": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "rejected_files": [
            {"file": scan.file.name, "reason": scan.reason, "offset": scan.offset}
            for scan in bad[:LISTED_FILES]
        ],
        "digest": hashlib.sha256(digest.encode()).hexdigest(),
    }


def _describe_split(
    parts: Sequence[dict[str, Any]], known: SplitCounts, saved: Mapping[str, Any]
) -> dict[str, Any]:
    shards = [part["shard"] for part in parts]
    words = sum(shard["words"] for shard in shards)
    sums = {
        name: sum(part["sums"][name] for part in parts)
        for name in ("characters", "bytes", "unknown_words")
    }
    word_lengths: collections.Counter[int] = collections.Counter()
    for part in parts:
        word_lengths.update({int(size): count for size, count in part["word_lengths"].items()})
    return {
        "records": sum(shard["records"] for shard in shards),
        "words": words,
        **saved["text"],
        **sums,
        "unknown_rate": sums["unknown_words"] / words if words else 0.0,
        "distinct_words": known.distinct,
        "distinct_unknown": known.distinct_unknown,
        "length_histogram": {
            str(1 << power): count for power, count in enumerate(saved["lengths"]) if count
        },
        "word_length_histogram": {str(size): word_lengths[size] for size in sorted(word_lengths)},
        "index": saved["index"],
        "shards": shards,
    }
