from __future__ import annotations

import json

import pytest

from model.distributed.tf_config import format_tf_config, parse_tf_config
from model.errors import InputError


def test_tf_config_names_all_workers_and_this_one() -> None:
    assert json.loads(format_tf_config(["a:1", "b:2"], 1)) == {
        "cluster": {"worker": ["a:1", "b:2"]},
        "task": {"type": "worker", "index": 1},
    }


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "null",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": 3}, "task": {"index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"index": "x"}}',
        format_tf_config(["a:1", "b:2"], 2),
        format_tf_config(["a:1", "b:2"], -1),
    ],
)
def test_malformed_tf_config(text: str) -> None:
    with pytest.raises(InputError, match="TF_CONFIG is malformed") as caught:
        parse_tf_config(text)
    assert str(caught.value).endswith(text)


def test_a_tf_config_is_read_back() -> None:
    assert parse_tf_config(format_tf_config(["a:1", "b:2"], 1)) == (["a:1", "b:2"], 1)
    assert parse_tf_config("") == parse_tf_config("{}") == (["-"], 0)


CHIEF = {"chief": ["c:1"], "worker": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    ("task", "rank"), [(("chief", 0), 0), (("worker", 0), 1), (("worker", 1), 2)]
)
def test_a_chief_is_worker_0(task: tuple[str, int], rank: int) -> None:
    text = json.dumps({"cluster": CHIEF, "task": {"type": task[0], "index": task[1]}})
    assert parse_tf_config(text) == (["c:1", "a:1", "b:2"], rank)


def test_a_chief_may_train_alone() -> None:
    text = json.dumps({"cluster": {"chief": ["c:1"]}, "task": {"type": "chief", "index": 0}})
    assert parse_tf_config(text) == (["c:1"], 0)


@pytest.mark.parametrize(
    ("cluster", "task", "message"),
    [
        (CHIEF | {"ps": ["p:1"]}, ("worker", 0), "TF_CONFIG has a task 'ps'; training has workers"),
        (CHIEF, ("evaluator", 0), "TF_CONFIG has a task 'evaluator'; training has workers"),
        ({"chief": ["c:1", "d:1"]}, ("chief", 1), r"TF_CONFIG is malformed \(2 chiefs\)"),
        (CHIEF, ("chief", 1), r"TF_CONFIG is malformed \(task index 1 of 1 chief tasks\)"),
        (CHIEF, ("worker", 2), r"TF_CONFIG is malformed \(task index 2 of 2 worker tasks\)"),
    ],
)
def test_other_tasks_are_refused(
    cluster: dict[str, list[str]], task: tuple[str, int], message: str
) -> None:
    text = json.dumps({"cluster": cluster, "task": {"type": task[0], "index": task[1]}})
    with pytest.raises(InputError, match=message):
        parse_tf_config(text)
