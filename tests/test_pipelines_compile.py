"""The YAML: it loads, it is the committed one, and it is the graph that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compiled_pipeline import COMMITTED, list_shared, read_specs
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec import pipeline_spec_pb2

import pipelines
from components.component_runtime import DEFAULT_IMAGE, IMAGE_VARIABLE
from model.errors import InputError
from pipelines.compile import compile_pipeline
from pipelines.graph import train_language_model

ROOT = Path(__file__).resolve().parent.parent
SHARING = ("find-inputs", "preprocess", "train", "evaluate", "export")
WORKSPACE = "{{$.workspace_path}}/charloom"


def compile_both(path: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the specs of the pipeline and of the platform."""
    compile_pipeline(str(path), **settings)
    return read_specs(path)


def list_images(path: Path, image: str | None = None) -> set[str]:
    """Returns the images of all tasks, and those that their environment names."""
    spec, _ = compile_both(path, image=image)
    containers = [one["container"] for one in spec["deploymentSpec"]["executors"].values()]
    named = [variable for one in containers for variable in one.get("env", [])]
    assert [variable["name"] for variable in named] == [IMAGE_VARIABLE]
    return {one["image"] for one in containers} | {variable["value"] for variable in named}


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    return compile_both(tmp_path / "p.yaml")[0]


def test_the_committed_yaml_is_what_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    compile_pipeline(str(tmp_path / "p.yaml"))
    advice = "run: charloom compile -o pipelines/train_language_model.yaml"
    assert (tmp_path / "p.yaml").read_bytes() == COMMITTED.read_bytes(), advice


def test_every_process_compiles_the_same(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pipelines.compile import compile_pipeline\ncompile_pipeline(sys.argv[1])"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"}
        environment.pop(IMAGE_VARIABLE, None)
        command = [sys.executable, "-c", code, str(tmp_path / f"{seed}.yaml")]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "1.yaml").read_bytes() == (tmp_path / "2.yaml").read_bytes()


def test_the_yaml_loads_as_a_component() -> None:
    loaded = components.load_component_from_file(str(COMMITTED))
    assert loaded.name == "train-language-model"
    assert loaded.pipeline_spec.pipeline_info.display_name == "Train a language model"
    assert set(loaded.component_spec.inputs) == set(train_language_model.component_spec.inputs)
    assert all(given.optional for given in loaded.component_spec.inputs.values())
    platform = json_format.MessageToDict(loaded.platform_spec)["platforms"]["kubernetes"]
    assert len(platform["deploymentSpec"]["executors"]) == 6


def test_the_compiler_leaves_nothing_else(tmp_path: Path) -> None:
    compile_pipeline(str(tmp_path / "p.yaml"))
    assert os.listdir(tmp_path) == ["p.yaml"]


def test_the_yaml_is_the_graph_that_charloom_run_executes(spec: dict[str, Any]) -> None:
    parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert parsed == train_language_model.pipeline_spec


def test_tasks_install_nothing(spec: dict[str, Any]) -> None:
    for executor in spec["deploymentSpec"]["executors"].values():
        assert "pip" not in executor["container"]["command"][2]
        assert executor["container"]["command"][:2] == ["sh", "-ec"]


def test_a_workspace_holds_the_data_of_a_run(tmp_path: Path) -> None:
    spec, platform = compile_both(tmp_path / "p.yaml", workspace="50Gi", storage_class="nfs")
    assert platform["pipelineConfig"]["workspace"] == {
        "size": "50Gi",
        "kubernetes": {
            "pvcSpecPatch": {"accessModes": ["ReadWriteMany"], "storageClassName": "nfs"}
        },
    }
    # KFP mounts it in each task that names it; text, registry and champion are on the claim.
    assert list_shared(spec) == dict.fromkeys(SHARING, WORKSPACE)
    executors = platform["deploymentSpec"]["executors"]
    claimed = {name for name, pod in executors.items() if "pvcMount" in pod}
    assert claimed == {f"exec-{name}" for name in SHARING}
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    plain = compile_both(tmp_path / "q.yaml")[0]
    assert parameters == plain["root"]["inputDefinitions"]["parameters"]
    default = compile_both(tmp_path / "r.yaml", workspace="1Ti")[1]["pipelineConfig"]["workspace"]
    assert default["kubernetes"]["pvcSpecPatch"] == {"accessModes": ["ReadWriteMany"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workspace": "big"}, "--workspace big is not a size"),
        ({"storage_class": "nfs"}, "--storage-class has no effect without --workspace"),
        ({"image": "charloom:latest"}, "'charloom:latest' has no version"),
        ({"image": "registry:5000/charloom"}, "has no version"),
        ({"image": " "}, "has no version"),
    ],
)
def test_settings_that_make_no_sense_are_bad_input(
    tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compile_pipeline(str(tmp_path / "p.yaml"), **settings)
    assert os.listdir(tmp_path) == []


def test_the_image_is_the_argument_else_the_environment_else_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "example.org/charloom:7")
    path = tmp_path / "p.yaml"
    assert list_images(path, "example.org/charloom:8") == {"example.org/charloom:8"}
    assert list_images(path) == {"example.org/charloom:7"}
    digest = f"registry:5000/charloom@sha256:{'0' * 64}"
    assert list_images(path, digest) == {digest}
    monkeypatch.delenv(IMAGE_VARIABLE)
    assert list_images(path) == {DEFAULT_IMAGE}  # the graph itself is unchanged


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
        "pipelines.local.runner",
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
