from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

import components.preprocess.passes.scan  # noqa: F401  # so that no import is measured
from components.preprocess.engine import transforms
from components.preprocess.passes.corpus_scan import LISTED_FILES, CorpusScan, accept
from components.preprocess.passes.file_scans import FileScan
from components.preprocess.passes.work_units import Part, Unit
from components.preprocess.sources.types import InputFile
from model.config import DataConfig
from model.errors import CharloomError, InputError, RestartableError

SKIP = DataConfig(on_bad_text="skip")


def scan_of(name: str, reason: str = "", *, from_listing: bool = False) -> FileScan:
    file = InputFile(f"in/{name}", name, 5, from_listing=from_listing)
    found = {} if reason else {"train": 2}
    return FileScan(
        file=file,
        sha256="0" * 64,
        records=found,
        documents={},
        characters=5,
        stray=0,
        reason=reason,
    )


def test_the_memory_of_the_first_pass_does_not_grow_with_the_number_of_files(
    tmp_path: Path,
) -> None:
    def peak(units: int) -> int:
        for index in range(units):
            files = [
                InputFile(f"in/{n:08d}", f"{n:08d}", 0)
                for n in range(1000 * index, 1000 * index + 1000)
            ]
            Unit(index, tuple(map(Part, files))).save(str(tmp_path))
        step = transforms._ScanUnit(SKIP, str(tmp_path))
        tracemalloc.start()
        try:
            for index in range(units):
                assert list(step.process(index)) == [(0, index)]
            scan, counts = transforms.load_scan(str(tmp_path), units, SKIP)
            assert (scan.files, scan.rejected, counts) == (
                1000 * units,
                {"empty": 1000 * units},
                [],
            )
            assert len(scan.first_rejected) == LISTED_FILES
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(8) < peak(1) + 1_000_000  # errors wait for the garbage collector


@pytest.mark.parametrize(
    ("scans", "expected", "message"),
    [
        ([scan_of("a"), scan_of("b", "blank")], None, ""),
        ([scan_of("a", "empty")], InputError, "no file is left: in/a is empty; leave it out"),
        (
            [scan_of("a", "empty"), scan_of("b", "blank"), scan_of("c", "empty")],
            InputError,
            "no file is left: in/a is empty; leave it out (2 more files are bad)",
        ),
        (
            [scan_of("a", "empty"), scan_of("b", "changed"), scan_of("c", "unreadable")],
            RestartableError,
            "in/b has changed since it was listed (); run the command again",
        ),
        (
            [scan_of("a"), scan_of("b", "changed", from_listing=True)],
            InputError,
            "in/b has changed since it was listed (); start a new run, which lists the text anew",
        ),
    ],
)
def test_which_corpus_is_refused(
    scans: list[FileScan], expected: type[CharloomError] | None, message: str
) -> None:
    scan = CorpusScan(iter(scans))
    if expected is None:
        accept(scan, SKIP)
        return
    with pytest.raises(expected) as caught:
        accept(scan, SKIP)
    assert str(caught.value) == message
