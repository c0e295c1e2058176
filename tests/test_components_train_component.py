"""The tasks of the compiled pipeline, run by their own commands as KFP's pods run them.

A training's workers are processes here, started by a function in place of the one that
makes a JobSet; all else is real, the folders on the shared volume above all.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.component_runtime import run_id
from components.preprocess.inputs.listing import find_files
from components.preprocess.inputs.listing_file import load_listing
from components.train.cluster.manifest import JobSetOptions, render
from components.train.cluster.task_config import describe_viewer, jobset_options, pod_fragments
from model.config import to_json, with_overrides
from model.errors import InputError
from model.presets import tiny

ROOT = Path(__file__).resolve().parent.parent
RUN = "7d1f0f6e-3d55-4f7a-9a53-2f6bd0c3a0a1"

LAUNCHER = """
import dataclasses, json, os, sys, types

def launch_jobset(job, options, *, follower):
    from components.train.local.launcher import launch_local
    with open(os.environ["RECORDED"], "w") as file:
        json.dump({"options": dataclasses.asdict(options), "job": dataclasses.asdict(job)}, file)
    launch_local(job, follower=follower)

module = types.ModuleType("components.train.cluster.launcher")
module.launch_jobset = launch_jobset
sys.modules["components.train.cluster.launcher"] = module
"""


def task_config(claim: str, mount: str) -> dict[str, Any]:
    """What KFP's driver puts in place of a `dsl.TaskConfig`: Go's JSON of pod fragments."""
    run = {"fieldRef": {"fieldPath": "metadata.labels['pipeline/runid']"}}
    return {
        "affinity": None,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "nodeSelector": {"gpu": "l4"},
        "env": [
            {"name": "CHARLOOM_IMAGE", "value": "charloom:0.1.0"},
            {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
            {"name": "CHARLOOM_RUN_ID", "valueFrom": run},
        ],
        "volumes": [{"name": claim, "persistentVolumeClaim": {"claimName": claim}}],
        "volumeMounts": [{"name": claim, "mountPath": mount}],
        "resources": {
            "limits": {"memory": "16Gi"},
            "requests": {"cpu": "4", "memory": "16Gi"},
        },
    }


class Pods:
    """Runs tasks of the committed YAML."""

    def __init__(self, folder: Path) -> None:
        text = (ROOT / "pipelines" / "train_language_model.yaml").read_text(encoding="utf-8")
        self._executors = next(yaml.safe_load_all(text))["deploymentSpec"]["executors"]
        self._folder = folder
        self.mount = folder / "mnt"
        self.recorded = folder / "recorded.json"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(LAUNCHER)
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)]),
            "TMPDIR": str(folder),
            "KFP_POD_NAME": "train-language-model-x7k2p-1234",
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            "CHARLOOM_RUN_ID": RUN,
            "RECORDED": str(self.recorded),
        }

    def artifact(self, name: str) -> Path:
        """Returns where an artifact of the object store is on a pod's disk."""
        return self._folder / "store" / name

    def run(
        self, task: str, parameters: Mapping[str, Any], *, reads: str = "", writes: str = ""
    ) -> tuple[dict[str, Any], str]:
        """Runs a task; returns what its executor handed out, and what it said."""

        def listed(names: str) -> dict[str, Any]:
            return {
                name: {"artifacts": [{"name": name, "uri": str(self.artifact(name))}]}
                for name in names.split()
            }

        output = self._folder / f"{task}.json"
        executor_input = {
            "inputs": {"parameterValues": dict(parameters), "artifacts": listed(reads)},
            "outputs": {"artifacts": listed(writes), "outputFile": str(output)},
        }
        container = self._executors[f"exec-{task}"]["container"]
        command = [
            json.dumps(executor_input) if word == "{{$}}" else word
            for word in (*container["command"], *container["args"])
        ]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(output.read_text()), done.stdout


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Pods:
    return Pods(tmp_path_factory.mktemp("pods"))


@pytest.fixture(scope="module")
def found(pods: Pods, corpus: Path) -> dict[str, Any]:
    """What the first task hands on."""
    config = with_overrides(tiny(), ["train.steps=200", "gate.max_perplexity=900"])
    parameters: dict[str, Any] = {"corpus": json.dumps([str(corpus)]), "preset": to_json(config)}
    times = {"scheduled": "2026-03-02T01:30:00Z", "created": "2026-03-02T01:30:07Z"}
    parameters |= {"settings": ["gate.max_perplexity=1e6"], "window_days": 1, **times}
    parameters["shared"] = str(pods.mount)
    for _ in range(2):  # a retried task lists the text anew
        output, _ = pods.run("find-inputs", parameters, writes="listing")
    values: dict[str, Any] = output["parameterValues"]
    return values


@pytest.fixture(scope="module")
def prepared(pods: Pods, found: dict[str, Any]) -> Path:
    """The records on the shared volume."""
    parameters = {"listing_folder": found["listing_folder"], "config": found["data"]}
    parameters |= {"run_settings": found["preparation"]}
    parameters |= {"fingerprint": found["fingerprint"], "shared": str(pods.mount)}
    for _ in range(2):  # a retried task finds its work done
        output, said = pods.run("preprocess", parameters, writes="records data_card metrics")
    assert "already prepared from this input" in said
    assert output["artifacts"]["metrics"]["artifacts"][0]["metadata"]["train_words"] > 5000
    return pods.mount / "runs" / RUN / "records"


@pytest.fixture(scope="module")
def trained(pods: Pods, found: dict[str, Any], prepared: Path) -> Path:
    """The workdir on the shared volume; the training was started twice."""
    parameters = {
        "config": found["config"],
        "run_settings": found["training"],
        "workers": 1,
        "shared": str(pods.mount),
        "task": "train",
        "image": "registry.example/charloom-gpu:0.1.0",
        "queue": "lm",
        "gpus_per_worker": 1,
        "task_config": task_config("corpora", str(pods.mount)),
        # KFP hands these over as well: of the pod's resources.
        "cpu_request": "4",
        "pipelinechannel--worker_cpu": "4",
    }
    outputs = "workdir metrics curves mlpipeline_ui_metadata"
    pods.run("train", parameters, reads="records", writes=outputs)
    first = pods.recorded.read_text()
    pods.recorded.write_text("")
    _, said = pods.run("train", parameters, reads="records", writes=outputs)
    assert "is already trained to step 200" in said
    assert pods.recorded.read_text() == ""  # no second launch
    pods.recorded.write_text(first)
    return pods.mount / "runs" / RUN / "work"


@pytest.mark.slow
def test_the_listing_is_on_the_shared_volume(
    pods: Pods, found: dict[str, Any], corpus: Path
) -> None:
    folder = pods.mount / "runs" / RUN / "listing"
    assert (pods.artifact("listing") / "LOCATION").read_text() == f"{folder}\n"
    assert found["listing_folder"] == "listing"  # the same in every run, for KFP's cache
    assert load_listing(str(folder)) == find_files([str(corpus)])
    assert sorted(os.listdir(folder)) == ["COMPLETED", "listing.jsonl"]


@pytest.mark.slow
def test_records_are_on_the_shared_volume(pods: Pods, prepared: Path) -> None:
    artifact = pods.artifact("records")
    assert (artifact / "LOCATION").read_text() == f"{prepared}\n"
    assert sorted(os.listdir(artifact)) == ["LOCATION", "dataset.json"]
    assert (artifact / "dataset.json").read_bytes() == (prepared / "dataset.json").read_bytes()
    assert (prepared / "COMPLETED").is_file()
    card = (prepared / "data_card.html").read_bytes()
    assert pods.artifact("data_card").read_bytes() == card


@pytest.mark.slow
def test_the_launcher_gets_what_the_task_was_given(
    pods: Pods, prepared: Path, trained: Path
) -> None:
    recorded = json.loads(pods.recorded.read_text())
    given = task_config("corpora", str(pods.mount))
    del given["affinity"]
    given["env"] = [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]
    options = JobSetOptions(
        run_id=RUN,
        task="train",
        image="registry.example/charloom-gpu:0.1.0",
        queue="lm",
        gpus_per_worker=1,
        task_config=given,
    )
    assert recorded["options"] == json.loads(json.dumps(dataclasses.asdict(options)))
    job = recorded["job"]
    assert (job["records"], job["workdir"]) == (str(prepared), str(trained))
    assert (job["workers"], job["max_restarts"]) == (1, 3)


@pytest.mark.slow
def test_the_train_task_fills_its_artifacts(pods: Pods, trained: Path) -> None:
    artifact = pods.artifact("workdir")
    assert sorted(os.listdir(artifact)) == ["LOCATION", "config.json"]
    assert (artifact / "LOCATION").read_text() == f"{trained}\n"
    curves = pods.artifact("curves").read_text()
    assert "<dt>Steps</dt><dd>200 of 200</dd>" in curves
    assert "<svg" in curves
    viewer = json.loads(pods.artifact("mlpipeline_ui_metadata").read_text())["outputs"][0]
    assert viewer["source"] == f"volume://corpora/runs/{RUN}/work/tensorboard"
    assert viewer["image"] == "registry.example/charloom-gpu:0.1.0"
    assert list((trained / "tensorboard").rglob("events.out.tfevents.*"))


@pytest.mark.slow
def test_the_model_is_judged_and_published(
    pods: Pods, found: dict[str, Any], prepared: Path, trained: Path, tmp_path: Path
) -> None:
    parameters = {"config": found["judged"], "shared": str(pods.mount)}
    reads, writes = "records workdir", "report page summary metrics"
    report = pods.mount / "runs" / RUN / "report"
    report.mkdir()
    (report / "report.json").write_text("{")  # of a try that was killed
    output, _ = pods.run("evaluate", parameters, reads=reads, writes=writes)
    assert output["parameterValues"]["verdict"] == "PASSED"
    assert (pods.artifact("report") / "LOCATION").read_text() == f"{report}\n"
    for name, file in (("page", "report.html"), ("summary", "report.md")):
        assert pods.artifact(name).read_bytes() == (report / file).read_bytes()
    content = json.loads((report / "report.json").read_text())
    assert content["gate"]["max_perplexity"] == 1e6  # the run's own limit
    assert content["config"]["gate"]["max_perplexity"] == 900
    parameters = {"registry": str(tmp_path), "name": "lm", "shared": str(pods.mount)}
    output, _ = pods.run("export", parameters, reads="records workdir report")
    version = output["parameterValues"]["version"]
    assert version == str(tmp_path / "lm" / "1")
    assert (Path(version) / "saved_model.pb").is_file()


@dataclasses.dataclass
class Given:
    """As `dsl.TaskConfig` is."""

    resources: Any = None
    env: Any = None
    volumes: Any = None
    volume_mounts: Any = None
    node_selector: Any = None
    tolerations: Any = None
    affinity: Any = None


def test_nothing_given_is_nothing() -> None:
    from kfp import dsl

    assert pod_fragments(dsl.TaskConfig()) == {}
    assert pod_fragments(Given(env=[], resources={})) == {}
    fields = {field.name for field in dataclasses.fields(dsl.TaskConfig)}
    assert fields == {field.name for field in dataclasses.fields(Given)}
    given = Given(**{field: [{"name": "x"}] for field in fields})
    assert len(pod_fragments(given)) == len(fields)


def test_the_options_make_a_jobset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLOOM_RUN_ID", RUN)
    config = task_config("charloom", "/mnt/charloom")
    named = {"volumeMounts": "volume_mounts", "nodeSelector": "node_selector"}
    fragments = pod_fragments(Given(**{named.get(key, key): config[key] for key in config}))
    options = jobset_options(
        fragments, task="train", image="", queue="", gpus_per_worker=2, deadline_hours=1.5
    )
    jobset = render(options, image="i:1", workers=4, arguments=[], max_restarts=3)
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["activeDeadlineSeconds"] == 5400
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "2"}
    assert {"name": "charloom", "mountPath": "/mnt/charloom"} in container["volumeMounts"]
    assert pod["nodeSelector"] == {"gpu": "l4"}
    assert "CHARLOOM_RUN_ID" not in [variable["name"] for variable in container["env"]]
    monkeypatch.delenv("CHARLOOM_RUN_ID")
    with pytest.raises(InputError, match="CHARLOOM_RUN_ID"):
        run_id()


def test_a_viewer_mounts_the_claim_that_holds_the_workdir() -> None:
    fragments = {
        "volumes": [
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "text", "persistentVolumeClaim": {"claimName": "text"}},
            {"name": "kfp-workspace", "persistentVolumeClaim": {"claimName": "run-x-workspace"}},
        ],
        "volumeMounts": [
            {"name": "secret", "mountPath": "/kfp-workspace"},
            {"name": "text", "mountPath": "/kfp"},
            {"name": "kfp-workspace", "mountPath": "/kfp-workspace/"},
        ],
    }
    workdir = "/kfp-workspace/charloom/runs/r/work"
    content = describe_viewer(workdir, image="charloom:0.1.0", fragments=fragments)
    assert content is not None
    (viewer,) = content["outputs"]
    assert viewer["type"] == "tensorboard"
    assert viewer["source"] == "volume://kfp-workspace/charloom/runs/r/work/tensorboard"
    pod = viewer["pod_template_spec"]["spec"]
    assert pod["volumes"] == [
        {"name": "kfp-workspace", "persistentVolumeClaim": {"claimName": "run-x-workspace"}}
    ]
    assert pod["containers"][0]["volumeMounts"] == [
        {"name": "kfp-workspace", "mountPath": "/kfp-workspace", "readOnly": True}
    ]
    assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(
    "fragments",
    [
        {},
        {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "v"}}]},
        {
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "v"}}],
            "volumeMounts": [{"name": "v", "mountPath": "/mnt", "subPath": "x"}],
        },
        {
            "volumes": [{"name": "v", "emptyDir": {}}],
            "volumeMounts": [{"name": "v", "mountPath": "/mnt"}],
        },
    ],
)
def test_without_a_claim_there_is_no_viewer(fragments: dict[str, Any]) -> None:
    assert describe_viewer("/mnt/work", image="i:1", fragments=fragments) is None
