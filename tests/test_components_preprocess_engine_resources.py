from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.preprocess.engine import resources
from components.preprocess.engine.resources import WORKER_BYTES, count_workers


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resources, "_CGROUP", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    sizes = {"SC_PHYS_PAGES": 10**9, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    read = resources._read
    monkeypatch.setattr(
        resources, "_read", lambda path: "" if path == "/proc/meminfo" else read(path)
    )
    return tmp_path


def test_without_limits_there_is_a_worker_for_each_core(cgroup: Path) -> None:
    assert count_workers() == 16


@pytest.mark.parametrize(
    ("share", "workers"), [("400000 100000", 4), ("250000 100000", 3), ("max 100000", 16)]
)
def test_a_container_s_share_of_the_cores(cgroup: Path, share: str, workers: int) -> None:
    (cgroup / "cpu.max").write_text(share + "\n")
    assert count_workers() == workers


@pytest.mark.parametrize(
    ("limit", "workers"),
    [("max", 16), (5 * WORKER_BYTES, 5), (5 * WORKER_BYTES - 1, 4), (WORKER_BYTES // 2, 1)],
)
def test_a_container_s_memory(cgroup: Path, limit: object, workers: int) -> None:
    (cgroup / "memory.max").write_text(f"{limit}\n")
    assert count_workers() == workers


def test_free_memory_of_the_machine(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = f"MemTotal: 99999999999 kB\nMemAvailable: {3 * WORKER_BYTES >> 10} kB\n"
    monkeypatch.setattr(resources, "_read", lambda path: free if "meminfo" in path else "")
    assert count_workers() == 2  # the rest of a kB is missing for the third
