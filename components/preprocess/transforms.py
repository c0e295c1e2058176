"""The Beam transforms of `prepare`.

Elements are units of text of some MiB (first pass) and groups of units (second pass), never
words or lines: a Beam element costs about as much as tokenising a few lines. What they give is
in files named by the element, each renamed to its name when it is whole. So an element that a
runner tries twice leaves no more than one that it tried once, and nothing travels back through
the runner. What is wrong with the input is in these files, too, and no exception: the first bad
file in order is reported whatever the runner, and without a pipeline's traceback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

from components.preprocess.counts import WordCounter
from components.preprocess.runner import beam
from components.preprocess.sources import InputFile
from components.preprocess.units import Unit
from model.config import DataConfig
from model.errors import InputError
from model.files import write_whole
from model.vocab import Vocabulary


class ScanUnits(beam.PTransform):
    """`Unit`s -> for each a file of `PartScan`s, of pieces and of counts in a folder."""

    def __init__(self, config: DataConfig, folder: str) -> None:
        """Makes the transform."""
        super().__init__()
        self._scan = _ScanUnit(config, folder)

    def expand(self, units: beam.PCollection) -> beam.PCollection:
        """Names the steps."""
        return units | "Spread" >> beam.Reshuffle() | "ScanUnit" >> beam.ParDo(self._scan)


class _ScanUnit(beam.DoFn):
    def __init__(self, config: DataConfig, folder: str) -> None:
        self._config = config
        self._folder = folder

    def process(self, unit: Unit) -> None:
        from components.preprocess.scanning import scan_unit  # TensorFlow comes with it

        path = _scan_path(self._folder, unit.index)
        counter = WordCounter(self._folder, f"{unit.index:08d}")
        try:
            scans = scan_unit(unit, self._config, folder=self._folder, counter=counter)
            counter.flush()
            rows = [dataclasses.asdict(scan) for scan in scans]
            write_whole(path, json.dumps({"scans": rows, "counts": counter.files}))
        except OSError as error:
            with contextlib.suppress(OSError):
                write_whole(path, json.dumps({"problem": str(error)}))


class WriteGroups(beam.PTransform):
    """Groups, as index and units, -> shards in a folder; a file each (see `write_group`)."""

    def __init__(self, folder: str, vocab_path: str, *, scratch: str, count: int) -> None:
        """Makes the transform; `count` is the number of groups."""
        super().__init__()
        self._write = _WriteGroup(folder, vocab_path, scratch=scratch, count=count)

    def expand(self, groups: beam.PCollection) -> beam.PCollection:
        """Names the steps."""
        return groups | "Spread" >> beam.Reshuffle() | "WriteGroup" >> beam.ParDo(self._write)


class _WriteGroup(beam.DoFn):
    def __init__(self, folder: str, vocab_path: str, *, scratch: str, count: int) -> None:
        self._folder = folder
        self._vocab_path = vocab_path
        self._scratch = scratch
        self._count = count

    def setup(self) -> None:
        self._vocab = Vocabulary.load(self._vocab_path)

    def process(self, group: tuple[int, Sequence[int]]) -> None:
        from components.preprocess.writing import write_group  # TensorFlow comes with it

        index, units = group
        content = write_group(
            index,
            units,
            folder=self._folder,
            scratch=self._scratch,
            count=self._count,
            vocab=self._vocab,
        )
        write_whole(_group_path(self._scratch, index), json.dumps(content))


def load_scans(folder: str, count: int) -> tuple[list[Any], list[str]]:
    """Reads what `ScanUnits` left of `count` units.

    Returns:
      The `PartScan`s, in the order of files and blocks, and the paths of the files of counts.

    Raises:
      InputError: a unit could not write what it found.
    """
    from components.preprocess.scanning import PartScan

    scans, counts = [], []
    for unit in range(count):
        try:
            content = _load_json(_scan_path(folder, unit))
        except FileNotFoundError:  # no room for that, either
            content = {"problem": "a unit of the text left nothing"}
        if "problem" in content:
            raise InputError(
                f"can't write to {folder} ({content['problem']}); free space or choose another folder"
            )
        counts += [os.path.join(folder, name) for name in content["counts"]]
        for row in content["scans"]:
            fault = tuple(row["fault"]) if row["fault"] else None
            scans.append(PartScan(**{**row, "file": InputFile(**row["file"]), "fault": fault}))
    return scans, counts


def load_groups(folder: str, count: int) -> list[dict[str, Any]]:
    """Reads what `WriteGroups` left of `count` groups, the dicts of `write_group`."""
    return [_load_json(_group_path(folder, group)) for group in range(count)]


def _scan_path(folder: str, unit: int) -> str:
    return os.path.join(folder, f"{unit:08d}.scan.json")


def _group_path(folder: str, group: int) -> str:
    return os.path.join(folder, f"{group:08d}.group.json")


def _load_json(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    return content
