"""The `prepare` stage: raw text files -> a folder of records (see docs/data-contract.md)."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from components.preprocess.analysis.near_duplicates import Search
from components.preprocess.analysis.statistics import Progress, describe_text, for_card
from components.preprocess.engine import transforms
from components.preprocess.engine.resources import count_workers
from components.preprocess.engine.runner import beam, check_options, has_one_worker, open_pipeline
from components.preprocess.inputs.listing import find_files
from components.preprocess.inputs.listing_file import load_listing
from components.preprocess.passes import word_counts
from components.preprocess.passes.corpus_scan import describe
from components.preprocess.passes.file_scans import hash_text
from components.preprocess.passes.row_files import RowFiles
from components.preprocess.passes.scratch_files import index_path, seen_path, words_path
from components.preprocess.passes.word_counts import SplitCounts
from components.preprocess.passes.work_units import make_groups, make_units
from components.preprocess.sources.files import ContentFingerprint
from components.preprocess.sources.types import InputFile
from components.run_settings import DEFAULTS
from model.config import DataConfig, to_dict
from model.data.records import (
    CARD_FILE,
    FORMAT_VERSION,
    INFO_FILE,
    SPLITS,
    VOCAB_FILE,
    Dataset,
    save_characters,
    save_index,
)
from model.data.seen import SEEN_FILE, SeenText, unite
from model.errors import InputError
from model.files import (
    is_complete,
    is_disk_full,
    list_entries,
    publish_folder,
    remove_temporaries,
    temporary_folder,
    write_whole,
)
from model.text.vocab import Vocabulary, read_words


@dataclasses.dataclass(frozen=True)
class Given:
    """Words given for the vocabulary."""

    words: tuple[str, ...] | None
    """None if the text alone determines them."""
    extend: bool
    """Whether the text adds more."""

    @classmethod
    def read(cls, path: str, *, extend: bool) -> Given:
        """Reads the words of a file; none if `path` is empty.

        Raises:
          InputError: the file has no words, or there are none to extend.
        """
        if extend and not path:
            raise InputError("--extend-vocab extends the words of --vocab FILE; name the file")
        return cls(read_words(path) if path else None, extend)

    def describe(self) -> dict[str, Any]:
        """Returns the entry in dataset.json; empty without given words."""
        if self.words is None:
            return {}
        listed = "".join(f"{word}\n" for word in self.words)
        described: dict[str, Any] = {
            "given_words": len(self.words),
            "given_sha256": hashlib.sha256(listed.encode()).hexdigest(),
        }
        return {**described, "given_extended": True} if self.extend else described


def run(
    *,
    inputs: Sequence[str] = (),
    train: Sequence[str] = (),
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    listing: str = "",
    vocab: str = "",
    extend_vocab: bool = False,
    source_root: str = "",
    leak_records: int = DEFAULTS.leak_check_records,
    records: str,
    config: DataConfig,
    beam_workers: int = 0,
    beam_options: Sequence[str] = (),
) -> dict[str, Any]:
    """Prepares a corpus.

    The same input and config give the same bytes, whatever the number of workers and the runner.
    `records` is written atomically; if it already holds the records of this input and config, it is
    left as it is.

    Args:
      inputs: files, glob patterns or folders; a record's split is a hash of its position.
      train: instead of `inputs`, those of the training split.
      valid: those of the validation split.
      test: those of the test split.
      listing: folder of a listing of the files, instead of patterns; see `save_listing`.
      vocab: file with the words of the vocabulary, instead of the most frequent ones.
      extend_vocab: add the most frequent words to those of `vocab`, as far as there is room.
      source_root: folder below which file names start; empty: according to the patterns.
      leak_records: maximum number of validation records, and of test records, that are compared
        with the training text to find near-duplicates; 0: no check. Records don't depend on it.
      records: the output folder; created, or existing and empty.
      config: how text becomes records.
      beam_workers: processes; 1 runs in this process, 0 as many as there is room for.
      beam_options: options of Apache Beam, which may select another runner.

    Returns:
      The content of dataset.json.

    Raises:
      InputError: unusable input or output folder, or a file of `listing` has changed.
      RestartableError: a file has changed since it was listed here, or its store is busy.
    """
    flags = check_options(beam_workers, beam_options)
    target = os.path.realpath(records)
    occupied = _is_occupied(target)
    if listing:
        files = load_listing(listing)
    else:
        files = find_files(
            inputs, train=train, valid=valid, test=test, source_root=source_root, output=target
        )
    given = Given.read(vocab, extend=extend_vocab)
    if occupied:
        return _reuse(target, files, given, config=config, leak_records=leak_records)
    search = Search(
        records=leak_records, threads=beam_workers or count_workers(), progress=Progress()
    )
    with _output_folder(target) as folder:
        info = _prepare(
            files,
            given,
            folder=folder,
            config=config,
            flags=flags,
            source_root=source_root,
            search=search,
        )
        _publish(folder, target, digest=info["digest"])
    _report(info, records)
    return info


def _prepare(
    files: Sequence[InputFile],
    given: Given,
    *,
    folder: str,
    config: DataConfig,
    flags: Sequence[str],
    source_root: str,
    search: Search,
) -> dict[str, Any]:
    scratch = os.path.join(folder, "scratch")
    os.mkdir(scratch)
    write_whole(words_path(scratch), json.dumps(dataclasses.asdict(given)))
    sizes = []
    for unit in make_units(files, config):
        unit.save(scratch)
        sizes.append(unit.size)
    groups = make_groups(sizes, config.shard_megabytes << 20)
    log_path = os.path.join(scratch, "workers.log")
    with open_pipeline(flags, log_path, elements=len(sizes)) as pipeline:
        spread = not has_one_worker(pipeline)
        prepare = transforms.PrepareRecords(
            config, folder, scratch=scratch, groups=groups, spread=spread
        )
        units = beam.Create(range(len(sizes)), reshuffle=spread)
        _ = pipeline | "Units" >> units | "Prepare" >> prepare
    written = transforms.load_groups(scratch, len(groups))
    scan, counted = transforms.load_scan(scratch, len(sizes), config)
    vocab = Vocabulary.load(os.path.join(folder, VOCAB_FILE))
    saved = {split: _save_index(folder, scratch, split, len(groups)) for split in SPLITS}
    known = {split: word_counts.describe_split(counted, split, vocab) for split in SPLITS}
    info = describe(
        scan,
        written,
        vocab=vocab,
        known=known,
        saved=saved,
        config=config,
        source_root=source_root,
    )
    info["vocab"].update(given.describe())
    info["statistics"] = describe_text(
        scan,
        known["train"],
        folder=folder,
        scratch=scratch,
        groups=len(groups),
        search=search,
    )
    info["seen"] = _save_seen(folder, scratch, len(groups))
    shutil.rmtree(scratch)
    _write_card(info, known["train"], folder)
    _save_info(info, folder)
    remove_temporaries(folder)  # of attempts that a runner killed
    return info


def _write_card(info: dict[str, Any], known: SplitCounts, folder: str) -> None:
    from components.preprocess.analysis.data_card import write_card  # Jinja takes a while

    write_card(info, for_card(info, known), os.path.join(folder, CARD_FILE))


def _save_index(folder: str, scratch: str, split: str, groups: int) -> dict[str, Any]:
    """Merges the indexes of a split's shards.

    Returns:
      A split's arguments for `describe`: its `index` and `text`, entries of dataset.json, and
      `lengths`, how many records have 2^k to 2^(k + 1) - 1 words.
    """
    parts = RowFiles([index_path(scratch, split, group) for group in range(groups)])
    powers = np.zeros(64, np.int64)
    for rows in parts:
        lengths = rows[:, 1].astype(np.float64)
        powers += np.bincount(np.frexp(lengths)[1] - 1, minlength=len(powers))
    return {
        "index": save_index(folder, split, parts.columns(slice(0, 2))),
        "text": save_characters(folder, split, parts.columns(2)),
        "lengths": powers.tolist(),
    }


def _save_seen(folder: str, scratch: str, groups: int) -> dict[str, Any]:
    seen = unite(SeenText.load(seen_path(scratch, group)) for group in range(groups))
    digest = seen.save(os.path.join(folder, SEEN_FILE))
    return {"file": SEEN_FILE, **digest, "hashes": len(seen.hashes), "share": seen.share}


def _is_occupied(target: str) -> bool:
    if not os.path.lexists(target):
        return False
    if not os.path.isdir(target):
        raise InputError(f"{target} is a file; choose another folder for the records")
    try:
        return bool(list_entries(target))
    except OSError as error:
        raise InputError(
            f"{target} can't be read ({error.strerror}); choose another folder for the records"
        ) from None


def _reuse(
    target: str,
    files: Sequence[InputFile],
    given: Given,
    *,
    config: DataConfig,
    leak_records: int,
) -> dict[str, Any]:
    """Returns the content of dataset.json if the folder is exactly what would be made."""
    occupied = f"{target} already holds something"
    advice = "choose another folder or delete it"
    if not is_complete(target):
        raise InputError(f"{occupied}; {advice}")
    try:
        with Dataset.open(target) as dataset:
            info = dataset.info
    except InputError as error:
        raise InputError(f"{occupied}, records that can't be used: {error}; {advice}") from None
    if info["format_version"] != FORMAT_VERSION:
        raise InputError(f"{occupied}, records of format {info['format_version']}; {advice}")
    if info["config"] != to_dict(config):
        raise InputError(f"{occupied}, records made with another config; {advice}")
    fingerprint = ContentFingerprint()
    for file in files:
        fingerprint.add(file.full_name, hash_text(file, config))
    if info["input"]["fingerprint"] != fingerprint.hexdigest():
        raise InputError(f"{occupied}, records of another input; {advice}")
    found = {key: info["vocab"][key] for key in info["vocab"] if key.startswith("given_")}
    if found != given.describe():
        raise InputError(f"{occupied}, records with another vocabulary; {advice}")
    if not os.path.isfile(os.path.join(target, CARD_FILE)):
        raise InputError(f"{occupied}, records without {CARD_FILE}; {advice}")
    leaks = info["statistics"]["near_duplicates"]
    for split in SPLITS[1:]:
        compared = leaks["compared"][split] if leaks else 0
        if compared < min(leak_records, info["splits"][split]["records"]):
            raise InputError(
                f"{occupied}, records of which {compared} of the {split} split were compared with the "
                f"training text; {advice}, or lower --leak-check-records"
            )
    print(f"{target}: already prepared from this input with this config", flush=True)
    return info


@contextlib.contextmanager
def _output_folder(target: str) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(target))
        except OSError as error:
            raise InputError(
                f"can't write to {target} ({error.strerror}); choose another folder for the records"
            ) from None
        try:
            yield folder
        except OSError as error:
            if not is_disk_full(error) and error.errno != errno.EFBIG:
                raise
            raise InputError(
                f"can't write to {target} ({error.strerror}); free space or choose another folder"
            ) from None


def _publish(folder: str, target: str, *, digest: str) -> None:
    try:
        publish_folder(folder, target, marker=f"{digest}\n")  # replaces an empty folder only
    except OSError as error:
        raise InputError(
            f"can't move {folder} to {target} ({error.strerror}); choose another folder for the "
            "records"
        ) from None


def _save_info(info: dict[str, Any], folder: str) -> None:
    text = json.dumps(info, indent=1, ensure_ascii=False)
    # Lists of numbers on one line. JSON strings contain no raw line ends, so none is affected.
    text = re.sub(r"\[\n\s+([\d,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    write_whole(os.path.join(folder, INFO_FILE), text + "\n")


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
