"""Real runs, one after the other, that begin with the champion."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from components.run_settings import RunSettings
from model.config import with_overrides
from model.presets import tiny
from pipelines.local.runner import run_pipeline

WARM = RunSettings(warm_start="champion", extend_vocab=True, steps_share=0.25)
NEW_TEXT = "The lighthousekeepers rowed to the snowfields.\n"


class Outcome(NamedTuple):
    """What a run came to."""

    version: str | None
    report: dict[str, Any]
    shown: str


@pytest.fixture(scope="module")
def outcomes(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """The first window, then a second one twice."""
    root = tmp_path_factory.mktemp("retraining")
    new = root / "new.txt"
    new.write_text(NEW_TEXT * 200)  # so much that some of it is trained on, whatever its hash
    settings = ["train.steps=80", "train.valid_steps=20", "gate.min_units=5", "gate.beat=[]"]
    settings += ["gate.tolerance=1", "gate.max_drift=1", "gate.max_slice_loss=100"]
    config = with_overrides(tiny(), settings)

    def run(*inputs: str) -> Outcome:
        terminal, own = io.StringIO(), sys.stdout
        sys.stdout = terminal
        try:
            result = run_pipeline(
                inputs=inputs,
                root=str(root / "r"),
                config=config,
                workers=1,
                model_name="lm",
                settings=WARM,
            )
        finally:
            sys.stdout = own
        report = json.loads(Path(result.report_json).read_text())
        assert result.verdict == "PASSED", result.reasons
        return Outcome(result.registry_version, report, terminal.getvalue())

    window = [f"{corpus}/*.txt"]
    return [run(*window), run(*window, str(new)), run(*window, str(new))]


@pytest.mark.slow
def test_each_window_is_published_once(outcomes: list[Outcome]) -> None:
    names = [Path(outcome.version or "").name for outcome in outcomes]
    assert names == ["1", "2", "2"]
    model = Path(outcomes[0].version or "").parent
    assert sorted(path.name for path in model.iterdir() if path.name.isdecimal()) == ["1", "2"]
    pointer = json.loads((model / "champion.json").read_text())
    assert pointer["version"] == 2
    assert [entry["version"] for entry in pointer["history"]] == [1]


@pytest.mark.slow
def test_the_first_run_begins_with_random_weights(outcomes: list[Outcome]) -> None:
    first = outcomes[0]
    assert first.report["warm_start"] is None
    assert first.report["champion"] is None
    assert first.report["config"]["train"]["steps"] == 80
    assert "no champion to begin with yet: training begins with random weights" in first.shown


@pytest.mark.slow
def test_the_next_window_begins_with_the_champion(outcomes: list[Outcome]) -> None:
    first, second, again = outcomes
    for outcome in (second, again):
        report = outcome.report
        assert report["warm_start"]["path"] == first.version
        assert report["warm_start"]["checkpoint"] == first.report["checkpoint"]["digest"]
        assert report["warm_start"]["new_words"] > 0
        assert report["champion"]["path"] == first.version
        assert report["champion"]["same_vocabulary"] is False
        assert report["config"]["train"]["steps"] == 20
        assert report["verdict"]["comparison"]["unit"]
    assert again.report["checkpoint"]["digest"] == second.report["checkpoint"]["digest"]
    assert f"{second.version} is published already" in again.shown
    assert again.report["run"] == second.report["run"] != first.report["run"]
    assert f"training begins with {first.version}, for 20 of 80 steps" in second.shown
    words = [
        [
            line.split("\t")[0]
            for line in Path(one.version or "", "vocab.txt").read_text().split("\n")
        ]
        for one in (first, second)
    ]
    assert set(words[0]) < set(words[1])
    assert "lighthousekeepers" in words[1]
