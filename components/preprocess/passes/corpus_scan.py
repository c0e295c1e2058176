"""What the first pass finds in the whole corpus: rejects bad input, and builds dataset.json."""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.preprocess.passes.file_scans import UNREAD, FileScan, check_read
from components.preprocess.passes.word_counts import SplitCounts
from components.preprocess.sources import files
from model.config import CONFIG_VERSION, DataConfig, to_dict
from model.data.records import FORMAT_VERSION, SPLITS
from model.errors import InputError
from model.text.vocab import Vocabulary

LISTED_FILES = 20
"""Maximum number of rejected files named in dataset.json."""


class CorpusScan:
    """The sum of all files' scans; its size does not depend on their number."""

    def __init__(self, scans: Iterable[FileScan]):
        """Sums up the scans, in order."""
        self.files = 0
        self.bytes = 0
        """Stored bytes."""
        self.characters = 0
        self.stray = 0
        self.records: collections.Counter[str] = collections.Counter()
        """Split -> number of records."""
        self.documents: collections.Counter[int] = collections.Counter()
        """Power of two p -> documents of p to 2p - 1 words."""
        self.given: collections.Counter[str] = collections.Counter()
        """Split -> files that it was given for."""
        self.rejected: collections.Counter[str] = collections.Counter()
        """Reason -> number of bad files."""
        self.first_rejected: list[FileScan] = []
        """At most `LISTED_FILES`."""
        self.unread: FileScan | None = None
        """The first file that could not be read as it was listed."""
        self._fingerprint = files.ContentFingerprint()
        for scan in scans:
            self._add(scan)

    @property
    def fingerprint(self) -> str:
        """One SHA-256 over the files' names and content."""
        return self._fingerprint.hexdigest()

    def _add(self, scan: FileScan) -> None:
        self.files += 1
        self.bytes += scan.file.size
        self.characters += scan.characters
        self.stray += scan.stray
        self.records.update(scan.records)
        self.documents.update({int(power): count for power, count in scan.documents.items()})
        if scan.file.split:
            self.given[scan.file.split] += 1
        if scan.reason:
            self.rejected[scan.reason] += 1
            if len(self.first_rejected) < LISTED_FILES:
                self.first_rejected.append(scan)
            if scan.reason in UNREAD and self.unread is None:
                self.unread = scan
        self._fingerprint.add(scan.file.full_name, scan.sha256)


def accept(scan: CorpusScan, config: DataConfig) -> None:
    """Raises an error if the corpus has files that prevent its use.

    Raises:
      InputError: there is a bad file and `on_bad_text` is `error`, or no file is good; or as of
        `check_read`.
      RestartableError: as of `check_read`.
    """
    if scan.unread:
        check_read(scan.unread.file, scan.unread.reason, scan.unread.detail)
    bad = scan.rejected.total()
    if bad and (config.on_bad_text == "error" or bad == scan.files):
        first = scan.first_rejected[0]
        text = files.describe_bad_text(
            first.file.path,
            reason=first.reason,
            offset=first.offset,
            detail=first.detail,
            config=config,
        )
        prefix = "" if config.on_bad_text == "error" else "no file is left: "
        others = {1: "", 2: " (1 more file is bad)"}
        raise InputError(prefix + text + others.get(bad, f" ({bad - 1} more files are bad)"))


def check_splits(scan: CorpusScan, config: DataConfig) -> None:
    """Raises InputError if a required split has no records."""
    for split in SPLITS:
        if split in scan.given and not scan.records[split]:
            raise InputError(
                f"the {split} split is empty: no file of --{split} is left; provide text for it"
            )
    if scan.given:
        return
    total = scan.records.total()
    if not scan.records["train"]:
        raise InputError(
            f"no training words: none of the {total} records fell into the training split; provide "
            f"more text, or lower data.record_words (now {config.record_words})"
        )
    for split in ("valid", "test"):
        fraction = getattr(config, f"{split}_fraction")
        if fraction > 0 and not scan.records[split]:
            raise InputError(
                f"the {split} split is empty: none of the {total} records fell into it; provide more "
                f"text, lower data.record_words (now {config.record_words}) or raise "
                f"data.{split}_fraction (now {fraction})"
            )


def describe(
    scan: CorpusScan,
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
    shards = [[s["file"], s["sha256"]] for split in SPLITS for s in splits[split]["shards"]]
    digest = json.dumps([vocab.digest, shards, to_dict(config)], sort_keys=True)
    by_split = {split: scan.given[split] for split in SPLITS} if scan.given else {}
    return {
        "format_version": FORMAT_VERSION,
        "config_version": CONFIG_VERSION,
        "config": to_dict(config),
        "input": {
            "files": scan.files,
            "bytes": scan.bytes,
            "text_characters": scan.characters,
            "fingerprint": scan.fingerprint,
            "stray_bytes": scan.stray,
            **({"split_files": by_split} if by_split else {}),
            **({"source_root": source_root} if source_root else {}),
        },
        "vocab": {"size": len(vocab), "sha256": vocab.digest, "train_words": sum(vocab.counts)},
        "splits": splits,
        "rejected": {reason: scan.rejected[reason] for reason in sorted(scan.rejected)},
        "rejected_files": [
            {"file": bad.file.name, "reason": bad.reason, "offset": bad.offset}
            for bad in scan.first_rejected
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
