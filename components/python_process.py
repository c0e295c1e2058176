"""The environment of the Python processes that we start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from model.distributed.proxies import LOOPBACK, keep_from_proxies

_CODE = str(Path(os.path.abspath(__file__)).parents[1])


def _module_paths() -> list[str]:
    """Returns `sys.path` without the current folder, whose modules would be imported for ours."""
    return [path for path in sys.path if path and (path == _CODE or not _is_here(path))]


def _is_here(path: str) -> bool:
    try:
        return os.path.samefile(path, os.curdir)
    except OSError:  # one of them does not exist
        return False


def python_environment() -> dict[str, str]:
    """Returns the environment of a Python process: it imports what we do, from the same places.

    It does not import from the current folder (a `json.py` or `model.py` there is the user's), and
    connects to this machine without a proxy.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(_module_paths()),
        "PYTHONSAFEPATH": "1",
    }
    keep_from_proxies(LOOPBACK, environment)
    return environment
