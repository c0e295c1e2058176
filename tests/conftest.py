"""What all tests share: a quiet TensorFlow on the CPU, and where the texts are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports TensorFlow; processes that a test starts inherit it.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

ROOT = Path(__file__).resolve().parent.parent


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
def tiny_records(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of the tests' corpus, made by the preset tiny."""
    from components.preprocess.main import run
    from model.presets import tiny

    records = str(tmp_path_factory.mktemp("tiny") / "records")
    run(inputs=[str(corpus)], records=records, config=tiny().data)
    return records
