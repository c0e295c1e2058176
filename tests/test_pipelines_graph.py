"""What the compiled graph tells KFP's backend: order, gate, cache, retries, pods, form."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from compiled_pipeline import COMMITTED, list_shared, list_tasks, read_specs
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2

from components.component_runtime import RUN_VARIABLE
from model.presets import PRESETS
from pipelines.graph import MOUNT

GATE = "inputs.parameter_values['pipelinechannel--evaluate-verdict'] == 'PASSED'"
STEPS = {"find-inputs", "preprocess", "train", "evaluate", "export", "report-rejection"}


@pytest.fixture
def spec() -> dict[str, Any]:
    return read_specs(COMMITTED)[0]


@pytest.fixture
def pods() -> dict[str, dict[str, Any]]:
    """What the platform spec says of each step's pod."""
    executors = read_specs(COMMITTED)[1]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): pod for name, pod in executors.items()}


def test_kubernetes_settings_are_known_to_the_backend(pods: dict[str, dict[str, Any]]) -> None:
    assert set(pods) == STEPS
    for pod in pods.values():  # an unknown field raises
        json_format.ParseDict(pod, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_stages_follow_each_other(spec: dict[str, Any]) -> None:
    tasks = spec["root"]["dag"]["tasks"]
    assert {name: sorted(task.get("dependentTasks", [])) for name, task in tasks.items()} == {
        "find-inputs": [],
        "preprocess": ["find-inputs"],
        "train": ["find-inputs", "preprocess"],
        "evaluate": ["find-inputs", "preprocess", "train"],
        "condition-branches-1": ["evaluate", "preprocess", "train"],
    }
    assert {name: task["taskInfo"]["name"] for name, task in list_tasks(spec).items()} == {
        "find-inputs": "Find the inputs",
        "preprocess": "Preprocess",
        "train": "Train",
        "evaluate": "Evaluate",
        "export": "Export",
        "report-rejection": "Report the rejection",
    }


def test_every_parameter_that_is_read_was_handed_in(
    spec: dict[str, Any], pods: dict[str, dict[str, Any]]
) -> None:
    dags = {"root": spec["root"], **spec["components"]}
    read: list[str] = []
    for name, component in dags.items():
        given = component.get("inputDefinitions", {}).get("parameters", {})
        for task in component.get("dag", {}).get("tasks", {}).values():
            executor = spec["components"][task["componentRef"]["name"]].get("executorLabel", "")
            sources = [
                *task.get("inputs", {}).get("parameters", {}).values(),
                *(mount["pvcNameParameter"] for mount in _pod(pods, executor).get("pvcMount", [])),
                _pod(pods, executor).get("nodeSelector", {}).get("nodeSelectorJson", {}),
            ]
            wanted = [
                one["componentInputParameter"]
                for one in sources
                if len(one) == 1 and "componentInputParameter" in one
            ]
            assert set(wanted) <= set(given), name
            read += wanted
    assert read.count("pipelinechannel--worker_memory") == 2  # the branch, and export in it
    assert "worker_node_selector" in read


def _pod(pods: dict[str, dict[str, Any]], executor: str) -> dict[str, Any]:
    return pods.get(executor.removeprefix("exec-"), {})


def test_the_gate_has_both_branches(spec: dict[str, Any]) -> None:
    branches = spec["components"]["comp-condition-branches-1"]["dag"]["tasks"]
    found = {}
    for branch in branches.values():
        inside = spec["components"][branch["componentRef"]["name"]]["dag"]["tasks"]
        found[branch["triggerPolicy"]["condition"]] = list(inside)
    assert found == {GATE: ["export"], f"!({GATE})": ["report-rejection"]}


def test_stages_with_effects_that_kfp_does_not_see_are_not_cached(spec: dict[str, Any]) -> None:
    cached = {
        name for name, task in list_tasks(spec).items() if task["cachingOptions"].get("enableCache")
    }
    assert cached == {"preprocess", "train", "evaluate"}


def test_what_is_cached_depends_on_nothing_that_is_new_in_every_run(spec: dict[str, Any]) -> None:
    tasks = list_tasks(spec)
    constants = {
        name: {
            value["runtimeValue"]["constant"]
            for value in tasks[name]["inputs"]["parameters"].values()
            if "runtimeValue" in value
        }
        for name in ("preprocess", "train", "evaluate")
    }
    for name, found in constants.items():
        placeholders = {one for one in found if "{{$." in one and ".inputs." not in one}
        assert placeholders == ({"{{$.pipeline_task_name}}"} if name == "train" else set())
    sources = tasks["preprocess"]["inputs"]["parameters"]
    keys = {
        name: value["taskOutputParameter"]["outputParameterKey"]
        for name, value in sources.items()
        if "taskOutputParameter" in value
    }
    assert "artifacts" not in tasks["preprocess"]["inputs"]  # the key would hold their ids
    same = {name: name for name in ("listing_folder", "fingerprint")}
    assert keys == {"config": "data", "run_settings": "preparation", **same}
    sources = tasks["train"]["inputs"]["parameters"]
    version = {name: sources[name]["taskOutputParameter"] for name in ("warm_start", "begun")}
    assert [one["outputParameterKey"] for one in version.values()] == ["base", "begun"]


def test_what_the_form_gives_reaches_the_steps_that_use_it(spec: dict[str, Any]) -> None:
    given = {
        step: {
            name: source["componentInputParameter"]
            for name, source in task["inputs"]["parameters"].items()
            if "componentInputParameter" in source and "--" not in name
        }
        for step, task in list_tasks(spec).items()
        if step in ("find-inputs", "preprocess", "train")
    }
    assert given["preprocess"] == {}  # its key in the cache is made of what find-inputs hands on
    assert (
        given["find-inputs"].items()
        >= {
            "corpus": "corpus",
            "settings": "settings",
            "preset": "preset",
            "registry": "model_registry",
            "model_name": "model_name",
            "window_days": "corpus_window_days",
        }.items()
    )
    assert (
        given["train"].items()
        >= {
            "workers": "workers",
            "image": "worker_image",
            "queue": "worker_queue",
            "gpus_per_worker": "worker_gpus",
            "deadline_hours": "worker_deadline_hours",
        }.items()
    )
    component = spec["components"]["comp-preprocess"]
    outputs = component["outputDefinitions"]["artifacts"]
    assert {name: one["artifactType"]["schemaTitle"] for name, one in outputs.items()} == {
        "records": "system.Dataset",
        "data_card": "system.HTML",
        "metrics": "system.Metrics",
    }


def test_placeholders_stand_alone(spec: dict[str, Any]) -> None:
    # KFP's driver fills in a placeholder that is the whole value, except for the workspace's.
    parameters = list_tasks(spec)["find-inputs"]["inputs"]["parameters"]
    assert parameters["scheduled"]["runtimeValue"]["constant"] == (
        "{{$.pipeline_job_schedule_time_utc}}"
    )
    assert parameters["created"]["runtimeValue"]["constant"] == "{{$.pipeline_job_create_time_utc}}"


def test_only_steps_that_may_be_repeated_are_retried(spec: dict[str, Any]) -> None:
    policies = {name: task.get("retryPolicy") for name, task in list_tasks(spec).items()}
    retried = {name: policy["maxRetryCount"] for name, policy in policies.items() if policy}
    assert retried == {"preprocess": 2, "train": 5, "evaluate": 2}
    # The last is counted from the first start of the task, not of the retry.
    assert {
        (policy["backoffDuration"], policy["backoffFactor"], policy["backoffMaxDuration"])
        for policy in policies.values()
        if policy
    } == {("60s", 2.0, "1209600s")}


def test_every_parameter_says_what_it_is(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    for name, parameter in parameters.items():
        assert len(parameter["description"]) > 20, name
        assert "  " not in parameter["description"], name  # no indentation is left
        assert parameter["description"].endswith("."), name
    assert all(preset in parameters["preset"]["description"] for preset in PRESETS)
    assert parameters["corpus"]["defaultValue"] == '["/mnt/charloom/corpus"]'
    assert parameters["preset"]["defaultValue"] == "demo"
    assert parameters["volume"]["defaultValue"] == "charloom"
    assert parameters["settings"]["parameterType"] == "LIST"
    assert parameters["worker_node_selector"]["parameterType"] == "STRUCT"


def test_the_form_can_be_filled_in(spec: dict[str, Any]) -> None:
    # KFP shows the parameters in this order, without their descriptions.
    names = sorted(spec["root"]["inputDefinitions"]["parameters"])
    assert len(names) <= 18
    groups = [name.split("_")[0].removesuffix("s") for name in names]
    together = [list(members) for _, members in itertools.groupby(groups)]
    assert len(together) == len(set(groups)), "a group is in two places"
    description = spec["pipelineInfo"]["description"]
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", description, flags=re.MULTILINE)
    assert [name for name, _ in rows] == ["parameter", *names]
    assert max(len(meaning) for _, meaning in rows) <= 80
    assert "docs/parameters.md" in description


def test_the_train_task_hands_its_settings_on(spec: dict[str, Any]) -> None:
    component = spec["components"]["comp-train"]
    assert component["inputDefinitions"]["parameters"]["task_config"]["parameterType"] == (
        "TASK_CONFIG"
    )
    passed = {
        one["field"]: one.get("applyToTask", False) for one in component["taskConfigPassthroughs"]
    }
    assert passed == {
        "RESOURCES": False,
        "KUBERNETES_NODE_SELECTOR": False,
        "KUBERNETES_TOLERATIONS": False,
        "KUBERNETES_AFFINITY": False,
        "ENV": True,
        "KUBERNETES_VOLUMES": True,
    }
    outputs = component["outputDefinitions"]["artifacts"]
    assert {name: one["artifactType"]["schemaTitle"] for name, one in outputs.items()} == {
        "workdir": "system.Model",
        "metrics": "system.Metrics",
        "curves": "system.HTML",
        "mlpipeline_ui_metadata": "system.Artifact",
    }


def test_memory_and_processors_are_parameters(spec: dict[str, Any]) -> None:
    executors = spec["deploymentSpec"]["executors"]
    found = {
        name.removeprefix("exec-"): executor["container"]["resources"]
        for name, executor in executors.items()
    }

    def value(parameter: str) -> str:
        return f"{{{{$.inputs.parameters['pipelinechannel--{parameter}']}}}}"

    parameters = spec["root"]["inputDefinitions"]["parameters"]
    defaults = {value(name): one.get("defaultValue") for name, one in parameters.items()}
    assert [name for name, default in defaults.items() if default == "2"] == [value("worker_cpu")]
    for step, memory, cpu in (
        ("find-inputs", "1Gi", "1"),
        ("preprocess", value("prepare_memory"), "1"),
        ("train", value("worker_memory"), "2"),
        ("evaluate", value("worker_memory"), "2"),
        ("export", value("worker_memory"), "1"),
        ("report-rejection", "1Gi", "1"),
    ):
        resources = found[step]
        assert resources["resourceMemoryRequest"] == memory
        assert resources["resourceMemoryLimit"] == memory
        assert defaults.get(resources["resourceCpuRequest"], resources["resourceCpuRequest"]) == cpu
        assert "accelerator" not in resources  # the launcher would book GPUs of its own


def test_pods_are_not_of_root_and_know_their_run(pods: dict[str, dict[str, Any]]) -> None:
    for pod in pods.values():
        user = {"runAsGroup": "65532", "runAsNonRoot": True, "runAsUser": "65532"}
        assert pod["securityContext"] == user
        assert pod["imagePullPolicy"] == "IfNotPresent"
        assert pod["fieldPathAsEnv"] == [
            {"name": RUN_VARIABLE, "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
    tolerated = {name: pod["tolerations"] for name, pod in pods.items() if "tolerations" in pod}
    gpus = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert tolerated == {"train": [gpus]}
    assert [name for name, pod in pods.items() if "nodeSelector" in pod] == ["train"]


def test_the_claim_that_a_run_names_is_mounted(
    spec: dict[str, Any], pods: dict[str, dict[str, Any]]
) -> None:
    mounted = {name: pod["pvcMount"] for name, pod in pods.items() if "pvcMount" in pod}
    assert set(mounted) == STEPS - {"report-rejection"}
    for name, (mount,) in mounted.items():
        inside = "pipelinechannel--volume" if name == "export" else "volume"
        assert mount["pvcNameParameter"] == {"componentInputParameter": inside}
        assert mount["mountPath"] == MOUNT == "/mnt/charloom"
    shared = ("find-inputs", "preprocess", "train", "evaluate", "export")
    assert list_shared(spec) == dict.fromkeys(shared, MOUNT)
