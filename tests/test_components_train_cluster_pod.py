import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.train.cluster.pod import own_index, worker_hosts
from model.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
PATTERN = "train-r1-worker-0-{index}.train-r1"


def test_hosts_follow_from_the_pattern() -> None:
    assert worker_hosts(PATTERN, workers=2, port=2222) == [
        "train-r1-worker-0-0.train-r1:2222",
        "train-r1-worker-0-1.train-r1:2222",
    ]


@pytest.mark.parametrize(
    ("pattern", "workers", "port", "message"),
    [
        ("train", 2, 2222, "--host-pattern train must contain {index} once"),
        (PATTERN, 0, 2222, "--workers is 0; it must be at least 1"),
        (PATTERN, 1, 0, "--port is 0; it must be from 1 to 65535"),
    ],
)
def test_bad_options_are_named(pattern: str, workers: int, port: int, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        worker_hosts(pattern, workers=workers, port=port)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "JOB_COMPLETION_INDEX is ''; Kubernetes sets it in pods of a Job whose "
         "completionMode is Indexed"),
        ({"JOB_COMPLETION_INDEX": "-1"}, "JOB_COMPLETION_INDEX is '-1'"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX is 2, but there are only 2 workers"),
    ],
)  # fmt: skip
def test_a_bad_index_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        own_index(environment, workers=2)


def test_a_worker_without_an_index_ends_with_one_line_and_2() -> None:
    command = [sys.executable, "-m", "components.train.worker", "--records=r", "--workdir=w"]
    command += ["--config=c", f"--host-pattern={PATTERN}", "--workers=2"]
    environment = {key: os.environ[key] for key in os.environ if key != "JOB_COMPLETION_INDEX"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: JOB_COMPLETION_INDEX is ''; ")
    assert len(ended.stderr.splitlines()) == 1


def test_a_workdir_that_the_pod_does_not_mount_is_bad_input(tmp_path: Path) -> None:
    missing = tmp_path / "volume" / "train"
    command = [sys.executable, "-m", "components.train.worker", "--records", str(tmp_path)]
    command += ["--config", str(tmp_path / "c.json"), "--workdir", str(missing)]
    command += ["--host-pattern", PATTERN]
    environment = os.environ | {"JOB_COMPLETION_INDEX": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {missing} does not exist")
