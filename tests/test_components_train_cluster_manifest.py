import copy
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from crd_schema import CRD, load_schema, rules, violations

from components.train.cluster.manifest import (
    MAX_NAME,
    JobSetOptions,
    host_pattern,
    jobset_name,
    render,
)
from model.distributed.tf_config import format_tf_config
from model.errors import InputError

RUN = "0b7a4c1e-5d57-4a3e-9d0e-7f6f2c1d9a10"
GOLDEN = Path(__file__).parent / "data" / "jobsets"
IMAGE = "registry.example/charloom:0.1.0"
ARGUMENTS = ["--records", "/mnt/charloom/runs/r/records", "--workdir", "/mnt/charloom/runs/r/work"]
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "train-pod", "uid": "6d2c"}

VOLUMES = {
    "volumes": [{"name": "charloom", "persistentVolumeClaim": {"claimName": "charloom"}}],
    "volumeMounts": [{"name": "charloom", "mountPath": "/mnt/charloom"}],
}
PLACEMENT = {
    "resources": {
        "limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"},
        "requests": {"cpu": "4"},
    },
    "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
    "nodeSelector": {"accelerator": "a100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
                ]
            }
        }
    },
}
PLAIN = JobSetOptions(run_id=RUN)
FULL = JobSetOptions(
    run_id=RUN,
    queue="training",
    gpus_per_worker=4,
    task_config=VOLUMES | PLACEMENT,
)
CASES: dict[str, tuple[int, JobSetOptions]] = {
    **{f"{count}-plain": (count, PLAIN) for count in (1, 2, 8)},
    **{f"{count}-full": (count, FULL) for count in (1, 2, 8)},
    "2-gpu": (2, dataclasses.replace(PLAIN, gpus_per_worker=4)),
    "2-kueue": (2, dataclasses.replace(PLAIN, queue="training")),
    "2-volumes": (2, dataclasses.replace(PLAIN, task_config=VOLUMES)),
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    if not CRD.exists():
        pytest.skip(f"JobSet's definition is not at {CRD}")
    return load_schema(CRD, "v1alpha2")


def rendered(case: str) -> dict[str, Any]:
    workers, options = CASES[case]
    return render(
        options,
        image=IMAGE,
        workers=workers,
        arguments=ARGUMENTS,
        max_restarts=3,
        owner=OWNER if case.endswith("full") else None,
    )


@pytest.mark.parametrize("case", CASES)
def test_the_jobset_is_the_committed_one(case: str) -> None:
    assert rendered(case) == yaml.safe_load((GOLDEN / f"{case}.yaml").read_text(encoding="utf-8"))


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_jobset_is_valid(case: str, schema: dict[str, Any]) -> None:
    assert violations(schema, rendered(case)) == []


def test_the_schema_has_rules_of_both_kinds(schema: dict[str, Any]) -> None:
    found = rules(schema)
    assert len(found) == 8
    assert [rule for rule in found if "oldSelf" not in rule]


@pytest.mark.parametrize(
    ("where", "value", "refusal"),
    [
        (("spec", "failurePolicy", "restartStrategy"), "Never", "'Never' is not one of"),
        (("spec", "failurePolicy", "maxRestart"), 3, "'maxRestart' was unexpected"),
        (("spec", "replicatedJobs", 0, "replicas"), "1", "'1' is not of type 'integer'"),
        (("spec", "replicatedJobs", 0, "name"), None, "None is not of type 'string'"),
        (("spec", "startupPolicy"), {"startupPolicyOrder": "InOrder"}, "mutually exclusive"),
    ],
)
def test_the_check_refuses_what_an_api_server_refuses(
    schema: dict[str, Any], where: tuple[Any, ...], value: Any, refusal: str
) -> None:
    jobset = rendered("2-plain")
    jobset["spec"]["replicatedJobs"][0]["dependsOn"] = [{"name": "data", "status": "Ready"}]
    assert violations(schema, jobset) == []
    at = jobset
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    assert refusal in "\n".join(violations(schema, jobset))


def test_the_check_refuses_two_containers_of_one_name(schema: dict[str, Any]) -> None:
    jobset = rendered("2-plain")
    containers = pod_of(jobset)["containers"]
    containers.append(containers[0])
    assert "duplicate ('worker',)" in "\n".join(violations(schema, jobset))


def test_workers_of_a_jobset_that_is_there_cannot_be_changed(schema: dict[str, Any]) -> None:
    old = rendered("2-plain")
    new = copy.deepcopy(old)
    assert violations(schema, new, old=old) == []
    new["metadata"]["ownerReferences"] = [OWNER]  # as adoption does
    assert violations(schema, new, old=old) == []
    new["spec"]["failurePolicy"]["maxRestarts"] = 4
    assert violations(schema, new, old=old) == ["$.spec.failurePolicy: Value is immutable"]


def pod_of(jobset: dict[str, Any]) -> dict[str, Any]:
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    return job["template"]["spec"]  # type: ignore[no-any-return]


def test_a_limit_of_the_task_wins_over_gpus_per_worker() -> None:
    resources = pod_of(rendered("2-full"))["containers"][0]["resources"]
    assert resources["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert resources["requests"] == {"cpu": "4", "memory": "32Gi"}


@pytest.mark.parametrize(
    ("message", "action"),
    [
        ("with exit code 2 matching FailJob rule at index 0", "FailJobSet"),
        ("with exit code 78 matching FailJob rule at index 2", "FailJobSet"),
        ("with exit code 75 matching FailJob rule at index 1", "RestartJobSetAndIgnoreMaxRestarts"),
        (
            "Pod a/b has condition DisruptionTarget matching FailJob rule at index 3",
            "RestartJobSetAndIgnoreMaxRestarts",
        ),
    ],
)
def test_what_a_failed_pod_means(message: str, action: str) -> None:
    """The messages are those of Kubernetes' Job controller; RE2 and re agree on the patterns."""
    message = (
        message if message.startswith("Pod") else f"Container worker for pod a/b failed {message}"
    )
    for rule in rendered("2-plain")["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if "PodFailurePolicy" in rule["onJobFailureReasons"] and any(
            re.search(pattern, message) for pattern in patterns
        ):
            assert rule["action"] == action
            return
    pytest.fail("no rule matches")


def test_every_failed_code_of_ours_has_a_rule_in_the_job() -> None:
    job = rendered("2-plain")["spec"]["replicatedJobs"][0]["template"]["spec"]
    found = [one.get("onExitCodes", {}).get("values") for one in job["podFailurePolicy"]["rules"]]
    assert found == [[2], [75], [78], None]
    assert job["backoffLimit"] == 0
    assert pod_of(rendered("2-plain"))["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("run", "task", "name"),
    [
        (RUN, "train", f"train-{RUN}"),
        ("r1", "train", "train-r1"),
        ("run_1", "Train", "train-run-1-32813ac620"),
        ("7" * 60, "3rd training", None),
    ],
)
def test_names_are_dns_labels(run: str, task: str, name: str | None) -> None:
    found = jobset_name(run, task)
    assert re.fullmatch("[a-z]([a-z0-9-]*[a-z0-9])?", found)
    assert len(found) <= MAX_NAME
    assert len(f"{found}-worker-0-999-abcde") <= 63
    assert found == jobset_name(run, task)
    if name:
        assert found == name


def test_names_of_other_runs_and_tasks_differ() -> None:
    names = [jobset_name(run, task) for run in (RUN, "a.b", "a-b", "a_b") for task in ("x", "y")]
    assert len(set(names)) == len(names)


def test_tf_config_comes_from_the_names() -> None:
    pattern = host_pattern("train-r1")
    hosts = [f"{pattern.format(index=index)}:2222" for index in range(2)]
    assert format_tf_config(hosts, 1) == (
        '{"cluster": {"worker": ["train-r1-worker-0-0.train-r1:2222", '
        '"train-r1-worker-0-1.train-r1:2222"]}, "task": {"type": "worker", "index": 1}}'
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpus_per_worker": -1}, "gpus_per_worker is -1; it must be at least 0"),
        ({"deadline_hours": 0}, "deadline_hours is 0; it must be more than 0"),
    ],
)
def test_a_bad_option_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        dataclasses.replace(PLAIN, **change)


def test_too_many_workers_are_refused() -> None:
    with pytest.raises(InputError, match="workers is 0"):
        render(PLAIN, image=IMAGE, workers=0, arguments=[], max_restarts=0)


if __name__ == "__main__":  # writes the golden files anew
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        text = yaml.safe_dump(rendered(case), sort_keys=False, width=100)
        (GOLDEN / f"{case}.yaml").write_text(text, encoding="utf-8")
    sys.exit(0)
