from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from model.metrics import METRICS_FILE, read_metrics
from model.presets import tiny
from model.training.metrics_log import RunLog, StepMetrics


def interval(**values: Any) -> StepMetrics:
    known: dict[str, Any] = {
        "loss": 1.0,
        "words_per_second": 5.0,
        "rate": 0.5,
        "gradient_norm": 0.25,
        "read_words": 40,
        "unknown_words": 10,
        "waiting_seconds": 0.125,
        "step_seconds": 2.0,
    }
    return StepMetrics(**known | values)


def write_run(workdir: Path, *, first: int, last: int, chief: bool = True) -> None:
    """Reports every tenth step, and a validation pass at the last one."""
    run_log = RunLog(str(workdir), step=first, steps=100, chief=chief)
    for step in range(first + 10, last + 1, 10):
        run_log.train(interval(loss=step / 10), step=step)
    run_log.valid(step=last, log_likelihood=-20.0, words=10, seconds=4.0)
    run_log.checkpoint(step=last, seconds=3.0)
    run_log.close()


def test_rows(tmp_path: Path) -> None:
    write_run(tmp_path, first=0, last=20)
    rows = read_metrics(str(tmp_path))
    assert [row["step"] for row in rows] == [10, 20, 20]
    assert set(rows[0]) == {
        "step",
        "steps",
        "loss",
        "words_per_second",
        "learning_rate",
        "gradient_norm",
        "read_words",
        "unknown_words",
        "waiting_seconds",
        "step_seconds",
        "seconds_left",
        "seconds",
    }
    assert (rows[1]["gradient_norm"], rows[1]["read_words"], rows[1]["unknown_words"]) == (
        0.25,
        40,
        10,
    )
    assert (rows[1]["waiting_seconds"], rows[1]["step_seconds"]) == (0.125, 2.0)
    assert (rows[1]["loss"], rows[1]["steps"], rows[1]["learning_rate"]) == (2.0, 100, 0.5)
    assert set(rows[2]) == {
        "step",
        "valid_log_likelihood",
        "valid_words",
        "valid_seconds",
        "seconds",
    }
    assert rows[2]["valid_seconds"] == 4.0
    assert (rows[2]["valid_log_likelihood"], rows[2]["valid_words"]) == (-20.0, 10)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("tail", ['{"step": 3', '{"step": 30, "lo', "\x00"])
def test_a_line_cut_short_ends_them(tmp_path: Path, tail: str) -> None:
    write_run(tmp_path, first=0, last=20)
    whole = read_metrics(str(tmp_path))
    with open(tmp_path / METRICS_FILE, "a", encoding="utf-8") as file:
        file.write(tail)
    assert read_metrics(str(tmp_path)) == whole
    write_run(tmp_path, first=20, last=30)
    assert [row["step"] for row in read_metrics(str(tmp_path))] == [10, 20, 20, 30, 30]


def test_what_was_reported_after_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    write_run(tmp_path, first=0, last=40)
    # Killed at 40, the newest checkpoint is of step 20.
    write_run(tmp_path, first=20, last=50)
    rows = read_metrics(str(tmp_path))
    assert [row["step"] for row in rows if "loss" in row] == [10, 20, 30, 40, 50]
    assert [row["step"] for row in rows if "valid_words" in row] == [50]


def test_seconds_go_on_after_a_restart(tmp_path: Path) -> None:
    row = {"step": 10, "loss": 1.0, "seconds": 1000.0}
    (tmp_path / METRICS_FILE).write_text(json.dumps(row) + "\n", encoding="utf-8")
    write_run(tmp_path, first=10, last=20)
    assert [1000.0 <= row["seconds"] < 1060.0 for row in read_metrics(str(tmp_path))] == [True] * 3


def test_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr("model.training.metrics_log.time.monotonic", lambda: now)
    run_log = RunLog(str(tmp_path), step=20, steps=100, chief=True)
    now = 60.0  # ten seconds for 16 steps
    run_log.train(interval(), step=36)
    run_log.close()
    (row,) = read_metrics(str(tmp_path))
    assert row["seconds_left"] == pytest.approx(10 / 16 * 64)
    assert row["seconds"] == 10.0


def test_log_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="model.training.metrics_log"):
        run_log = RunLog(str(tmp_path), step=0, steps=100, chief=True)
        run_log.train(interval(loss=math.log(80.0), words_per_second=12345.6), step=50)
        run_log.valid(step=50, log_likelihood=-10 * math.log(90.0), words=10, seconds=1.0)
        run_log.close()
    assert caplog.messages == [
        "step 50/100  loss 4.3820  perplexity 80.0  12,346 words/s  0:00 left",
        "step 50/100  validation perplexity 90.00",
    ]


def events(workdir: Path) -> dict[str, list[tuple[int, Any]]]:
    """Returns step and value of each event, by tag."""
    (path,) = (workdir / "tensorboard").iterdir()
    seen: dict[str, list[tuple[int, Any]]] = {}
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            found = tf.make_ndarray(value.tensor).tolist()
            seen.setdefault(value.tag, []).append((event.step, found))
    return seen


def test_tensorboard_events(tmp_path: Path) -> None:
    write_run(tmp_path, first=0, last=20)
    seen = events(tmp_path)
    expected: dict[str, Any] = {
        "train/loss": [(10, 1.0), (20, 2.0)],
        "train/perplexity": [(10, math.e), (20, math.e**2)],
        "train/words_per_second": [(10, 5.0), (20, 5.0)],
        "train/learning_rate": [(10, 0.5), (20, 0.5)],
        "train/gradient_norm": [(10, 0.25), (20, 0.25)],
        "train/unknown_share": [(10, 0.25), (20, 0.25)],
        "seconds/waiting": [(10, 0.125), (20, 0.125)],
        "seconds/step": [(10, 2.0), (20, 2.0)],
        "seconds/validation": [(20, 4.0)],
        "seconds/checkpoint": [(20, 3.0)],
        "valid/loss": [(20, 2.0)],
        "valid/perplexity": [(20, math.e**2)],
    }
    assert set(seen) == set(expected)
    for tag, points in expected.items():
        assert [step for step, _ in seen[tag]] == [step for step, _ in points]
        assert [n for _, n in seen[tag]] == pytest.approx([n for _, n in points], rel=1e-6)


def test_update_norm_if_it_is_known(tmp_path: Path) -> None:
    run_log = RunLog(str(tmp_path), step=0, steps=100, chief=True)
    run_log.train(interval(update_norm=0.75), step=10)
    run_log.close()
    assert events(tmp_path)["train/update_norm"] == [(10, 0.75)]
    assert read_metrics(str(tmp_path))[0]["update_norm"] == 0.75


def test_an_interval_without_words_read(tmp_path: Path) -> None:
    run_log = RunLog(str(tmp_path), step=0, steps=100, chief=True)
    run_log.train(interval(read_words=0, unknown_words=0), step=10)
    run_log.close()
    assert events(tmp_path)["train/unknown_share"] == [(10, 0.0)]


def test_samples_and_the_row_of_hparams(tmp_path: Path) -> None:
    run_log = RunLog(str(tmp_path), step=0, steps=100, chief=True)
    run_log.start(tiny(), workdir="w")
    run_log.samples("| a |", step=30)
    run_log.finish(step=60, valid_perplexity=7.5)
    run_log.close()
    seen = events(tmp_path)
    assert seen["valid/next_words"] == [(30, b"| a |")]
    assert seen["final/valid_perplexity"] == [(60, 7.5)]
    assert set(seen) > {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    assert read_metrics(str(tmp_path)) == []


def test_only_the_chief_writes(tmp_path: Path) -> None:
    write_run(tmp_path, first=0, last=20, chief=False)
    run_log = RunLog(str(tmp_path), step=0, steps=100, chief=False)
    run_log.start(tiny(), workdir="w")
    run_log.samples("", step=1)
    run_log.finish(step=1, valid_perplexity=None)
    assert list(tmp_path.iterdir()) == []
