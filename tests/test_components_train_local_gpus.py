"""How workers on one machine share its GPUs; the driver's program is a stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.train.local.gpus import share_gpus
from model.errors import InputError

TWO = "GPU 0: NVIDIA H200 (UUID: GPU-a1b2-c3)\nGPU 1: NVIDIA H200 (UUID: GPU-d4e5-f6)\n"
SLICED = """GPU 0: NVIDIA H200 (UUID: GPU-a1b2-c3)
  MIG 1g.18gb     Device  0: (UUID: MIG-0011-22)
  MIG 1g.18gb     Device  1: (UUID: MIG-3344-55)
"""


def install(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, code: int = 0) -> None:
    """Installs an `nvidia-smi` that lists GPUs."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("listed", "workers", "shares"),
    [
        (TWO, 2, ["GPU-a1b2-c3", "GPU-d4e5-f6"]),
        (SLICED, 2, ["MIG-0011-22", "MIG-3344-55"]),
        (TWO, 1, [None]),  # it takes them all
        ("NVIDIA-SMI has failed because it couldn't communicate with the driver.\n", 2, [None] * 2),
        ("", 3, [None] * 3),
    ],
)
def test_each_worker_has_gpus_of_its_own(
    listed: str,
    workers: int,
    shares: list[str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(listed, tmp_path, monkeypatch)
    given = share_gpus(workers, {})
    assert [one.get("CUDA_VISIBLE_DEVICES") for one in given] == shares


def test_a_machine_without_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert share_gpus(2, {}) == [{}, {}]


def test_more_workers_than_gpus_train_on_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(TWO, tmp_path, monkeypatch)
    assert share_gpus(3, {}) == [{"CUDA_VISIBLE_DEVICES": "-1"}] * 3
    assert capsys.readouterr().out == (
        "3 workers can't share 2 GPUs and train on CPUs; --workers 2 trains on GPUs\n"
    )


@pytest.mark.parametrize(
    ("named", "workers", "shares"),
    [
        ("0,1,2,3", 2, ["0,1", "2,3"]),
        ("3, GPU-a1 ,1", 2, ["3", "GPU-a1"]),  # the last one is left unused
        ("0,1,-1,2", 2, ["0", "1"]),
        ("", 2, [None, None]),
        ("-1", 2, [None, None]),
        ("1", 1, [None]),
    ],
)
def test_what_the_user_names_is_shared(named: str, workers: int, shares: list[str | None]) -> None:
    given = share_gpus(workers, {"CUDA_VISIBLE_DEVICES": named})
    assert [one.get("CUDA_VISIBLE_DEVICES") for one in given] == shares


def test_fewer_named_than_workers() -> None:
    with pytest.raises(InputError, match="--workers is 3, but CUDA_VISIBLE_DEVICES names only 2; "):
        share_gpus(3, {"CUDA_VISIBLE_DEVICES": "0,1"})
