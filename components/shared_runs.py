"""Files by which the runs on a shared volume know of each other.

<volume>/runs/.removed           fingerprints of removed runs, one per line
              <run>/FINGERPRINT  of its text; KFP's cache knows its output by it
              <run>/USES         runs whose output KFP's cache gave it, one per line

A removed run's output stays in KFP's cache. So the fingerprint that a new run passes to its tasks
also depends on how many runs with the same text were removed: those entries are not found again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os

from model.files import write_whole

RUNS_FOLDER = "runs"
REMOVED_FILE = ".removed"
FINGERPRINT_FILE = "FINGERPRINT"
USES_FILE = "USES"

_ANY = "*"
"""In `REMOVED_FILE`: the run's fingerprint is unknown."""


def note_use(folder: str, run_id: str) -> None:
    """Notes in a run's folder that it uses the output of another run.

    Args:
      folder: a stage's folder, `<volume>/runs/<run>/<stage>`.
      run_id: the run that uses it.
    """
    owner, runs = os.path.split(os.path.dirname(os.path.normpath(folder)))[::-1]
    if owner == run_id or os.path.basename(runs) != RUNS_FOLDER:
        return
    own = os.path.join(runs, run_id)
    known = read_uses(own)
    if owner not in known:
        os.makedirs(own, exist_ok=True)
        lines = "".join(f"{name}\n" for name in sorted({*known, owner}))
        write_whole(os.path.join(own, USES_FILE), lines)


def read_uses(run: str) -> list[str]:
    """Returns the names of the runs whose output a run uses."""
    return _read_lines(os.path.join(run, USES_FILE))


def register(run: str, fingerprint: str) -> str:
    """Notes the fingerprint of a run's text; returns the one to pass to its tasks.

    Args:
      run: the run's folder on the shared volume; empty: there is none.
      fingerprint: of the text.
    """
    if not run:
        return fingerprint
    os.makedirs(run, exist_ok=True)
    write_whole(os.path.join(run, FINGERPRINT_FILE), f"{fingerprint}\n")
    removed = _read_lines(os.path.join(os.path.dirname(run), REMOVED_FILE))
    count = removed.count(fingerprint) + removed.count(_ANY)
    return hashlib.sha256(f"{fingerprint} {count}".encode()).hexdigest() if count else fingerprint


def read_fingerprint(run: str) -> str:
    """Returns the fingerprint of a run's text; empty if an older charloom made the run."""
    return "".join(_read_lines(os.path.join(run, FINGERPRINT_FILE))[:1])


def note_removal(run: str) -> None:
    """Notes that a run's folder is about to be removed."""
    path = os.path.join(os.path.dirname(run), REMOVED_FILE)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{read_fingerprint(run) or _ANY}\n")
        file.flush()
        os.fsync(file.fileno())


def _read_lines(path: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        return file.read().split()
    return []
