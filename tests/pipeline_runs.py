"""Real runs of the whole graph on this machine, and what the terminal showed of them."""

from __future__ import annotations

import io
import pickle
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from sharing import share

from components.run_settings import DEFAULTS, RunSettings
from model.config import with_overrides
from model.presets import tiny
from pipelines.local.runner import RunResult, run_pipeline

WARM = RunSettings(warm_start="champion", extend_vocab=True, steps_share=0.25)


class Run(NamedTuple):
    """A run's result, its root and what it showed."""

    result: RunResult
    root: Path
    shown: str


def run_tiny(
    inputs: Sequence[str],
    root: Path,
    *overrides: str,
    workers: int = 1,
    settings: RunSettings = DEFAULTS,
) -> Run:
    """Runs the whole graph; its output is kept apart from that of the tests."""
    terminal, own = io.StringIO(), sys.stdout
    sys.stdout = terminal
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            result = run_pipeline(
                inputs=inputs,
                root=str(root),
                config=with_overrides(tiny(), overrides),
                workers=workers,
                model_name="m",
                settings=settings,
            )
    finally:
        sys.stdout = own
    return Run(result, root, terminal.getvalue())


def share_first_run(corpus: Path, factory: pytest.TempPathFactory) -> Run:
    """Returns the run that publishes version 1, with two workers and no champion; read only.

    It could begin with a champion. One of all processes makes it.
    """

    def make(folder: Path) -> None:
        # "python3" and a space in the path: see pipelines.local.runner._starter.
        root = folder / "python3 runs"
        steps = ("train.steps=200", "train.valid_steps=100")
        run = run_tiny([f"{corpus}/*.txt"], root, *steps, workers=2, settings=WARM)
        (folder / "run.pickle").write_bytes(pickle.dumps(run))

    folder = share(factory, "first-run", make)
    run: Run = pickle.loads((folder / "run.pickle").read_bytes())
    return run
