"""Which versions are loaded: those that are as they were published, and answer as they did then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from components.export.manifest import write_manifest
from components.export.registry import version_digest
from components.serve.loaded import LoadedVersion
from model.errors import InputError

Meanwhile = Callable[[], object]


class Function:
    """A signature that answers -1 nats to each text."""

    structured_input_signature = ((), {"texts": tf.TensorSpec([None], tf.string)})

    def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"log_likelihood": tf.fill(tf.shape(texts), -1.0)}


class Model:
    """A SavedModel that is loaded."""

    def __init__(self) -> None:
        self.signatures = {"score": Function()}


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> list[Meanwhile]:
    """Puts a small model in place of any SavedModel; calls what is listed while one is loaded."""
    calls: list[Meanwhile] = []

    def load(_: str) -> Model:
        for call in calls:
            call()
        return Model()

    monkeypatch.setattr(tf.saved_model, "load", load)
    return calls


@pytest.fixture
def version(meanwhile: list[Meanwhile], tmp_path: Path) -> Path:
    return make_version(tmp_path / "1")


def make_version(folder: Path, *, recorded: float = -1.0) -> Path:
    folder.mkdir()
    (folder / "saved_model.pb").write_text("graph")
    request = {"signature": "score", "inputs": {"texts": ["a", "b"]}}
    request["outputs"] = {"log_likelihood": [-1.0, recorded]}
    (folder / "requests.json").write_text(json.dumps({"requests": [request]}))
    write_manifest(str(folder), {"checkpoint": "c"})
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        LoadedVersion(str(path))
    return str(caught.value)


def test_a_whole_version(version: Path) -> None:
    found = LoadedVersion(str(version))
    assert (found.number, found.digest) == (1, version_digest(str(version)))
    answer = found.ask("score", {"texts": ["a"]})
    assert {name: value.tolist() for name, value in answer.items()} == {"log_likelihood": [-1.0]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda path: (path / "saved_model.pb").write_text("other"), "saved_model.pb was changed"),
        (lambda path: (path / "saved_model.pb").write_text("x"), "saved_model.pb has 1 bytes, not 5"),
        (lambda path: (path / "extra").write_text(""), "extra does not belong to this version"),
        (
            lambda path: [(path / name).write_text("") for name in ("a", "b")],
            "a does not belong to this version and 1 more",
        ),
    ],
)  # fmt: skip
def test_files_are_those_of_the_manifest(
    version: Path, change: Callable[[Path], object], problem: str
) -> None:
    change(version)
    linked = version.parent / "2"
    linked.symlink_to(version)
    for path in (version, linked):
        assert refusal(path) == f"{path} is damaged: {problem}; publish it again"


def test_answers_are_those_that_were_recorded(meanwhile: list[Meanwhile], tmp_path: Path) -> None:
    assert LoadedVersion(str(make_version(tmp_path / "1", recorded=-1.00009))).number == 1
    path = make_version(tmp_path / "2", recorded=-1.0003)
    assert refusal(path) == (
        f"{path} answers request 0 of requests.json (score) differently than when it was published "
        "(log_likelihood differs from the recorded value); publish it again"
    )


def test_a_version_that_is_replaced_while_it_is_loaded(
    version: Path, meanwhile: list[Meanwhile]
) -> None:
    meanwhile.append(lambda: write_manifest(str(version), {"checkpoint": "another"}))
    assert refusal(version) == f"{version} was changed while it was being loaded; try again"
    meanwhile[:] = [lambda: (version / "MANIFEST.json").unlink()]
    assert refusal(version) == f"{version} was changed while it was being loaded; try again"


def test_what_tensorflow_says_of_a_damaged_model(version: Path, meanwhile: list[Meanwhile]) -> None:
    def fail() -> Any:
        raise OSError("SavedModel file does not exist at:\n  nowhere")

    meanwhile.append(fail)
    assert refusal(version) == (
        f"{version} can't be loaded (SavedModel file does not exist at: nowhere); publish it again"
    )
