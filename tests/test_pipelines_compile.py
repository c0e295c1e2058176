"""The YAML: it loads, it holds both branches of the gate, and it is the graph that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec import pipeline_spec_pb2

import pipelines
from components.task import DEFAULT_IMAGE, IMAGE_VARIABLE
from model.config import from_json
from model.errors import InputError
from model.presets import demo
from pipelines.compile import compile_pipeline
from pipelines.training import train_language_model

GATE = "inputs.parameter_values['pipelinechannel--evaluate-verdict'] == 'PASSED'"


def compile_spec(path: Path, image: str | None = None) -> dict[str, Any]:
    compile_pipeline(str(path), image=image)
    spec: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return spec


def list_images(spec: dict[str, Any]) -> set[str]:
    executors = spec["deploymentSpec"]["executors"]
    return {executor["container"]["image"] for executor in executors.values()}


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    return compile_spec(tmp_path / "p.yaml")


def test_the_yaml_loads_as_a_component(tmp_path: Path) -> None:
    compile_pipeline(str(tmp_path / "p.yaml"))
    loaded = components.load_component_from_file(str(tmp_path / "p.yaml"))
    assert loaded.name == "train-language-model"
    assert set(loaded.component_spec.inputs) == {
        "inputs",
        "config",
        "workers",
        "registry",
        "model_name",
        "vocab",
    }
    assert os.listdir(tmp_path) == ["p.yaml"]


def test_the_yaml_is_the_graph_that_charloom_run_executes(spec: dict[str, Any]) -> None:
    parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert parsed == train_language_model.pipeline_spec


def test_stages_follow_each_other(spec: dict[str, Any]) -> None:
    tasks = spec["root"]["dag"]["tasks"]
    assert {name: sorted(task.get("dependentTasks", [])) for name, task in tasks.items()} == {
        "preprocess": [],
        "train": ["preprocess"],
        "evaluate": ["preprocess", "train"],
        "condition-branches-1": ["evaluate", "preprocess", "train"],
    }
    assert [tasks[name]["taskInfo"]["name"] for name in ("preprocess", "train", "evaluate")] == [
        "Preprocess",
        "Train",
        "Evaluate",
    ]


def test_the_gate_has_both_branches(spec: dict[str, Any]) -> None:
    branches = spec["components"]["comp-condition-branches-1"]["dag"]["tasks"]
    found = {}
    for branch in branches.values():
        inside = spec["components"][branch["componentRef"]["name"]]["dag"]["tasks"]
        found[branch["triggerPolicy"]["condition"]] = list(inside)
    assert found == {GATE: ["export"], f"!({GATE})": ["report-rejection"]}


def test_stages_with_effects_that_kfp_does_not_see_are_not_cached(spec: dict[str, Any]) -> None:
    def is_cached(task: dict[str, Any]) -> bool:
        return bool(task["cachingOptions"].get("enableCache", False))

    tasks = spec["root"]["dag"]["tasks"]
    assert not is_cached(tasks["preprocess"])  # reads text that it knows by name only
    assert is_cached(tasks["train"])
    assert is_cached(tasks["evaluate"])
    assert not is_cached(spec["components"]["comp-condition-2"]["dag"]["tasks"]["export"])


def test_every_parameter_says_what_it_is(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert all(len(parameter["description"]) > 20 for parameter in parameters.values())
    assert from_json(parameters["config"]["defaultValue"]) == demo()


def test_tasks_install_nothing(spec: dict[str, Any]) -> None:
    for executor in spec["deploymentSpec"]["executors"].values():
        assert "pip" not in executor["container"]["command"][2]
        assert executor["container"]["command"][:2] == ["sh", "-ec"]


def test_the_image_is_the_argument_else_the_environment_else_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "example.org/charloom:7")
    path = tmp_path / "p.yaml"
    assert list_images(compile_spec(path, "example.org/charloom:8")) == {"example.org/charloom:8"}
    assert list_images(compile_spec(path)) == {"example.org/charloom:7"}
    monkeypatch.delenv(IMAGE_VARIABLE)
    assert list_images(compile_spec(path)) == {DEFAULT_IMAGE}  # the graph itself is unchanged


def test_the_suffix_must_be_yaml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in \.yaml or \.yml"):
        compile_pipeline(str(tmp_path / "p.json"))
    assert os.listdir(tmp_path) == []


def test_the_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        compile_pipeline(str(tmp_path / "nowhere" / "p.yml"))


def test_an_output_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").mkdir()
    with pytest.raises(InputError, match=r"can't write .*p\.yaml"):
        compile_pipeline(str(tmp_path / "p.yaml"))
    assert os.listdir(tmp_path) == ["p.yaml"]


@pytest.mark.parametrize(
    "module",
    [
        "pipelines.compile",
        "pipelines.local",
        "components.preprocess.component",
        "components.train.component",
        "components.evaluate.component",
        "components.export.component",
    ],
)
def test_importing_is_quick(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "print([name for name in ('tensorflow', 'keras', 'apache_beam') if name in sys.modules])"
    )
    root = os.path.dirname(os.path.dirname(pipelines.__file__))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
