"""What a run is made of: its configuration, its text files, and a fingerprint of them.

The first step of the pipeline, which KFP never caches. It hands on what the later steps are
cached by. No TensorFlow and no Beam here.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from components.export.lineage import find_beginning
from components.export.manifest import code_version, made_of
from components.export.registry import RegisteredModel
from components.export.target import check_target
from components.pod_sizes import PodSizes
from components.preprocess.analysis.drift_limits import extend_fingerprint
from components.preprocess.inputs.listing import StoredFiles, exists, find_files
from components.preprocess.inputs.listing_file import save_listing
from components.preprocess.inputs.split_names import find_place, mark_root, split_mark
from components.preprocess.sources.types import InputFile
from components.run_settings import PREPARING, TRAINING, RunSettings, choose_config, read_run
from components.shared_runs import register
from model.checkpointing.compatibility import check_same_model
from model.config import CONFIG_VERSION, Config, read_config, to_dict, to_json, with_overrides
from model.data.records import VOCAB_FILE
from model.errors import InputError

MAX_WINDOW_DAYS = 3660
SHOWN_PATTERNS = 5

_DATE = re.compile(r"\{date:([^{}]*)\}")


class RunInputs(NamedTuple):
    """What the later steps of a run work with, but for the listing of its text files."""

    fingerprint: str
    """SHA-256 of names, sizes and times of change of all files, of the records to compare to, and of
    the checkpoint of `base` if it gives the words. On a shared volume, of the number of removed runs
    with the same text, too: their output is still in KFP's cache."""
    data: str
    """The configuration's `data` section alone, as JSON: all that preprocess depends on."""
    config: str
    """The whole configuration as JSON, on which training depends."""
    judged: str
    """The same with the limits of the gate that the run was given."""
    champion: str
    """Folder of the version with which the model is compared; empty where there is none."""
    reference: str
    """Folder of the best version so far, which bounds the total loss; empty where none is set."""
    base: str
    """Folder of the version with whose weights training begins; empty: with random ones."""
    preparation: str
    """The run's settings that preprocess depends on, as JSON. Its `vocab` is the given one or that
    of `base`."""
    training: str
    """The run's settings that training depends on, as JSON."""
    run: str
    """Identity of the run: the same for the same configuration, text, beginning and champion."""
    begun: str
    """Digest of the checkpoint of `base`; empty: none. Training is cached by it: another version
    may have the same folder one day."""


def find_inputs(
    corpus: str,
    *,
    registry: str = "",
    model_name: str = "",
    preset: str = "",
    settings: Sequence[str] = (),
    window_days: int = 1,
    times: Sequence[str] = (),
    listing: str = "",
    folder: str = "",
    sizes: PodSizes | None = None,
) -> RunInputs:
    """Looks up what a run is to be made of.

    Args:
      corpus: JSON list of names, folders and glob patterns, or one of them as it is; each may
        hold a date, as in `{date:%Y-%m-%d}`. `@FILE` stands for those that a file lists; dates
        are filled in its name, and not in its lines.
      registry: folder of published models; empty: none.
      model_name: the model's name in it.
      preset: name of a configuration, or a whole one as JSON; empty: `DEFAULT_PRESET`.
      settings: what differs from it, and the run's settings, as `section.field=value`.
      window_days: how many days the dates go back.
      times: in the order of preference, when the run was to begin (RFC 3339); those that are
        empty or were not filled in are passed over. None left: now.
      listing: folder for the list of text files, from which `preprocess` works; empty: none.
      folder: the run's folder on a shared volume; empty: there is none.
      sizes: of the run's pods, which are checked.

    Raises:
      InputError: one of the arguments, or an input that no file matches.
    """
    base = choose_config(preset)
    chosen, run = read_run(base, settings, source="settings")
    if sizes:
        sizes.check(chosen)
    model = RegisteredModel(registry, model_name)
    if registry or model_name:
        check_target(model)
    patterns = read_patterns(corpus)
    mark, stored = not run.source_root, StoredFiles()
    end = start_time(times)
    expanded = expand_dates(patterns, days=window_days, end=end, mark=mark, stored=stored)
    files = find_files(expanded, source_root=run.source_root, stored=stored)
    if listing:
        save_listing(listing, files)
    digest = fingerprint(files, vocab=run.vocab)

    def identify(base: str, champion: str) -> str:
        return _identify(chosen, digest, run, base=base, champion=champion)

    begun = find_beginning(model, warm_start=run.warm_start, identify=identify)
    judged = _shorten(chosen, begun.base, run)
    words = run.vocab or (begun.base and os.path.join(begun.base, VOCAB_FILE))
    prepared = dataclasses.replace(run, vocab=words, extend_vocab=run.extend_vocab and bool(words))
    base_digest = made_of(begun.base) or "" if begun.base else ""
    content = digest if run.vocab else _with_words(digest, base_digest)
    more = f" and {len(expanded) - SHOWN_PATTERNS} more" if len(expanded) > SHOWN_PATTERNS else ""
    print(
        f"{len(files)} files, {sum(file.size for file in files):,} bytes: "
        f"{', '.join(split_mark(one)[0] for one in expanded[:SHOWN_PATTERNS])}{more}",
        flush=True,
    )
    return RunInputs(
        fingerprint=register(folder, extend_fingerprint(content, run.compare_to)),
        data=json.dumps({"config_version": CONFIG_VERSION, "data": to_dict(judged.data)}),
        config=to_json(dataclasses.replace(judged, gate=base.gate)),
        judged=to_json(judged),
        champion=begun.champion,
        reference=begun.reference,
        base=begun.base,
        preparation=prepared.to_json(PREPARING),
        training=run.to_json(TRAINING),
        run=begun.run,
        begun=base_digest,
    )


def _with_words(fingerprint: str, base: str) -> str:
    """Returns a fingerprint of the text and of the checkpoint that gives the words, if one does."""
    return hashlib.sha256(f"{fingerprint} {base}".encode()).hexdigest() if base else fingerprint


def _identify(
    config: Config, fingerprint: str, run: RunSettings, *, base: str, champion: str
) -> str:
    """Returns a SHA-256 of all that decides what model a run comes to, and what becomes of it.

    Args:
      config: before it is shortened; its gate is left out.
      fingerprint: of the text and the given vocabulary.
      run: what of it has an effect counts, and no path.
      base: digest of the checkpoint whose weights training begins with; empty: random weights.
      champion: digest of the checkpoint that the model is compared with; empty: none.
    """
    about = {
        "code": code_version(),
        "config": {name: part for name, part in to_dict(config).items() if name != "gate"},
        "text": fingerprint,
        "base": base,
        "steps_share": run.steps_share if base else None,
        "extend_vocab": run.extend_vocab and bool(base or run.vocab),
        "champion": champion,
    }
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _shorten(config: Config, base: str, run: RunSettings) -> Config:
    """Returns the config of a training that begins with a version, or the config as it is."""
    if not base:
        if run.warm_start:
            print("no champion to begin with yet: training begins with random weights", flush=True)
        return config
    check_same_model(base, read_config(os.path.join(base, "config.json")), config)
    steps = max(1, round(config.train.steps * run.steps_share))
    print(f"training begins with {base}, for {steps} of {config.train.steps} steps", flush=True)
    return with_overrides(config, [f"train.steps={steps}"])


def read_patterns(corpus: str) -> list[str]:
    """Returns the patterns of a JSON list, or the one pattern that is no JSON list.

    Raises:
      InputError: a list of something else, or none at all.
    """
    text = corpus.strip()
    if not text.startswith("["):
        patterns: object = [text] if text else []
    else:
        try:
            patterns = json.loads(text)
        except ValueError as error:
            raise InputError(
                f'corpus is not a JSON list ({error}); write it as ["/mnt/charloom/corpus/*.txt"]'
            ) from None
    if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
        raise InputError(f"corpus is {text[:200]}; it must be a JSON list of names and patterns")
    if not patterns:
        raise InputError('corpus is empty; name text files, as in ["/mnt/charloom/corpus/*.txt"]')
    return patterns


def start_time(times: Sequence[str]) -> datetime.datetime:
    """Returns the first of some times that is one, in UTC; now if none is.

    Raises:
      InputError: a text that is neither empty, a placeholder of KFP, nor a time.
    """
    for text in times:
        if not text or text.startswith("{{"):  # kfp.local knows no such time
            continue
        try:
            time = datetime.datetime.fromisoformat(text)
        except ValueError:
            raise InputError(f"{text!r} is not a time; write it as 2026-11-25T02:00:00Z") from None
        return time.replace(tzinfo=time.tzinfo or datetime.UTC).astimezone(datetime.UTC)
    return datetime.datetime.now(datetime.UTC)


def expand_dates(
    patterns: Sequence[str],
    *,
    days: int,
    end: datetime.datetime,
    mark: bool = True,
    stored: StoredFiles | None = None,
) -> list[str]:
    """Fills in the dates of patterns.

    Args:
      patterns: each may hold `{date:FORMAT}`, FORMAT as strftime takes it.
      days: so many whole days of UTC, the newest the one before that of `end`.
      end: when the run was to begin. The day itself has not ended, so that a run that is
        repeated later would find other text.
      mark: write `/./` where the names of a pattern with a date begin, so that a file has the
        same name in every window.
      stored: gets what is listed in object stores.

    Returns:
      The patterns in their order, those with a date once for each day that has a file, the
      oldest day first.

    Raises:
      InputError: days that are none, or a pattern none of whose days has a file.
    """
    if not 1 <= days <= MAX_WINDOW_DAYS:
        raise InputError(f"corpus_window_days is {days}; it must be from 1 to {MAX_WINDOW_DAYS}")
    stored = StoredFiles() if stored is None else stored
    dates = [end.date() - datetime.timedelta(days=back) for back in range(days, 0, -1)]
    expanded: list[str] = []
    for pattern in patterns:
        if not _DATE.search(pattern):
            expanded.append(pattern)
            continue
        marked = mark_root(pattern) if mark else pattern
        filled = list(dict.fromkeys(_fill_in(marked, date) for date in dates))
        there = [one for one in filled if exists(one, stored)]
        if not there:
            raise InputError(
                f"no file matches {pattern!r} on any day from {dates[0]} to {dates[-1]} (UTC); "
                "check the path, the format of the date and corpus_window_days"
            )
        if missing := len(filled) - len(there):
            print(f"{pattern}: {missing} of {len(filled)} dates have no file", flush=True)
        expanded += there
    return list(dict.fromkeys(expanded))


def _fill_in(pattern: str, date: datetime.date) -> str:
    return _DATE.sub(lambda match: date.strftime(match[1]), pattern)


def fingerprint(files: Sequence[InputFile], *, vocab: str = "") -> str:
    """Returns a SHA-256 that changes when a file comes, goes, is written again or named otherwise.

    By path, name, size and time of change: reading terabytes before every run would be too slow.
    preprocess itself goes by content.

    Raises:
      InputError: a file can't be looked at.
    """
    digest, separator = hashlib.sha256(b"["), b""
    for file in sorted(files, key=lambda file: (find_place(file.path), file.full_name)):
        row = ["input", find_place(file.path), file.full_name, file.size, file.modified]
        digest.update(
            separator + json.dumps(row).encode()
        )  # a row at a time: there may be millions
        separator = b", "
    if vocab:
        row = ["vocab", os.path.abspath(vocab), *_stat(vocab)]
        digest.update(separator + json.dumps(row).encode())
    digest.update(b"]")
    return digest.hexdigest()


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); check the path") from None
    return status.st_size, status.st_mtime_ns
