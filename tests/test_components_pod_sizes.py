from __future__ import annotations

from typing import Any

import pytest

from components.pod_sizes import PodSizes
from components.preprocess.inputs.find import find_inputs
from model.config import Config, with_overrides
from model.errors import InputError

GOOD: dict[str, Any] = {
    "prepare_memory": "8Gi",
    "worker_memory": "8Gi",
    "worker_cpu": "2",
    "worker_gpus": 0,
    "workers": 1,
}
CONFIG = with_overrides(Config(), ["train.lanes=32"])


@pytest.mark.parametrize(
    "memory", ["128Mi", "8Gi", "1.5Gi", "16G", "200M", "134217728", "131072Ki"]
)
def test_amounts_of_memory(memory: str) -> None:
    PodSizes(**GOOD | {"worker_memory": memory, "prepare_memory": memory}).check(CONFIG)


@pytest.mark.parametrize(
    "memory",
    ["", "abc", "16 GB", "16GB", "8gi", "8K", "Gi", "-8Gi", "8Gi ", "8Gi\n", "1e9", "8,5Gi", "0Gi"]
    + ["16", "127Mi", "134217727", "900000m", "٨Gi"],
)
@pytest.mark.parametrize("name", ["worker_memory", "prepare_memory"])
def test_what_is_no_amount_of_memory(name: str, memory: str) -> None:
    with pytest.raises(InputError) as caught:
        PodSizes(**GOOD | {name: memory}).check(CONFIG)
    assert str(caught.value) == (
        f"{name} is {memory!r}; it must be an amount of memory such as 8Gi, at least 128Mi"
    )


@pytest.mark.parametrize(("cpu", "good"), [("500m", True), ("0.5", True), ("1m", True), ("16", True),
                                           ("0", False), ("0.1m", False), ("2 CPUs", False),
                                           ("2Gi", False), ("2k", False), ("", False)])  # fmt: skip
def test_numbers_of_cpus(cpu: str, good: bool) -> None:
    sizes = PodSizes(**GOOD | {"worker_cpu": cpu})
    if good:
        sizes.check(CONFIG)
        return
    with pytest.raises(InputError, match=rf"^worker_cpu is '{cpu}'; it must be a number of CPUs"):
        sizes.check(CONFIG)


@pytest.mark.parametrize(
    ("workers", "gpus", "message"),
    [
        (4, 0, ""),
        (4, 2, ""),
        (4, 8, ""),
        (3, 0, "train.lanes is 32, which 3 workers can't share; set train.lanes=33"),
        (
            2,
            3,
            "train.lanes is 32, which 2 workers with 3 GPUs each can't share; set train.lanes=30",
        ),
        (64, 0, "train.lanes is 32, which 64 workers can't share; set train.lanes=64"),
        (0, 0, "workers is 0; it must be at least 1"),
        (1, -1, "worker_gpus is -1; it must be at least 0"),
    ],
)
def test_workers_and_what_they_share(workers: int, gpus: int, message: str) -> None:
    sizes = PodSizes(**GOOD | {"workers": workers, "worker_gpus": gpus})
    if not message:
        sizes.check(CONFIG)
        return
    with pytest.raises(InputError) as caught:
        sizes.check(CONFIG)
    assert str(caught.value) == message


def test_the_first_step_of_a_run_checks_them() -> None:
    with pytest.raises(InputError, match=r"^worker_memory is 'abc'"):
        find_inputs("[]", sizes=PodSizes(**GOOD | {"worker_memory": "abc"}))
    with pytest.raises(InputError, match=r"^train\.lanes is 30, which 4 workers can't share"):
        find_inputs("[]", settings=["train.lanes=30"], sizes=PodSizes(**GOOD | {"workers": 4}))
