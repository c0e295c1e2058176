"""What all tests share: a quiet TensorFlow on the CPU, and where the texts are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from surroundings import heed_signals, lacking

if TYPE_CHECKING:
    from model.checkpointing.trained import Loaded
    from model.data.records import Dataset

# Before anything imports TensorFlow; processes that a test starts inherit it.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

heed_signals()

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of the tests' own small corpus."""
    return ROOT / "tests" / "data" / "corpus"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of bigger texts beside the repository; without it the test is skipped."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program of a browser."""
    if not os.path.exists(CHROMIUM):
        lacking(f"{CHROMIUM} is not installed")
    return CHROMIUM


@pytest.fixture(scope="session")
def tiny_records(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of the tests' corpus, made by the preset tiny."""
    from components.preprocess.main import run
    from model.presets import tiny

    records = str(tmp_path_factory.mktemp("tiny") / "records")
    run(inputs=[str(corpus)], records=records, config=tiny().data)
    return records


@pytest.fixture(scope="session")
def unsplit_records(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of the tests' corpus that have a training split only."""
    from components.preprocess.main import run
    from model.config import with_overrides
    from model.presets import tiny

    records = str(tmp_path_factory.mktemp("unsplit") / "records")
    config = with_overrides(tiny(), ["data.valid_fraction=0", "data.test_fraction=0"])
    run(inputs=[str(corpus)], records=records, config=config.data)
    return records


@pytest.fixture(scope="session")
def tiny_training(tiny_records: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Workdir of a finished training on `tiny_records`, better than the unigrams; read only."""
    from components.train.main import run
    from components.train.training_job import TrainingJob
    from model.config import with_overrides
    from model.presets import tiny

    workdir = str(tmp_path_factory.mktemp("tiny") / "workdir")
    settings = ["train.steps=200", "train.valid_steps=50", "train.checkpoint_steps=50"]
    run(TrainingJob(records=tiny_records, workdir=workdir), with_overrides(tiny(), settings))
    return workdir


@pytest.fixture(scope="session")
def tiny_report(
    tiny_records: str, tiny_training: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Folder of the report on `tiny_training`, with a verdict of PASSED; read only."""
    from components.evaluate.main import run
    from model.presets import tiny

    report = str(tmp_path_factory.mktemp("tiny") / "report")
    run(records=tiny_records, workdir=tiny_training, report=report, config=tiny())
    return report


@pytest.fixture(scope="session")
def tiny_version(
    tiny_records: str,
    tiny_training: str,
    tiny_report: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """Version folder of `tiny_training`, exported as `tiny` to a registry; read only."""
    from components.export.main import run

    registry = str(tmp_path_factory.mktemp("tiny") / "registry")
    return run(
        records=tiny_records,
        workdir=tiny_training,
        report=tiny_report,
        registry=registry,
        name="tiny",
    )


@pytest.fixture(scope="module")
def dataset(tiny_records: str) -> Iterator[Dataset]:
    """`tiny_records`, opened."""
    from model.data.records import Dataset

    with Dataset.open(tiny_records) as dataset:
        yield dataset


@pytest.fixture(scope="module")
def loaded(tiny_training: str, dataset: Dataset) -> Loaded:
    """The model of `tiny_training`, for one module of tests."""
    from model.checkpointing.trained import load_model

    return load_model(tiny_training, dataset)
