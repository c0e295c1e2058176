"""The Beam transforms of `prepare`, one pipeline for both passes over the text.

Elements are units of text of several MiB (first pass) and groups of units (second pass), never
words or lines: a Beam element costs about as much as tokenising a few lines. Results go to files
named after the element, each renamed when complete. So an element that a runner retries leaves
nothing extra behind, and only indices travel through the runner. Problems with the input are
recorded in these files, too, instead of raised: the first bad file in order is reported on every
runner, without a pipeline's traceback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from components.preprocess.engine.runner import beam
from components.preprocess.passes.corpus_scan import CorpusScan, accept, check_splits
from components.preprocess.passes.file_scans import PartScan, scans_of_files
from components.preprocess.passes.scratch_files import (
    group_path,
    problem_path,
    read_rows,
    scan_path,
    words_path,
    write_row,
)
from components.preprocess.passes.word_counts import WordCounter, build_vocabulary
from components.preprocess.passes.work_units import Unit
from components.preprocess.sources.types import InputFile
from model.config import DataConfig
from model.data.records import VOCAB_FILE
from model.errors import InputError, RestartableError
from model.files import whole_file, write_whole
from model.text.vocab import Vocabulary

Group = tuple[int, Sequence[int]]
"""Index of a group and the indices of its units."""


class PrepareRecords(beam.PTransform):
    """Indices of units -> a vocabulary and shards in a folder, and files that describe them."""

    def __init__(
        self,
        config: DataConfig,
        folder: str,
        *,
        scratch: str,
        groups: Sequence[Sequence[int]],
        spread: bool,
    ) -> None:
        """Makes the transform.

        Args:
          config: how text becomes records.
          folder: receives the records.
          scratch: folder for intermediate files; contains the units and the file of given words.
          groups: for each group the indices of its units, which share shards.
          spread: whether to distribute the groups over several workers.
        """
        super().__init__()
        self._spread = spread
        self._scan = _ScanUnit(config, scratch)
        self._choose = _ChooseVocabulary(config, folder, scratch, [list(one) for one in groups])
        self._write = _WriteGroup(folder, scratch, len(groups))

    def expand(self, units: beam.PCollection) -> beam.PCollection:
        """Builds the steps."""
        groups = (
            units
            | "ScanUnit" >> beam.ParDo(self._scan)
            | "All" >> beam.GroupByKey()
            | "ChooseVocabulary" >> beam.ParDo(self._choose)
        )
        if self._spread:
            groups |= "Spread" >> beam.Reshuffle()
        return groups | "WriteGroup" >> beam.ParDo(self._write)


class _ScanUnit(beam.DoFn):
    def __init__(self, config: DataConfig, folder: str) -> None:
        self._config = config
        self._folder = folder

    def process(self, index: int) -> Iterator[tuple[int, int]]:
        from components.preprocess.passes.scan import scan_unit  # imports TensorFlow

        path = scan_path(self._folder, index)
        counter = WordCounter(self._folder, f"{index:08d}")
        try:
            unit = Unit.load(self._folder, index)
            with whole_file(path, flush=False) as file:
                for scan in scan_unit(unit, self._config, folder=self._folder, counter=counter):
                    write_row(file, dataclasses.asdict(scan))
                counter.flush()
                write_row(file, {"counts": counter.files})
        except OSError as error:
            with contextlib.suppress(OSError):
                write_whole(path, json.dumps({"problem": str(error)}), flush=False)
        yield 0, index


class _ChooseVocabulary(beam.DoFn):
    """All units scanned -> the vocabulary file, and the groups to write; none if text is bad."""

    def __init__(
        self, config: DataConfig, folder: str, scratch: str, groups: list[list[int]]
    ) -> None:
        self._config = config
        self._folder = folder
        self._scratch = scratch
        self._groups = groups

    def process(self, scanned: tuple[int, Sequence[int]]) -> Iterator[Group]:
        problem, again = None, False
        try:
            self._choose(len(list(scanned[1])))
        except (InputError, RestartableError) as error:
            problem, again = str(error), isinstance(error, RestartableError)
        except OSError as error:
            problem = (
                f"can't write to {self._folder} ({error}); free space or choose another folder"
            )
        with contextlib.suppress(OSError):
            content = {"problem": problem, "again": again}
            write_whole(problem_path(self._scratch), json.dumps(content), flush=False)
        if problem is None:
            yield from enumerate(self._groups)

    def _choose(self, units: int) -> None:
        scan, counted = load_scan(self._scratch, units, self._config)
        accept(scan, self._config)
        check_splits(scan, self._config)
        vocab = build_vocabulary(
            counted,
            max_size=self._config.vocab_size,
            min_count=self._config.min_count,
            **_load_json(words_path(self._scratch)),
        )
        vocab.save(os.path.join(self._folder, VOCAB_FILE))


class _WriteGroup(beam.DoFn):
    def __init__(self, folder: str, scratch: str, count: int) -> None:
        self._folder = folder
        self._scratch = scratch
        self._count = count
        self._vocab: Vocabulary | None = None

    def process(self, group: Group) -> None:
        from components.preprocess.passes.write import write_group  # imports TensorFlow

        self._vocab = self._vocab or Vocabulary.load(os.path.join(self._folder, VOCAB_FILE))
        index, units = group
        content = write_group(
            index,
            units,
            folder=self._folder,
            scratch=self._scratch,
            count=self._count,
            vocab=self._vocab,
        )
        write_whole(group_path(self._scratch, index), json.dumps(content), flush=False)


def load_scan(folder: str, units: int, config: DataConfig) -> tuple[CorpusScan, list[str]]:
    """Reads the results of the first pass.

    Returns:
      What was found in the corpus, and the paths of the count files.

    Raises:
      InputError: a unit could not write its results.
    """
    counts: list[str] = []
    parts = _load_parts(folder, units, counts)
    return CorpusScan(scans_of_files(parts, config)), counts


def _load_parts(folder: str, units: int, counts: list[str]) -> Iterator[PartScan]:
    """Yields the parts in the order of files and blocks; adds the paths of the count files."""
    for unit in range(units):
        for row in _load_rows(scan_path(folder, unit)):
            if "problem" in row:
                raise InputError(
                    f"can't write to {folder} ({row['problem']}); free space or choose another folder"
                )
            if "counts" in row:
                counts += [os.path.join(folder, name) for name in row["counts"]]
                continue
            fault = tuple(row["fault"]) if row["fault"] else None
            yield PartScan(**{**row, "file": InputFile(**row["file"]), "fault": fault})


def _load_rows(path: str) -> Iterator[dict[str, Any]]:
    try:
        yield from read_rows(path)
    except FileNotFoundError:  # no room for this file either
        yield {"problem": "a unit of the text has no result"}


def load_groups(folder: str, count: int) -> list[dict[str, Any]]:
    """Reads the results of the second pass over `count` groups, the dicts of `write_group`.

    Raises:
      InputError: a unit, the vocabulary or a group could not be used or written.
      RestartableError: a file of a store is temporarily unreadable.
    """
    try:
        chosen = _load_json(problem_path(folder))
    except FileNotFoundError:
        chosen = {"problem": f"can't write to {folder}; free space or choose another folder"}
    if chosen["problem"]:
        raise (RestartableError if chosen.get("again") else InputError)(chosen["problem"])
    groups = [_load_json(group_path(folder, group)) for group in range(count)]
    for group in groups:
        if "problem" in group:
            raise InputError(group["problem"])
    return groups


def _load_json(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    return content
