"""What a training left, seen through a real TensorBoard."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from components.train.main import run
from model.config import with_overrides
from model.presets import tiny
from model.progress import read_metrics


@pytest.mark.slow
def test_tensorboard_shows_the_curves(tiny_records: str, tmp_path: Path) -> None:
    workdir = tmp_path / "workdir"
    config = with_overrides(tiny(), ["train.steps=20", "train.valid_steps=10"])
    run(records=tiny_records, workdir=str(workdir), config=config)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(workdir / "tensorboard")]
    with open(log, "w") as output:
        server = subprocess.Popen(
            [*command, "--port", "0", "--load_fast", "false"], stdout=output, stderr=output
        )
    try:
        tags = wait_for_tags(log)
        assert set(tags["."]) == {
            "train/loss",
            "train/perplexity",
            "train/words_per_second",
            "train/learning_rate",
            "valid/loss",
            "valid/perplexity",
        }
        shown = get(address(log) + "scalars?run=.&tag=train/loss")
    finally:
        server.terminate()
        server.wait(30)
    rows = [row for row in read_metrics(str(workdir)) if "loss" in row]
    assert [step for _, step, _ in shown] == [row["step"] for row in rows] == [10, 20]
    assert [value for _, _, value in shown] == pytest.approx([row["loss"] for row in rows])


def address(log: Path) -> str:
    port = log.read_text().rpartition("http://localhost:")[2].split("/")[0]
    return f"http://127.0.0.1:{port}/data/plugin/scalars/"


def get(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def wait_for_tags(log: Path) -> Any:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if "http://localhost:" in log.read_text() and (tags := get(address(log) + "tags")):
                return tags
        except urllib.error.URLError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"TensorBoard showed nothing: {log.read_text()}")
