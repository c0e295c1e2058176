"""The `prepare` stage: raw text files -> a folder of records (see docs/data-contract.md)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from components.preprocess import sources, transforms
from components.preprocess.runner import beam, check_options, open_pipeline
from components.preprocess.sources import InputFile
from components.preprocess.transforms import FileScan, Group
from model.config import CONFIG_VERSION, DataConfig, to_dict
from model.errors import InputError
from model.files import hash_file, write_whole
from model.records import COMPLETED_FILE, FORMAT_VERSION, INFO_FILE, SPLITS, VOCAB_FILE, Dataset
from model.vocab import Vocabulary, read_words

LISTED_FILES = 20
"""At most this many rejected files are named in dataset.json."""


def run(
    *,
    inputs: Sequence[str] = (),
    train: Sequence[str] = (),
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    vocab: str = "",
    records: str,
    config: DataConfig,
    beam_workers: int = 1,
    beam_options: Sequence[str] = (),
) -> dict[str, Any]:
    """Prepares a corpus.

    The same input and config give the same bytes, whatever the number of workers and the
    runner. `records` appears whole or not at all; if it already holds the records of this
    input and config, it is left as it is.

    Args:
      inputs: files, glob patterns or folders; a hash of its place gives a record its split.
      train: in place of `inputs`, those of the training split.
      valid: those of the validation split.
      test: those of the test split.
      vocab: file of the words of the vocabulary, in place of the most frequent ones.
      records: the output folder; made here, or there and empty.
      config: how text becomes records.
      beam_workers: processes; 1 works in this one, 0 takes all cores.
      beam_options: options of Apache Beam, which may name another runner.

    Returns:
      The content of dataset.json.

    Raises:
      InputError: input that can't be used, or an output folder that can't be.
    """
    flags = check_options(beam_workers, beam_options)
    target = os.path.realpath(records)
    occupied = _is_occupied(target)
    files = sources.find_files(inputs, train=train, valid=valid, test=test)
    words = read_words(vocab) if vocab else None
    if occupied:
        return _reuse(target, files, words, config=config)
    with _output_folder(target) as folder:
        info = _prepare(files, words, folder=folder, config=config, flags=flags)
    _report(info, records)
    return info


def _prepare(
    files: Sequence[InputFile],
    words: Sequence[str] | None,
    *,
    folder: str,
    config: DataConfig,
    flags: Sequence[str],
) -> dict[str, Any]:
    """Runs both passes over the files and completes the folder."""
    scratch = os.path.join(folder, "scratch")
    os.mkdir(scratch)
    scans_path = os.path.join(scratch, "scans.json")
    groups_path = os.path.join(scratch, "groups.json")
    log_path = os.path.join(scratch, "workers.log")
    vocab_path = os.path.join(folder, VOCAB_FILE)
    words_path = ""
    if words is not None:  # by a file, which workers read: a list may be too long for an option
        words_path = os.path.join(scratch, "words.txt")
        write_whole(words_path, _list_words(words))

    with open_pipeline(flags, log_path) as pipeline:
        scanned = (
            pipeline
            | "Files" >> beam.Create(files)
            | "SpreadFiles" >> beam.Reshuffle()
            | "Scan" >> transforms.ScanFiles(config)
        )
        _ = scanned["scans"] | "Scans" >> transforms.SaveJson(scans_path)
        _ = scanned["counts"] | "Vocabulary" >> transforms.SaveVocabulary(
            vocab_path, config, words_path=words_path
        )
    scans = transforms.load_scans(scans_path)
    good = _accept(scans, config)
    _check_splits(scans, config)

    groups = _group(good, config.shard_megabytes << 20)
    with open_pipeline(flags, log_path) as pipeline:
        _ = (
            pipeline
            | "Groups" >> beam.Create(groups)
            | "SpreadGroups" >> beam.Reshuffle()
            | "Write"
            >> transforms.WriteGroups(folder, vocab_path, count=len(groups), config=config)
            | "Shards" >> transforms.SaveJson(groups_path)
        )
    written = transforms.load_groups(groups_path)
    for group in written:
        if "problem" in group:
            raise InputError(group["problem"])
    shutil.rmtree(scratch)
    info = _describe(scans, written, vocab=Vocabulary.load(vocab_path), config=config)
    info["vocab"].update(_describe_words(words))
    _save_info(info, folder)
    return info


def _is_occupied(target: str) -> bool:
    """Returns whether the output folder holds anything."""
    if not os.path.lexists(target):
        return False
    if not os.path.isdir(target):
        raise InputError(f"{target} is a file; choose another folder for the records")
    try:
        return bool(os.listdir(target))
    except OSError as error:
        raise InputError(
            f"{target} can't be read ({error.strerror}); choose another folder for the records"
        ) from None


def _reuse(
    target: str, files: Sequence[InputFile], words: Sequence[str] | None, *, config: DataConfig
) -> dict[str, Any]:
    """Returns what dataset.json says if the folder is just what would be made."""
    occupied = f"{target} already holds something"
    advice = "choose another folder or delete it"
    if not os.path.exists(os.path.join(target, COMPLETED_FILE)):
        raise InputError(f"{occupied}; {advice}")
    try:
        with Dataset.open(target) as dataset:
            info = dataset.info
    except InputError as error:
        raise InputError(f"{occupied}, records that can't be used: {error}; {advice}") from None
    if info["config"] != to_dict(config):
        raise InputError(f"{occupied}, records made with another config; {advice}")
    hashes = [hash_file(file.path) for file in files]
    if info["input"]["fingerprint"] != sources.fingerprint([f.full_name for f in files], hashes):
        raise InputError(f"{occupied}, records of another input; {advice}")
    given = {key: info["vocab"][key] for key in info["vocab"] if key.startswith("given_")}
    if given != _describe_words(words):
        raise InputError(f"{occupied}, records with another vocabulary; {advice}")
    print(f"{target}: already prepared from this input with this config", flush=True)
    return info


def _list_words(words: Sequence[str]) -> str:
    return "".join(f"{word}\n" for word in words)


def _describe_words(words: Sequence[str] | None) -> dict[str, Any]:
    """Returns what dataset.json says of words that were given; nothing if none were."""
    if words is None:
        return {}
    sha256 = hashlib.sha256(_list_words(words).encode()).hexdigest()
    return {"given_words": len(words), "given_sha256": sha256}


@contextlib.contextmanager
def _output_folder(target: str) -> Iterator[str]:
    """Gives a temporary folder that becomes `target` if all goes well, and else vanishes."""
    folder = f"{target}.tmp-{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # of a process that had our id
        os.mkdir(folder)
    except OSError as error:
        raise InputError(
            f"can't write to {folder} ({error.strerror}); choose another folder for the records"
        ) from None
    try:
        yield folder
        try:
            os.rename(folder, target)  # replaces an empty folder, and nothing else
        except OSError as error:
            raise InputError(
                f"can't rename {folder} to {target} ({error.strerror}); choose another folder "
                "for the records"
            ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _accept(scans: Sequence[FileScan], config: DataConfig) -> list[FileScan]:
    """Returns the good files.

    Raises:
      InputError: there is a bad file and `on_bad_text` is `error`, or no file is good.
    """
    bad = [scan for scan in scans if scan.reason]
    for scan in bad:
        if scan.reason == "unreadable":
            raise InputError(f"{scan.file.path} can't be read ({scan.detail}); leave it out")
    good = [scan for scan in scans if not scan.reason]
    if bad and (config.on_bad_text == "error" or not good):
        first = sources.describe_bad_text(
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


def _check_splits(scans: Sequence[FileScan], config: DataConfig) -> None:
    """Raises InputError if a split that should have records has none."""
    count = {split: sum(scan.records.get(split, 0) for scan in scans) for split in SPLITS}
    given = {scan.file.split for scan in scans} - {""}
    for split in SPLITS:
        if split in given and not count[split]:
            raise InputError(
                f"the {split} split is empty: no file of --{split} is left; give it text"
            )
    if given:
        return
    total = sum(count.values())
    if not count["train"]:
        raise InputError(
            f"no training words: none of the {total} records fell into the training split; give "
            f"more text, or lower data.record_words (now {config.record_words})"
        )
    for split in ("valid", "test"):
        fraction = getattr(config, f"{split}_fraction")
        if fraction > 0 and not count[split]:
            raise InputError(
                f"the {split} split is empty: none of the {total} records fell into it; give more "
                f"text, lower data.record_words (now {config.record_words}) or raise "
                f"data.{split}_fraction (now {fraction})"
            )


def _group(good: Sequence[FileScan], size: int) -> list[Group]:
    """Puts consecutive files together until they have `size` bytes."""
    batches: list[list[FileScan]] = []
    room = 0
    for scan in good:
        if room <= 0:
            batches.append([])
            room = size
        batches[-1].append(scan)
        room -= scan.file.size
    return [Group(index=index, scans=tuple(batch)) for index, batch in enumerate(batches)]


def _describe(
    scans: Sequence[FileScan],
    groups: Sequence[dict[str, Any]],
    *,
    vocab: Vocabulary,
    config: DataConfig,
) -> dict[str, Any]:
    """Returns the content of dataset.json; nothing in it depends on time or place."""
    splits = {
        split: _describe_split([group["splits"][split] for group in groups]) for split in SPLITS
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
            "fingerprint": sources.fingerprint(names, hashes),
            "stray_bytes": sum(scan.stray for scan in scans),
            **({"split_files": by_split} if by_split else {}),
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


def _describe_split(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns one split's entry in dataset.json from its shards."""
    shards = [part["shard"] for part in parts]
    words = sum(shard["words"] for shard in shards)
    sums = {
        name: sum(part["sums"][name] for part in parts)
        for name in ("characters", "bytes", "unknown_words")
    }
    powers = [length.bit_length() - 1 for shard in shards for length in shard["lengths"]]
    return {
        "records": sum(shard["records"] for shard in shards),
        "words": words,
        **sums,
        "unknown_rate": sums["unknown_words"] / words if words else 0.0,
        "length_histogram": {str(1 << power): powers.count(power) for power in sorted(set(powers))},
        "shards": shards,
    }


def _save_info(info: dict[str, Any], folder: str) -> None:
    """Writes dataset.json and, last, the marker that the folder is whole."""
    text = json.dumps(info, indent=1, ensure_ascii=False)
    # A list of numbers on one line. JSON texts hold no raw line end, so none is touched.
    text = re.sub(r"\[\n\s+([\d,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    for name, content in ((INFO_FILE, text + "\n"), (COMPLETED_FILE, info["digest"] + "\n")):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _report(info: dict[str, Any], records: str) -> None:
    rejected = sum(info["rejected"].values())
    left_out = f" ({rejected} left out)" if rejected else ""
    stray = info["input"]["stray_bytes"]
    replaced = f", {stray} stray bytes replaced" if stray else ""
    print(
        f"{records}: {info['input']['files']} files{left_out}, "
        f"vocabulary of {info['vocab']['size']} words{replaced}"
    )
    for split in SPLITS:
        part = info["splits"][split]
        print(
            f"{split:5} {part['words']:10} words in {part['records']} records, "
            f"{100 * part['unknown_rate']:.2f} % unknown",
            flush=True,
        )
