from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from model.distributed.cluster import join_cluster, own_lanes, tf_config
from model.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def test_tf_config() -> None:
    assert json.loads(tf_config(["a:1", "b:2"], 1)) == {
        "cluster": {"worker": ["a:1", "b:2"]},
        "task": {"type": "worker", "index": 1},
    }


@pytest.mark.parametrize(("lanes", "count"), [(1, 1), (12, 1), (12, 2), (12, 3), (12, 12)])
def test_lanes_are_dealt_evenly_and_in_order(lanes: int, count: int) -> None:
    shares = [own_lanes(lanes, index=index, count=count) for index in range(count)]
    assert [lane for share in shares for lane in share] == list(range(lanes))
    assert {len(share) for share in shares} == {lanes // count}


@pytest.mark.parametrize(
    ("lanes", "count", "better"), [(32, 3, 33), (4, 3, 3), (1, 2, 2), (1, 3, 3), (7, 2, 8)]
)
def test_lanes_that_cannot_be_shared(lanes: int, count: int, better: int) -> None:
    with pytest.raises(InputError) as caught:
        own_lanes(lanes, index=0, count=count)
    assert str(caught.value) == (
        f"train.lanes is {lanes}, which {count} workers can't share evenly; "
        f"use --set train.lanes={better}"
    )
    own_lanes(better, index=0, count=count)


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
        tf_config(["a:1", "b:2"], 2),
        tf_config(["a:1", "b:2"], -1),
    ],
)
def test_malformed_tf_config(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match="TF_CONFIG is malformed") as caught:
        join_cluster()
    assert str(caught.value).endswith(text)


ALONE = """
import os, signal
import tensorflow as tf
from model.distributed.cluster import join_cluster
cluster = join_cluster(threads=1)
assert (cluster.rank, cluster.size, cluster.is_chief) == (0, 1, True)
assert cluster.strategy.num_replicas_in_sync == 1
assert tf.config.threading.get_intra_op_parallelism_threads() == 1
assert cluster.add([2.5, True]) == [2.5, 1.0]
print("joined", flush=True)
signal.raise_signal(signal.SIGTERM)
print("still there", flush=True)
"""


@pytest.mark.parametrize("named", [False, True])
def test_a_worker_joins_and_still_stops_when_asked(
    monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if named:  # TensorFlow then starts its services, which would keep SIGTERM to themselves
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        monkeypatch.setenv("TF_CONFIG", tf_config([f"127.0.0.1:{port}"], 0))
    worker = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert worker.stdout == "joined\n", worker.stderr
    assert worker.returncode == -15
