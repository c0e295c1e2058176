"""Real runs, one after the other, that begin with the champion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pipeline_runs import WARM, Run, run_tiny, share_first_run

NEW_TEXT = "The lighthousekeepers rowed to the snowfields.\n"
OVERRIDES = (
    *("train.steps=80", "train.valid_steps=20", "gate.min_units=5", "gate.beat=[]"),
    *("gate.tolerance=1", "gate.max_drift=1", "gate.max_slice_loss=100"),
)


class Outcome(NamedTuple):
    """What a run came to."""

    version: Path
    report: dict[str, Any]
    shown: str


def outcome_of(run: Run) -> Outcome:
    assert run.result.verdict == "PASSED", run.result.reasons
    assert run.result.registry_version is not None
    report = json.loads(Path(run.result.report_json).read_text())
    return Outcome(Path(run.result.registry_version), report, run.shown)


@pytest.fixture(scope="module")
def root(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with what the first window came to."""
    root = tmp_path_factory.mktemp("retraining") / "r"
    shutil.copytree(share_first_run(corpus, tmp_path_factory).root / "registry", root / "registry")
    return root


@pytest.fixture(scope="module")
def window(corpus: Path, root: Path) -> list[str]:
    """The second window: new text beside the first."""
    new = root / "new.txt"
    new.write_text(NEW_TEXT * 200)  # so much that some of it is trained on, whatever its hash
    return [f"{corpus}/*.txt", str(new)]


@pytest.fixture(scope="module")
def first(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return outcome_of(share_first_run(corpus, tmp_path_factory))


@pytest.fixture(scope="module")
def second(window: list[str], root: Path) -> Outcome:
    return outcome_of(run_tiny(window, root, *OVERRIDES, settings=WARM))


@pytest.fixture(scope="module")
def again(window: list[str], root: Path, second: Outcome) -> Outcome:
    """The second window a second time."""
    return outcome_of(run_tiny(window, root, *OVERRIDES, settings=WARM))


def check_registry(root: Path) -> None:
    model = root / "registry" / "m"
    assert sorted(path.name for path in model.iterdir() if path.name.isdecimal()) == ["1", "2"]
    pointer = json.loads((model / "champion.json").read_text())
    assert pointer["version"] == 2
    assert [entry["version"] for entry in pointer["history"]] == [1]


@pytest.mark.slow
def test_the_first_run_begins_with_random_weights(first: Outcome) -> None:
    assert first.version.name == "1"
    assert first.report["warm_start"] is None
    assert first.report["champion"] is None
    assert first.report["config"]["train"]["steps"] == 200
    assert "no champion to begin with yet: training begins with random weights" in first.shown


@pytest.mark.slow
def test_the_next_window_begins_with_the_champion(
    first: Outcome, second: Outcome, root: Path
) -> None:
    check_second(first, second, root)
    check_registry(root)
    begun = root / "registry" / "m" / "1"
    assert f"training begins with {begun}, for 20 of 80 steps" in second.shown
    assert second.report["run"] != first.report["run"]
    words = [
        [line.split("\t")[0] for line in (one.version / "vocab.txt").read_text().split("\n")]
        for one in (first, second)
    ]
    assert set(words[0]) < set(words[1])
    assert "lighthousekeepers" in words[1]


def check_second(first: Outcome, outcome: Outcome, root: Path) -> None:
    report, begun = outcome.report, str(root / "registry" / "m" / "1")
    assert outcome.version == root / "registry" / "m" / "2"
    assert report["warm_start"]["path"] == begun
    assert report["warm_start"]["checkpoint"] == first.report["checkpoint"]["digest"]
    assert report["warm_start"]["new_words"] > 0
    assert report["champion"]["path"] == begun
    assert report["champion"]["same_vocabulary"] is False
    assert report["config"]["train"]["steps"] == 20
    assert report["verdict"]["comparison"]["unit"]


@pytest.mark.extra
def test_each_window_is_published_once(
    first: Outcome, second: Outcome, again: Outcome, root: Path
) -> None:
    check_second(first, again, root)
    check_registry(root)
    assert again.report["checkpoint"]["digest"] == second.report["checkpoint"]["digest"]
    assert f"{second.version} is already published" in again.shown
    assert again.report["run"] == second.report["run"]
