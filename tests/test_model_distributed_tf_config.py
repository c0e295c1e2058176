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
        "{}",
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
    assert parse_tf_config("") == (["-"], 0)
