from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from model.distributed.tf_config import format_tf_config

ROOT = Path(__file__).resolve().parent.parent


ALONE = """
import os, signal, sys
import tensorflow as tf
sys.path.append("tests")
from listening import listening
from model.distributed.cluster import join_cluster
cluster = join_cluster(threads=1)
assert (cluster.rank, cluster.size, cluster.is_chief) == (0, 1, True)
assert cluster.strategy.num_replicas_in_sync == 1
assert tf.config.threading.get_intra_op_parallelism_threads() == 1
assert cluster.add([2.5, True]) == [2.5, 1.0]
assert listening(os.getpid()) == []
print("joined", flush=True)
signal.raise_signal(signal.SIGTERM)
print("still there", flush=True)
"""


@pytest.mark.parametrize("named", [False, True])
def test_a_worker_joins_and_still_stops_when_asked(
    monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if named:  # alone, it needs no server
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        monkeypatch.setenv("TF_CONFIG", format_tf_config([f"127.0.0.1:{port}"], 0))
    worker = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert worker.stdout == "joined\n", worker.stderr
    assert worker.returncode == -15
