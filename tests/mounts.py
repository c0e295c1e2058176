"""Programs that see a file system mounted where nobody else sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs $1 none "$0"; shift; exec "$@"'


def run_with_mount(
    folder: Path, code: str, *, options: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a mount namespace of its own, with an empty tmpfs mounted on a folder.

    Args:
      folder: where it is mounted; an existing folder.
      code: the program.
      options: options of the mount, such as `noexec`.
    """
    command = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-ec"]
    try:
        probe = subprocess.run([*command, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1)")
    if probe.returncode:
        pytest.skip(f"no mount namespace ({probe.stderr.strip()}): allow them, or run as root")
    chosen = f"-o{options or 'rw'}"
    return subprocess.run(
        [*command, _MOUNT, str(folder), chosen, sys.executable, "-c", code],
        capture_output=True,
        text=True,
    )
