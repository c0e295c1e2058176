"""What all tests share: a quiet TensorFlow on the CPU, and where the texts are."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sharing import share
from surroundings import heed_signals, lacking

if TYPE_CHECKING:
    from model.checkpointing.trained import Loaded
    from model.data.records import Dataset

# Before anything imports TensorFlow; processes that a test starts inherit it.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

heed_signals()
gc.disable()  # until all is imported

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = "/usr/bin/chromium"
LONGEST_FIRST = (
    *("pipelines_local_runner", "drills_training", "pipelines_retraining"),
    *("components_train_component", "components_export_main", "components_train_local_launcher"),
    *("components_train_local_launcher_faults", "components_preprocess_sources_remote"),
    *("components_serve_server", "model_training_train", "model_checkpointing_warm_start"),
    *("model_serving_saved_model", "pipelines_cli_main", "pipelines_cli_streams", "model_golden"),
    *("pipelines_local_stop_tasks", "model_precision", "components_train_orphan"),
    *("components_preprocess_fuzz", "components_serve_follower", "components_export_checking"),
)
"""Files of tests that begin first, so that no process is left with a long one at the end.

Those that share one real run do not begin side by side: one would wait for the other.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files of tests; the tests of one file keep their order."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish() -> None:
    """Exempts what was imported from garbage collection, which takes a quarter of the time."""
    gc.freeze()
    gc.enable()


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
    """Records of the tests' corpus, made by the preset tiny; read only."""

    def make(folder: Path) -> None:
        from components.preprocess.main import run
        from model.presets import tiny

        run(inputs=[str(corpus)], records=str(folder / "records"), config=tiny().data)

    return str(share(tmp_path_factory, "tiny-records", make) / "records")


@pytest.fixture(scope="session")
def unsplit_records(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of the tests' corpus that have a training split only; read only."""

    def make(folder: Path) -> None:
        from components.preprocess.main import run
        from model.config import with_overrides
        from model.presets import tiny

        config = with_overrides(tiny(), ["data.valid_fraction=0", "data.test_fraction=0"])
        run(inputs=[str(corpus)], records=str(folder / "records"), config=config.data)

    return str(share(tmp_path_factory, "unsplit-records", make) / "records")


@pytest.fixture(scope="session")
def tiny_training(tiny_records: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Workdir of a finished training on `tiny_records`, better than the unigrams; read only."""

    def make(folder: Path) -> None:
        from components.train.main import run
        from components.train.training_job import TrainingJob
        from model.config import with_overrides
        from model.presets import tiny

        settings = ["train.steps=200", "train.valid_steps=50", "train.checkpoint_steps=50"]
        job = TrainingJob(records=tiny_records, workdir=str(folder / "workdir"))
        run(job, with_overrides(tiny(), settings))

    return str(share(tmp_path_factory, "tiny-training", make) / "workdir")


@pytest.fixture(scope="session")
def tiny_report(
    tiny_records: str, tiny_training: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Folder of the report on `tiny_training`, with a verdict of PASSED; read only."""

    def make(folder: Path) -> None:
        from components.evaluate.main import run
        from model.presets import tiny

        report = str(folder / "report")
        run(records=tiny_records, workdir=tiny_training, report=report, config=tiny())

    return str(share(tmp_path_factory, "tiny-report", make) / "report")


@pytest.fixture(scope="session")
def tiny_version(
    tiny_records: str,
    tiny_training: str,
    tiny_report: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """Version folder of `tiny_training`, exported as `tiny` to a registry; read only."""

    def make(folder: Path) -> None:
        from components.export.main import run

        run(
            records=tiny_records,
            workdir=tiny_training,
            report=tiny_report,
            registry=str(folder / "registry"),
            name="tiny",
        )

    return str(share(tmp_path_factory, "tiny-version", make) / "registry" / "tiny" / "1")


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
