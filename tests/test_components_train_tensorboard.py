"""What trainings left, seen through a real TensorBoard."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.train.main import run
from components.train.training_job import TrainingJob
from model.config import with_overrides
from model.data.records import Dataset
from model.metrics import read_metrics
from model.presets import tiny
from model.training.profiler import ProfileSteps
from model.training.tensorboard import FINAL_TAG, flat_config

pytestmark = pytest.mark.slow
RUN = "one/tensorboard"
STEPS, NEW, OLD = 20, "one", "two"


@pytest.fixture(scope="module")
def folder(tiny_records: str, tiny_training: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two workdirs: `one` of 20 steps, and `two`, which is `tiny_training`."""
    folder = tmp_path_factory.mktemp("workdirs")
    shutil.copytree(tiny_training, folder / OLD)
    config = with_overrides(tiny(), [f"train.steps={STEPS}", "train.valid_steps=10"])
    run(
        TrainingJob(records=tiny_records, workdir=str(folder / NEW), profile=ProfileSteps(5, 7)),
        config,
    )
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The address of `charloom tensorboard` on the folder."""
    command = [sys.executable, "-m", "pipelines.cli.main", "tensorboard"]
    process = subprocess.Popen(
        [*command, "--workdir", str(folder), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = line.partition("http://localhost:")[2].split("/")[0]
        address = f"http://127.0.0.1:{port}/data/plugin/"
        wait_until_read(address)
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=300)


def get(url: str, **query: Any) -> bytes:
    text = f"{url}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(text) as answer:
        return bytes(answer.read())


def get_json(url: str, **query: Any) -> Any:
    return json.loads(get(url, **query))


def wait_until_read(address: str) -> None:
    """Waits until TensorBoard, which reads the events in the background, has read all runs."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        tags = get_json(address + "scalars/tags")
        if len(tags) == 2 and all(FINAL_TAG in found for found in tags.values()):
            return
        time.sleep(0.3)
    raise AssertionError("TensorBoard did not read the runs")


def test_scalars(server: str, folder: Path) -> None:
    tags = get_json(server + "scalars/tags")
    assert set(tags) == {RUN, "two/tensorboard"}
    assert set(tags[RUN]) >= {
        *[f"train/{name}" for name in ("loss", "perplexity", "words_per_second", "learning_rate")],
        *["train/gradient_norm", "train/update_norm", "train/unknown_share"],
        *["valid/loss", "valid/perplexity"],
        *[f"seconds/{name}" for name in ("waiting", "step", "validation", "checkpoint")],
        FINAL_TAG,
    }
    rows = [row for row in read_metrics(str(folder / NEW)) if "loss" in row]
    assert [row["step"] for row in rows] == [10, 20]
    for tag, values in {
        "train/loss": [row["loss"] for row in rows],
        "train/gradient_norm": [row["gradient_norm"] for row in rows],
        "train/unknown_share": [row["unknown_words"] / row["read_words"] for row in rows],
    }.items():
        shown = get_json(server + "scalars/scalars", run=RUN, tag=tag)
        assert [step for _, step, _ in shown] == [10, 20]
        assert [value for _, _, value in shown] == pytest.approx(values)
    assert rows[0]["read_words"] == 10 * 4 * 8


def test_text_samples(server: str) -> None:
    assert get_json(server + "text/tags")[RUN] == ["valid/next_words"]
    shown = get_json(server + "text/text", run=RUN, tag="valid/next_words")
    assert [one["step"] for one in shown] == [10, 20]
    for one in shown:
        assert one["text"].count("<tr>") == 4  # a header and three samples
        assert "<th>expected</th>" in one["text"]


def test_hparams_compare_the_workdirs(server: str, folder: Path) -> None:
    experiment = get_json(server + "hparams/experiment", request="{}")
    infos = {info["name"]: info for info in experiment["hparamInfos"]}
    assert set(infos) == set(flat_config(tiny()))
    differing = {name for name, info in infos.items() if info.get("differs")}
    assert differing == {"train.steps", "train.valid_steps", "train.checkpoint_steps"}
    request = {
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [
            {"hparam": "train.steps", "includeInResult": True},
            {"metric": {"tag": FINAL_TAG}, "includeInResult": True},
        ],
        "startIndex": 0,
        "sliceSize": 10,
    }
    found = get_json(server + "hparams/session_groups", request=json.dumps(request))
    rows = {}
    for group in found["sessionGroups"]:
        (session,) = group["sessions"]
        values = {one["name"]["tag"]: one["value"] for one in session["metricValues"]}
        rows[group["hparams"]["train.steps"]] = values[FINAL_TAG]
    assert set(rows) == {20, 200}
    last = [row for row in read_metrics(str(folder / NEW)) if "valid_words" in row][-1]
    expected = np.exp(-last["valid_log_likelihood"] / last["valid_words"])
    assert rows[20] == pytest.approx(expected, rel=1e-5)


def test_projector(server: str, tiny_records: str) -> None:
    assert set(get_json(server + "projector/runs")) == {RUN, "two/tensorboard"}
    with Dataset.open(tiny_records) as dataset:
        vocab = dataset.vocab
    info = get_json(server + "projector/info", run=RUN)
    sizes = {one["tensorName"]: one["tensorShape"] for one in info["embeddings"]}
    words = len(vocab) - 3
    assert sizes == {"word_embedding": [words, 16], "char_cnn": [words, 24]}
    for name, shape in sizes.items():
        data = get(server + "projector/tensor", run=RUN, name=name)
        tensor = np.frombuffer(data, np.float32).reshape(shape)
        assert np.isfinite(tensor).all()
        assert tensor.std() > 0
        text = get(server + "projector/metadata", run=RUN, name=name).decode()
        lines = text.removesuffix("\n").split("\n")
        assert lines[0] == "word\tcount"
        assert [line.split("\t")[1] for line in lines[1:]] == [str(n) for n in vocab.counts[3:]]


def test_a_profile_is_there(folder: Path) -> None:
    (path,) = folder.glob("one/tensorboard/plugins/profile/*/*.xplane.pb")
    assert path.stat().st_size > 1000
