"""A small version of `tests/hostile_server.py`: what must hold on any machine, however slow."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from hostile_server import add_versions, run
from serving import NAME, share_registry

from components.export.registry import RegisteredModel

pytestmark = pytest.mark.slow

OWN_MB = 250
"""Stated in docs/serving.md."""


def test_honest_clients_beside_hostile_ones(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = RegisteredModel(str(tmp_path), NAME)
    shutil.copytree(Path(share_registry(tmp_path_factory), "1"), model.version_folder(1))
    add_versions(model)
    found = asyncio.run(run(model, seconds=3.0, switches=3, scale=0.1))
    attack, switching = found["attack"], found["switching"]
    for clients in (attack["honest"], attack["health"], switching["honest"]):
        assert set(clients["statuses"]) == {"200"}
        assert clients["requests"] > 0
    assert attack["memory"]["server_max_mb"] < OWN_MB
