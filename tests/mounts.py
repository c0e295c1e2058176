"""Programs that see a file system mounted where nobody else sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_MOUNT = 'mount $1 "$0"; shift; exec "$@"'


def run_with_mount(
    folder: Path, code: str, *, mount: str = "-t tmpfs none"
) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a mount namespace of its own, with something mounted on a folder.

    Args:
      folder: where it is mounted; an existing folder.
      code: the program.
      mount: arguments of mount(8) before the folder; an empty tmpfs if not given.
    """
    command = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-ec"]
    try:
        probe = subprocess.run([*command, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1)")
    if probe.returncode:
        pytest.skip(f"no mount namespace ({probe.stderr.strip()}): allow them, or run as root")
    return subprocess.run(
        [*command, _MOUNT, str(folder), mount, sys.executable, "-c", code],
        capture_output=True,
        text=True,
    )
