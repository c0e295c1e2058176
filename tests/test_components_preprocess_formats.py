"""Records of format 2, made before names changed, are readable; unchanged inputs give their bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.preprocess.main import run
from model.data.records import FORMAT_VERSION, READABLE_VERSIONS, SPLITS, Dataset
from model.errors import InputError
from model.presets import tiny

DATA = Path(__file__).parent / "data"
OLD = DATA / "records_format_2"
"""Made of the text in data/corpus by the preset tiny."""


def test_records_of_format_2_can_be_read() -> None:
    assert (FORMAT_VERSION, READABLE_VERSIONS) == (3, (2, 3))
    with Dataset.open(str(OLD)) as dataset:
        assert dataset.info["format_version"] == 2
        assert [len(dataset.lengths(split)) for split in SPLITS] == [80, 16, 13]
        assert dataset.read("train", 0).source == "01_baker.txt:0"


def test_files_that_keep_their_names_give_the_same_bytes(tmp_path: Path) -> None:
    new = tmp_path / "records"
    run(inputs=[f"{DATA}/corpus/*.txt"], records=str(new), config=tiny().data, beam_workers=1)
    for path in OLD.iterdir():
        if path.name != "dataset.json":
            assert (new / path.name).read_bytes() == path.read_bytes(), path.name
    before, after = (json.loads((each / "dataset.json").read_text()) for each in (OLD, new))
    assert (after["format_version"], after["digest"]) == (3, before["digest"])
    with pytest.raises(InputError, match=r"already holds something, records of format 2; choose"):
        run(inputs=[f"{DATA}/corpus/*.txt"], records=str(OLD), config=tiny().data, beam_workers=1)
